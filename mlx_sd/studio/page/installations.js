/** Models of the hub that are being installed: asked for by name, followed while they are loaded and converted. */

import { button, el } from "./dom.js";
import { complain, toast } from "./dialogs.js";
import { field, showError } from "./fields.js";
import { remove, sendJson, ServerError } from "./server.js";
import { bytes } from "./words.js";

const HUB_ID = /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/;
const ENDS = ["done", "failed", "cancelled"];

/**
 * @typedef {{id: string, hub: string, state: string, done: number, total: number, error: string | null}} Installation
 * done and total are bytes
 */

/** Shows a form and the installations. */
export class Installations {
  /** @type {Map<string, Installation>} */
  #byId = new Map();

  /** @param {import("./events.js").Stream} stream @param {() => void} installed called when a model was added */
  constructor(stream, installed) {
    this.installed = installed;
    this.rows = el("div", { class: "installations" });
    this.element = el("div", { class: "models-add" }, this.#form(), this.rows);
    stream.addEventListener("installation", (event) => this.#take(/** @type {CustomEvent} */ (event).detail));
  }

  /** Shows installations as the server lists them. @param {Installation[]} installations */
  show(installations) {
    this.#byId = new Map(installations.map((each) => [each.id, each]));
    this.#draw();
  }

  #form() {
    const input = el("input", {
      class: "input",
      type: "text",
      placeholder: "owner/name",
      spellcheck: "false",
      autocapitalize: "off",
      maxlength: 200,
    });
    const add = button({ icon: "add", words: "Add", class: "button primary", type: "submit" });
    const result = field("hub", input, {
      title: "Add a model of the hub",
      body: el("div", { class: "joined-row" }, input, add),
      wide: true,
      help:
        "Its name on huggingface.co, such as stabilityai/stable-diffusion-2-1-base. " +
        "Nothing else is ever loaded from the network",
    });
    const form = el("form", { class: "add-model", novalidate: true }, result.element);
    form.addEventListener("submit", async (/** @type {Event} */ event) => {
      event.preventDefault();
      result.setError(null);
      const hub = input.value.trim();
      if (!HUB_ID.test(hub)) {
        showError("hub", "A name of the hub has the form owner/name");
        return;
      }
      add.disabled = true;
      try {
        const { installation } = await sendJson("/api/models", { hub });
        this.#take(installation);
        input.value = "";
      } catch (error) {
        if (!(error instanceof ServerError) || !showError("hub", error.message)) complain(error);
      } finally {
        add.disabled = false;
      }
    });
    return form;
  }

  /** @param {Installation} installation */
  #take(installation) {
    const before = this.#byId.get(installation.id)?.state;
    this.#byId.set(installation.id, installation);
    this.#draw();
    if (before === installation.state) return;
    if (installation.state === "done") {
      toast(`${installation.hub} is installed`);
      this.installed();
    }
    if (installation.state === "failed")
      toast(installation.error ?? "The model cannot be installed", { kind: "error" });
  }

  #draw() {
    const shown = [...this.#byId.values()].filter((each) => each.state !== "done" && each.state !== "cancelled");
    this.rows.replaceChildren(...shown.map((each) => this.#row(each)));
  }

  /** @param {Installation} installation */
  #row({ id, hub, state, done, total, error }) {
    const share = total ? done / total : 0;
    const bar = el(
      "div",
      {
        class: "progress",
        role: "progressbar",
        "aria-label": `Progress of ${hub}`,
        "aria-valuemin": 0,
        "aria-valuemax": 100,
        "aria-valuenow": Math.round(100 * share),
        style: { "--share": share },
      },
      el("span", { class: "progress-fill" }),
    );
    const amount = total ? `${bytes(done)} of ${bytes(total)}` : "";
    const words = error ?? [state, amount].filter(Boolean).join(" · ");
    const isOver = ENDS.includes(state);
    const end = button({
      icon: "close",
      label: isOver ? `Forget ${hub}` : `Stop ${hub}`,
      class: "icon-button tiny",
      on: () =>
        remove(`/api/installations/${encodeURIComponent(id)}`).then(() => {
          this.#byId.delete(id);
          this.#draw();
        }, complain),
    });
    return el(
      "div",
      { class: `installation ${state}` },
      el("div", { class: "installation-words" }, el("p", {}, el("b", { text: hub }), ` ${words}`), end),
      !isOver && bar,
    );
  }
}
