/** The gallery: search, tiles, and two pictures picked to be compared. */

import { button, byId, debounced, el, icon, slider } from "./dom.js";
import { complain } from "./dialogs.js";
import { openComparison } from "./comparison.js";
import { GalleryList } from "./gallery_list.js";
import { moveToTrash } from "./picture_actions.js";
import { openPicture } from "./picture_dialog.js";
import { galleryPath, showPicture } from "./server.js";
import { TileGrid } from "./tile_grid.js";
import { gridButtons } from "./xy_grids.js";

/** Shows the gallery. */
export class Gallery {
  list = new GalleryList();
  /** @type {string[]} names of the pictures picked, the older one first */
  #picked = [];

  /** @param {import("./picture_actions.js").Context} context @param {import("./events.js").Stream} stream */
  constructor(context, stream) {
    this.context = context;
    const root = byId("view-gallery");
    this.count = el("span", { class: "count" });
    this.search = el("input", {
      class: "input search",
      type: "search",
      placeholder: "Search in prompts and settings",
      "aria-label": "Search in prompts and settings",
    });
    const size = slider({
      label: "Size of the tiles",
      min: 90,
      max: 320,
      step: 10,
      value: localStorage.getItem("mlx-sd-tile") ?? 170,
    });
    this.grids = el("div", { class: "grid-buttons" });
    this.empty = el("div", { class: "gallery-empty", hidden: true });
    const scroller = el("div", { class: "gallery-scroll", tabindex: -1 }, this.grids, this.empty);
    this.bar = el("div", { class: "picked-bar", hidden: true, role: "region", "aria-label": "Pictures picked" });
    root.replaceChildren(
      el(
        "header",
        { class: "gallery-head" },
        el("h1", { id: "gallery-title", text: "Gallery" }),
        this.count,
        el("span", { class: "search-box" }, icon("search"), this.search),
        el("span", { class: "tile-size" }, icon("grid"), size),
      ),
      scroller,
      this.bar,
    );
    this.grid = new TileGrid(scroller, {
      make: () => this.#make(),
      fill: (tile, index) => this.#fill(tile, index),
      range: (_, last) => this.list.need(last).catch(complain),
    });
    this.grid.smallest = Number(size.value);
    size.addEventListener("input", () => {
      this.grid.smallest = Number(size.value);
      localStorage.setItem("mlx-sd-tile", size.value);
      this.grid.layout();
    });
    this.search.addEventListener(
      "input",
      debounced(() => this.#restart(this.search.value.trim()), 250),
    );
    this.list.addEventListener("change", () => this.#show());
    const soon = debounced(() => this.list.freshen().catch(complain), 400);
    stream.addEventListener("state", (event) => {
      if (/** @type {CustomEvent} */ (event).detail.state === "open") soon(); // events were missed before
    });
    stream.addEventListener("gallery", (event) => {
      const { removed } = /** @type {CustomEvent} */ (event).detail;
      if (removed) this.forget(removed);
      else soon();
    });
    this.grid.sheet.addEventListener("keydown", (event) => this.#keys(event));
  }

  /** Shows the gallery as it is now: the view was opened. */
  open() {
    this.grids.replaceChildren(...gridButtons(this.context));
    if (!this.list.known) this.#restart();
    this.grid.layout();
  }

  /** Takes a picture out of the view. @param {string} name */
  forget(name) {
    this.list.remove(name);
    this.#pick(this.#picked.filter((other) => other !== name));
  }

  /** Begins to compare: the next picture that is picked is the second. @param {string} name */
  pickFirst(name) {
    this.#pick([name]);
  }

  /** @param {string} [search] */
  #restart(search) {
    return this.list.restart(search).catch(complain);
  }

  #show() {
    const { total, entries, search } = this.list;
    this.count.textContent = total ? new Intl.NumberFormat().format(total) : "";
    this.empty.hidden = entries.length > 0;
    if (!entries.length) {
      this.empty.replaceChildren(
        el("img", { src: "/page/icon.svg", alt: "", width: 72, height: 72 }),
        el("h2", { text: search ? "No picture has these words" : "The walls are empty" }),
        el("p", {
          text: search
            ? "The search looks into prompts, models, samplers and all other settings."
            : "Every picture that you make hangs here, with all that made it.",
        }),
        search
          ? button({
              words: "Show all",
              class: "button",
              on: () => {
                this.search.value = "";
                this.#restart("");
              },
            })
          : el("a", { class: "button primary", href: "#create", text: "Make a picture" }),
      );
    }
    this.grid.setCount(total);
    this.grid.refresh();
  }

  #make() {
    const image = el("img", { alt: "", decoding: "async" });
    image.addEventListener("load", () => image.classList.add("ready"));
    const open = button({ label: "Picture", class: "tile-open", on: () => this.#open(this.grid.indexOf(tile)) });
    open.removeAttribute("title");
    open.append(image);
    const pick = button({
      icon: "compare",
      label: "Pick to compare",
      class: "tile-pick",
      tabindex: -1,
      on: () => this.#toggle(this.grid.indexOf(tile)),
    });
    const tile = el("div", { class: "tile" }, open, pick);
    return tile;
  }

  /** @param {HTMLElement} tile @param {number} index */
  #fill(tile, index) {
    const entry = this.list.entries[index];
    const [open, pick] = tile.querySelectorAll("button");
    const image = /** @type {HTMLImageElement} */ (tile.querySelector("img"));
    tile.classList.toggle("blank", !entry);
    const picked = Boolean(entry) && this.#picked.includes(entry.name);
    tile.classList.toggle("picked", picked);
    pick.setAttribute("aria-pressed", String(picked));
    if (!entry) {
      image.removeAttribute("src");
      tile.dataset.name = "";
      open.setAttribute("aria-label", "Picture that is still being looked up");
      return;
    }
    if (tile.dataset.name === entry.name) return;
    if (this.grid.isFast) {
      image.removeAttribute("src");
      image.classList.remove("ready");
      tile.dataset.name = "";
      return; // filled when the tiles stand still
    }
    tile.dataset.name = entry.name;
    open.setAttribute("aria-label", entry.prompt || entry.request?.prompt || entry.name);
    image.classList.remove("ready");
    showPicture(image, galleryPath(entry.name, "thumbnail", entry.version));
  }

  /** @param {number | null} index */
  #open(index) {
    if (index === null || !this.list.entries[index]) return;
    openPicture(index, this.list, this.context, (last) =>
      this.grid.focus(Math.min(last, this.list.entries.length - 1)),
    );
  }

