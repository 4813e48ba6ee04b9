/** The list of jobs: the one that runs, those that wait, moved by dragging or by buttons, and taken out. */

import { announce, button, byId, el, icon } from "./dom.js";
import { complain } from "./dialogs.js";
import { summary } from "./words.js";

/** Shows the queue and keeps it up to date. */
export class Queue {
  #dragged = "";

  /** @param {import("./jobs.js").Jobs} jobs @param {() => void} showRunning */
  constructor(jobs, showRunning) {
    this.jobs = jobs;
    this.showRunning = showRunning;
    this.body = byId("queue-body");
    jobs.addEventListener("queue", () => this.#draw());
    jobs.addEventListener("job", (event) => this.#showProgress(/** @type {CustomEvent} */ (event).detail));
    jobs.addEventListener("preview", (event) => {
      const job = jobs.byId.get(/** @type {CustomEvent} */ (event).detail.id);
      if (job) this.#showProgress(job);
    });
    this.#draw();
  }

  #draw() {
    const { running, waiting } = this.jobs;
    byId("queue-count").textContent = running || waiting.length ? `${waiting.length + (running ? 1 : 0)}` : "";
    const active = document.activeElement;
    const focused =
      active instanceof HTMLElement ? { id: active.closest("li")?.dataset.job, act: active.dataset.act } : null;
    if (!running && !waiting.length) {
      this.body.replaceChildren(
        el("p", {
          class: "panel-empty",
          text: "Nothing waits. Press Generate as often as you like: pictures are made one after the other.",
        }),
      );
      return;
    }
    const rows = waiting.map((job, index) => this.#row(job, index, waiting.length));
    this.body.replaceChildren(el("ol", { class: "queue-list" }, running && this.#running(running), ...rows));
    if (focused?.id) this.body.querySelector(`[data-job="${focused.id}"] [data-act="${focused.act}"]`)?.focus();
  }

  /** @param {import("./jobs.js").Job} job */
  #running(job) {
    return el(
      "li",
      { class: "queue-item running", "data-job": job.id },
      el("span", { class: "ring", "aria-hidden": "true" }),
      el("button", { class: "item-show", type: "button", on: { click: this.showRunning } }, itemWords(job)),
      button({
        icon: "close",
        label: `Cancel: ${nameOf(job)}`,
        class: "icon-button tiny",
        "data-act": "cancel",
        on: () => this.#cancel(job),
      }),
    );
  }

  /** @param {import("./jobs.js").Job} job @param {number} index @param {number} count */
  #row(job, index, count) {
    const mover = (/** @type {"up" | "down"} */ way, /** @type {number} */ step, /** @type {boolean} */ disabled) =>
      button({
        icon: way,
        label: `Move ${way}: ${nameOf(job)}`,
        class: "icon-button tiny",
        "data-act": way,
        disabled,
        on: () => this.#move(job, index + step),
      });
    const item = el(
      "li",
      { class: "queue-item", draggable: "true", "data-job": job.id },
      el("span", { class: "grip", "aria-hidden": "true" }, icon("drag")),
      itemWords(job),
      el(
        "span",
        { class: "item-tools" },
        mover("up", -1, index === 0),
        mover("down", 1, index === count - 1),
        button({
          icon: "close",
          label: `Take out: ${nameOf(job)}`,
          class: "icon-button tiny",
          "data-act": "cancel",
          on: () => this.#cancel(job),
        }),
      ),
    );
    item.addEventListener("dragstart", (/** @type {DragEvent} */ event) => {
      this.#dragged = job.id;
      event.dataTransfer?.setData("text/plain", job.id);
      item.classList.add("dragged");
    });
    item.addEventListener("dragend", () => item.classList.remove("dragged"));
    item.addEventListener("dragover", (/** @type {DragEvent} */ event) => {
      if (!this.#dragged) return;
      event.preventDefault();
      item.classList.add("target");
    });
    item.addEventListener("dragleave", () => item.classList.remove("target"));
    item.addEventListener("drop", (/** @type {DragEvent} */ event) => {
      event.preventDefault();
      item.classList.remove("target");
      const dragged = this.jobs.byId.get(this.#dragged);
      if (dragged && dragged.id !== job.id) this.#move(dragged, index);
      this.#dragged = "";
    });
    return item;
  }

  /** @param {import("./jobs.js").Job} job */
  #showProgress(job) {
    const item = this.body.querySelector(`[data-job="${job.id}"]`);
    const share = job.evaluations ? job.evaluation / job.evaluations : 0;
    item?.style.setProperty("--share", String(share));
  }

  /** @param {import("./jobs.js").Job} job @param {number} place */
  async #move(job, place) {
    try {
      await this.jobs.move(job.id, place);
      announce(`Moved to place ${place + 1}`);
    } catch (error) {
      complain(error);
      this.jobs.refresh().catch(complain);
    }
  }

  /** @param {import("./jobs.js").Job} job */
  #cancel(job) {
    this.jobs.cancel(job.id).catch(complain);
  }
}

/** @param {import("./jobs.js").Job} job */
const nameOf = (job) => String(job.request.prompt || "picture without a prompt").slice(0, 60);

/** @param {import("./jobs.js").Job} job */
const itemWords = (job) =>
  el(
    "span",
    { class: "item-words" },
    el("span", { class: "item-prompt", text: nameOf(job) }),
    el("span", { class: "item-about", text: summary(job.request) }),
  );
