/** The models: what is installed, adding one of the hub by its name, and taking one off the disk. */

import { button, byId, el } from "./dom.js";
import { ask, complain, toast } from "./dialogs.js";
import { field, showError } from "./fields.js";
import { getJson, remove, sendJson, ServerError } from "./server.js";
import { bytes } from "./words.js";

const HUB_ID = /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/;
const PLACES = /** @type {Record<string, string>} */ ({
  embedded: "part of the package",
  cache: "converted",
  hub: "downloaded",
  folder: "in a folder of yours",
  file: "a file of yours",
});

/** @typedef {{id: string, state: string, name?: string, hub?: string, done: number, total: number, error: string | null}} Installation */

/** Shows the models. */
export class Models {
  /** @type {Map<string, Installation>} */
  #installations = new Map();

  /** @param {import("./picture_actions.js").Context} context @param {import("./events.js").Stream} stream @param {() => void} changed */
  constructor(context, stream, changed) {
    this.context = context;
    this.changed = changed;
    this.list = el("div", { class: "model-list" });
    this.running = el("div", { class: "installations" });
    byId("view-models").replaceChildren(
      el(
        "div",
        { class: "models-column" },
        el("h1", { id: "models-title", text: "Models" }),
        el("p", {
          class: "lead",
          text: "The embedded model is small and draws little landscapes. Add a Stable Diffusion checkpoint of the Hugging Face hub for everything else: 1.x, 2.x or SDXL, as safetensors.",
        }),
        this.#addForm(),
        this.running,
        this.list,
      ),
    );
    stream.addEventListener("installation", (event) => this.#progress(/** @type {CustomEvent} */ (event).detail));
    stream.addEventListener("models", () => this.refresh());
  }

  /** Asks for the models again. */
  async refresh() {
    try {
      const answer = await getJson("/api/models");
      for (const each of answer.installations ?? []) this.#installations.set(each.id, each);
      this.#draw(answer.models ?? answer);
      this.#drawInstallations();
      this.changed();
    } catch (error) {
      complain(error);
    }
  }

  #addForm() {
    const input = el("input", {
      class: "input",
      type: "text",
      placeholder: "owner/name",
      spellcheck: "false",
      autocapitalize: "off",
      maxlength: 200,
    });
    const add = button({ icon: "add", words: "Add", class: "button primary", type: "submit" });
    const form = el(
      "form",
      { class: "add-model", novalidate: true },
      field("hub", input, {
        title: "Add a model of the hub",
        body: el("div", { class: "joined-row" }, input, add),
        wide: true,
        help: "Its name on huggingface.co, such as stabilityai/stable-diffusion-2-1-base. This is the only thing that the studio loads from the network",
      }).element,
    );
    form.addEventListener("submit", async (/** @type {Event} */ event) => {
      event.preventDefault();
      const hub = input.value.trim();
      if (!HUB_ID.test(hub)) {
        showError("hub", "A name of the hub has the form owner/name");
        return;
      }
      try {
        add.disabled = true;
        const answer = await sendJson("/api/models", { hub });
        if (answer?.id) this.#progress({ state: "waiting", done: 0, total: 0, error: null, name: hub, ...answer });
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
  #progress(installation) {
    const before = this.#installations.get(installation.id);
    this.#installations.set(installation.id, { ...before, ...installation });
    this.#drawInstallations();
    if (installation.state === "done" && before?.state !== "done") {
      toast(`${nameOf({ ...before, ...installation })} is installed`);
      this.refresh();
    }
    if (installation.state === "failed" && before?.state !== "failed")
      toast(installation.error ?? "The model cannot be installed", { kind: "error" });
  }

  #drawInstallations() {
    const rows = [...this.#installations.values()]
      .filter((each) => each.state !== "done")
      .map((each) => {
        const fill = el("span", { class: "progress-fill" });
        const share = each.total ? each.done / each.total : 0;
        const bar = el(
          "div",
          {
            class: "progress",
            role: "progressbar",
            "aria-label": `Progress of ${nameOf(each)}`,
            "aria-valuemin": 0,
            "aria-valuemax": 100,
            "aria-valuenow": Math.round(100 * share),
          },
          fill,
        );
        bar.style.setProperty("--share", String(share));
        const amount = each.total ? `${bytes(each.done)} of ${bytes(each.total)}` : "";
        return el(
          "div",
          { class: `installation ${each.state}` },
          el(
            "p",
            {},
            el("b", { text: nameOf(each) }),
            el("span", { text: ` ${each.error ?? [each.state, amount].filter(Boolean).join(" · ")}` }),
          ),
          each.state !== "failed" && bar,
          each.state === "failed" &&
            button({
              icon: "close",
              label: "Close the message",
              class: "icon-button tiny",
              on: () => {
                this.#installations.delete(each.id);
                this.#drawInstallations();
              },
            }),
        );
      });
    this.running.replaceChildren(...rows);
  }

  /** @param {any[]} models */
  #draw(models) {
    this.list.replaceChildren(...models.map((model) => this.#card(model)));
  }

  /** @param {any} model */
  #card(model) {
    const about = [model.family, PLACES[model.place] ?? model.place, bytes(model.size)].filter(Boolean).join(" · ");
    const tools = el("div", { class: "card-tools" });
    if (model.usable !== false)
      tools.append(
        button({
          words: "Use",
          class: "button small",
          on: () => {
            this.context.state.assign({ model: model.id, width: null, height: null });
            this.context.toForm();
            toast(`${model.title} is chosen`);
          },
        }),
      );
    if (model.convertible)
      tools.append(button({ words: "Convert", class: "button small", on: () => this.#convert(model) }));
    if (model.removable)
      tools.append(button({ icon: "trash", label: `Remove ${model.title}`, on: () => this.#remove(model) }));
    return el(
      "article",
      { class: "model-card" },
      el("h2", { text: model.title ?? model.name }),
      el("p", { class: "model-about", text: about }),
      tools,
    );
  }

  /** @param {any} model */
  async #convert(model) {
    try {
      const answer = await sendJson("/api/models", { convert: model.id });
      if (answer?.id)
        this.#progress({ state: "waiting", done: 0, total: 0, error: null, name: model.title, ...answer });
    } catch (error) {
      complain(error);
    }
  }

  /** @param {any} model */
  async #remove(model) {
    const agreed = await ask(`Remove ${model.title}?`, {
      detail: `Its files are deleted from this disk${model.size ? `, ${bytes(model.size)}` : ""}. Pictures stay.`,
      yes: "Remove",
      danger: true,
    });
    if (!agreed) return;
    try {
      await remove(`/api/models/${encodeURIComponent(model.id)}`);
      toast(`${model.title} is removed`);
      this.refresh();
    } catch (error) {
      complain(error);
    }
  }
}

/** @param {Partial<Installation>} installation */
const nameOf = (installation) => installation.name ?? installation.hub ?? "The model";