  /** @param {number | null} index */
  #toggle(index) {
    const entry = index === null ? null : this.list.entries[index];
    if (!entry) return;
    const others = this.#picked.filter((name) => name !== entry.name);
    this.#pick(others.length < this.#picked.length ? others : [...others.slice(-1), entry.name]);
  }

  /** @param {string[]} names */
  #pick(names) {
    this.#picked = names;
    this.bar.hidden = !names.length;
    const pictures = names.map((name) => {
      const image = el("img", { alt: "", class: "picked-picture" });
      showPicture(image, galleryPath(name, "thumbnail"));
      return image;
    });
    this.bar.replaceChildren(
      ...pictures,
      el("p", { text: names.length < 2 ? "Pick a second picture to compare" : "Two pictures" }),
      button({
        words: "Compare",
        class: "button primary small",
        disabled: names.length < 2,
        on: () => openComparison(names[0], names[1]),
      }),
      button({ icon: "close", label: "Pick none", on: () => this.#pick([]) }),
    );
    this.grid.refresh();
  }

  /** @param {KeyboardEvent} event */
  #keys(event) {
    const index = this.grid.indexOf(event.target);
    const entry = index === null ? null : this.list.entries[index];
    if (!entry || event.ctrlKey || event.metaKey) return;
    if (event.key === "c") this.#toggle(index);
    if (event.key === "Delete" || event.key === "Backspace")
      moveToTrash(entry.name, this.context).then(() =>
        this.grid.focus(Math.min(index ?? 0, this.list.entries.length - 1)),
      );
  }
}
