/** The newest pictures beside the stage. */

import { button, byId, el } from "./dom.js";
import { complain } from "./dialogs.js";
import { details } from "./picture_dialog.js";
import { galleryPath, getJson, showPicture } from "./server.js";

const COUNT = 24;

/** Shows the newest pictures; one that is pressed goes to the stage. */
export class Recent {
  /** @type {Array<{name: string, version?: string, prompt?: string | null}>} */
  #entries = [];

  /** @param {import("./stage.js").Stage} stage */
  constructor(stage) {
    this.stage = stage;
    this.body = byId("recent-body");
  }

  /** Asks for the newest pictures. @param {{stage?: boolean}} [options] stage: the newest one fills an empty stage */
  async refresh({ stage = false } = {}) {
    const { pictures } = await getJson(`/api/gallery?limit=${COUNT}`);
    this.#entries = pictures;
    this.#draw();
    if (!stage || !pictures.length || !this.stage.isEmpty) return;
    const { name } = pictures[0];
    const { request } = await details(name);
    if (this.stage.isEmpty) this.stage.show(name, request ?? {}); // a job may have begun while the answer was awaited
  }

  /** Puts a new picture in front. @param {string} name @param {string | null} prompt */
  add(name, prompt) {
    this.#entries = [{ name, prompt }, ...this.#entries.filter((entry) => entry.name !== name)].slice(0, COUNT);
    this.#draw();
  }

  /** @param {string} name */
  forget(name) {
    this.#entries = this.#entries.filter((entry) => entry.name !== name);
    this.#draw();
  }

  #draw() {
    if (!this.#entries.length) {
      this.body.replaceChildren(el("p", { class: "panel-empty", text: "Your pictures appear here." }));
      return;
    }
    const old = new Map(
      [...this.body.querySelectorAll("[data-name]")].map((tile) => [
        /** @type {HTMLElement} */ (tile).dataset.name,
        tile,
      ]),
    );
    this.body.replaceChildren(
      el("div", { class: "recent-grid" }, ...this.#entries.map((entry) => old.get(entry.name) ?? this.#tile(entry))),
    );
  }

  /** @param {{name: string, version?: string, prompt?: string | null}} entry */
  #tile({ name, prompt, version }) {
    const image = el("img", { alt: "", loading: "lazy" });
    showPicture(image, galleryPath(name, "thumbnail", version));
    const tile = button({
      label: prompt || name,
      class: "recent-tile",
      "data-name": name,
      on: () => this.#show(name).catch(complain),
    });
    tile.append(image);
    return tile;
  }

  /** @param {string} name */
  async #show(name) {
    const { request } = await details(name);
    this.stage.show(name, request ?? {});
  }
}
