/** The pictures of the gallery as far as the page has asked for them, newest first. */

import { getJson } from "./server.js";

const PAGE = 200; // the most that the server gives at once

/**
 * @typedef {{name: string, width?: number, height?: number, version?: string, prompt?: string | null, request?: Record<string, any>}} Entry
 */

/** Holds entries and tells of "change" when there are more, fewer or others. */
export class GalleryList extends EventTarget {
  /** @type {Entry[]} */
  entries = [];
  /** How many there are in all, as far as known. */
  total = 0;
  search = "";
  /** Whether the first answer has come. */
  known = false;
  #next = /** @type {string | null} */ (null);
  #ended = false;
  #busy = false;
  #start = /** @type {Promise<void> | null} */ (null);
  #needed = PAGE;
  #generation = 0;

  /** Begins again, with other words to search for where they are given. @param {string} [search] */
  restart(search = this.search) {
    this.#start = this.#restart(search);
    return this.#start;
  }

  /** @param {string} search */
  async #restart(search) {
    this.search = search;
    this.#generation++;
    this.#busy = false;
    const generation = this.#generation;
    const answer = await this.#ask(null);
    if (generation !== this.#generation) return;
    this.entries = [];
    this.known = true;
    this.#add(answer);
  }

  /** Puts new pictures in front, and leaves the others as they are; nothing where none were asked for yet. */
  async freshen() {
    if (!this.#start) return;
    await this.#start; // its answer may be older than the picture that is new
    const generation = this.#generation;
    const { pictures, total } = await this.#ask(null);
    if (generation !== this.#generation) return;
    const names = new Set(this.entries.map((entry) => entry.name));
    const count = pictures.findIndex((/** @type {Entry} */ entry) => names.has(entry.name));
    if (count < 0) return this.restart(); // more than a page: begin again
    this.entries.unshift(...pictures.slice(0, count));
    this.total = total;
    this.dispatchEvent(new Event("change"));
  }

  /** Asks for entries until `index` is there. @param {number} index */
  async need(index) {
    this.#needed = Math.max(PAGE, index + PAGE / 2);
    if (this.#busy || this.#ended || !this.known) return;
    this.#busy = true;
    const generation = this.#generation;
    try {
      while (!this.#ended && this.entries.length < this.#needed) {
        const answer = await this.#ask(this.#next);
        if (generation !== this.#generation) return;
        this.#add(answer);
      }
    } finally {
      if (generation === this.#generation) this.#busy = false;
    }
  }

  /** Takes a picture out. @param {string} name */
  remove(name) {
    const before = this.entries.length;
    this.entries = this.entries.filter((entry) => entry.name !== name);
    if (this.entries.length === before) return;
    this.total -= 1;
    this.dispatchEvent(new Event("change"));
  }

  /** @param {string | null} after */
  #ask(after) {
    const query = new URLSearchParams({ limit: String(PAGE) });
    if (after) query.set("after", after);
    if (this.search) query.set("search", this.search);
    return getJson(`/api/gallery?${query}`);
  }

  /** @param {{pictures: Entry[], next: string | null, total?: number}} answer */
  #add({ pictures, next, total }) {
    this.entries.push(...pictures);
    this.#next = next ?? null;
    this.#ended = !next;
    this.total = total ?? this.entries.length + (this.#ended ? 0 : PAGE);
    if (this.#ended) this.total = this.entries.length;
    this.dispatchEvent(new Event("change"));
  }
}
