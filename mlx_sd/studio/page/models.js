/** The models: what is installed by its kind, chosen for the form, and taken off the disk. */

import { button, byId, el } from "./dom.js";
import { ask, complain, toast } from "./dialogs.js";
import { Installations } from "./installations.js";
import { getJson, remove, sendJson } from "./server.js";
import { bytes } from "./words.js";

const PLACES = /** @type {Record<string, string>} */ ({
  embedded: "part of the package",
  cache: "converted",
  hub: "downloaded",
  folder: "in a folder of yours",
  file: "a file of yours",
  lora: "in the LoRA folder",
  embedding: "in the folder of embeddings",
});

/** Kinds of the catalogue in the order in which they are shown; those without entries are left out. */
const KINDS = [
  ["models", "Models"],
  ["loras", "LoRAs"],
  ["embeddings", "Embeddings"],
  ["control_networks", "Control networks"],
  ["adapters", "T2I-Adapters"],
  ["image_prompts", "IP-Adapters"],
  ["image_encoders", "Image encoders"],
  ["vaes", "Autoencoders"],
];

/** Shows the models. */
export class Models {
  /**
   * @param {import("./picture_actions.js").Context} context
   * @param {import("./events.js").Stream} stream
   * @param {() => void} changed called when other things may be installed than before
   */
  constructor(context, stream, changed) {
    this.context = context;
    this.changed = changed;
    this.lists = el("div", { class: "model-lists" });
    this.installations = new Installations(stream, () => this.refresh());
    const rescan = button({
      icon: "reset",
      words: "Look again",
      class: "button small quiet",
      on: () => sendJson("/api/models/rescan", {}).then((answer) => this.#draw(answer.installed), complain),
    });
    byId("view-models").replaceChildren(
      el(
        "div",
        { class: "models-column" },
        el("div", { class: "all-head" }, el("h1", { id: "models-title", text: "Models" }), rescan),
        el("p", {
          class: "lead",
          text:
            "The embedded model is small and draws little landscapes. For everything else, add a Stable Diffusion " +
            "checkpoint of the Hugging Face hub: 1.x, 2.x or SDXL, as safetensors.",
        }),
        this.installations.element,
        this.lists,
      ),
    );
    stream.addEventListener("models", () => this.refresh());
  }

  /** Asks for the models again. */
  async refresh() {
    try {
      const answer = await getJson("/api/models");
      this.#draw(answer.installed);
      this.installations.show(answer.installations);
      this.changed();
    } catch (error) {
      complain(error);
    }
  }

  /** @param {Record<string, any[]>} installed */
  #draw(installed) {
    const sections = KINDS.filter(([kind]) => installed[kind]?.length).map(([kind, title]) =>
      el(
        "section",
        { "aria-label": title },
        kind !== "models" && el("h2", { class: "kind-title", text: title }),
        el("div", { class: "model-list" }, ...installed[kind].map((entry) => this.#card(entry, kind === "models"))),
      ),
    );
    this.lists.replaceChildren(...sections);
  }

  /** @param {any} entry @param {boolean} usable whether it makes pictures by itself */
  #card(entry, usable) {
    const about = [entry.family, PLACES[entry.place] ?? entry.place, bytes(entry.size)].filter(Boolean).join(" · ");
    const use = button({
      words: "Use",
      label: `Use ${entry.title}`,
      class: "button small",
      on: () => {
        this.context.state.assign({ model: entry.id, width: null, height: null });
        this.context.toForm();
        toast(`${entry.title} is chosen`);
      },
    });
    const away = button({ icon: "trash", label: `Remove ${entry.title}`, on: () => this.#remove(entry) });
    const tools = [usable && use, entry.removable && away].filter(Boolean);
    return el(
      "article",
      { class: "model-card" },
      el(usable ? "h2" : "h3", { text: entry.title }),
      el("p", { class: "model-about", text: about }),
      tools.length > 0 && el("div", { class: "card-tools" }, ...tools),
    );
  }

  /** @param {any} entry */
  async #remove(entry) {
    const agreed = await ask(`Remove ${entry.title}?`, {
      detail: `Its files are deleted from this disk${entry.size ? `, ${bytes(entry.size)}` : ""}. Pictures stay.`,
      yes: "Remove",
      danger: true,
    });
    if (!agreed) return;
    try {
      await remove(`/api/models/${encodeURIComponent(entry.id)}`);
      toast(`${entry.title} is removed`);
      this.refresh();
    } catch (error) {
      complain(error);
    }
  }
}
