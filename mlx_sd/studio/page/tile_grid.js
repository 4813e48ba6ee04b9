/** A grid of tiles of which only those near the window are in the page, however many there are. */

const GAP = 6;
const FAST = 2; // pixels in a millisecond, above which pictures would be gone before they are seen
const SETTLED = 90; // milliseconds after which scrolling counts as over
const BEYOND = 3; // rows above and below the window that are in the page too

/** Lays out and recycles tiles in an element that scrolls. */
export class TileGrid {
  /** @type {Map<number, HTMLElement>} tiles in the page, by their index */
  #shown = new Map();
  /** @type {HTMLElement[]} */
  #free = [];
  #count = 0;
  #columns = 1;
  #side = 160;
  #frame = 0;
  #focus = 0;
  #before = { top: 0, time: 0 }; // of the last frame
  #timer = 0;
  /** Whether the tiles run by so fast that their pictures are not worth loading. */
  isFast = false;

  /**
   * @param {HTMLElement} scroller
   * @param {{make: () => HTMLElement, fill: (tile: HTMLElement, index: number) => void, range: (first: number, last: number) => void}} options
   *   make: a new tile; fill: shows entry `index` in a tile; range: told which entries are near the window
   */
  constructor(scroller, { make, fill, range }) {
    this.scroller = scroller;
    this.make = make;
    this.fill = fill;
    this.range = range;
    this.sheet = document.createElement("div");
    this.sheet.className = "tile-sheet";
    this.sheet.setAttribute("role", "list");
    scroller.append(this.sheet);
    this.smallest = 160;
    scroller.addEventListener("scroll", () => this.#soon(), { passive: true });
    new ResizeObserver(() => this.layout()).observe(scroller);
    this.sheet.addEventListener("keydown", (event) => this.#walk(event));
    this.sheet.addEventListener("focusin", (event) => {
      const index = this.indexOf(event.target);
      if (index !== null) this.#setFocus(index);
    });
  }

  /** How many entries there are. @param {number} count */
  setCount(count) {
    this.#count = count;
    this.#focus = Math.max(0, Math.min(this.#focus, count - 1));
    this.layout();
  }

  /** Shows the tiles again whose entries have changed, all of them without an argument. @param {(index: number) => boolean} [which] */
  refresh(which = () => true) {
    for (const [index, tile] of this.#shown) if (which(index)) this.#fill(tile, index);
  }

  /** Returns the index of the tile that an element lies in. @param {EventTarget | null} target @returns {number | null} */
  indexOf(target) {
    const tile = target instanceof Element ? target.closest("[data-index]") : null;
    return tile instanceof HTMLElement ? Number(tile.dataset.index) : null;
  }

  /** Computes the size of the tiles anew: the window or the wish has changed. */
  layout() {
    const width = this.sheet.clientWidth;
    if (!width) return;
    this.#columns = Math.max(2, Math.floor((width + GAP) / (this.smallest + GAP)));
    this.#side = (width - GAP * (this.#columns - 1)) / this.#columns;
    const rows = Math.ceil(this.#count / this.#columns);
    this.sheet.style.setProperty("height", `${Math.max(0, rows * this.#step - GAP)}px`);
    this.sheet.style.setProperty("--side", `${this.#side}px`);
    for (const [index, tile] of this.#shown) this.#place(tile, index);
    this.#update();
  }

  get #step() {
    return this.#side + GAP;
  }

  #soon() {
    if (this.#frame) return;
    this.#frame = requestAnimationFrame((time) => {
      this.#frame = 0;
      this.#measure(time);
      this.#update();
    });
  }

  /** Notices how fast the tiles run by, and shows their pictures once they stand. @param {number} time */
  #measure(time) {
    const top = this.scroller.scrollTop;
    const speed = Math.abs(top - this.#before.top) / Math.max(1, time - this.#before.time);
    this.#before = { top, time };
    const wasFast = this.isFast;
    this.isFast = speed > FAST;
    clearTimeout(this.#timer);
    if (!this.isFast && wasFast) this.refresh();
    if (!this.isFast) return;
    this.#timer = setTimeout(() => {
      this.isFast = false;
      this.refresh();
    }, SETTLED);
  }

  #update() {
    const top = this.scroller.scrollTop - this.sheet.offsetTop;
    const firstRow = Math.max(0, Math.floor(top / this.#step) - BEYOND);
    const lastRow = Math.floor((top + this.scroller.clientHeight) / this.#step) + BEYOND;
    const first = firstRow * this.#columns;
    const last = Math.min(this.#count, (lastRow + 1) * this.#columns) - 1;
    const keepsFocus = this.sheet.contains(document.activeElement) ? this.#focus : -1;
    for (const [index, tile] of this.#shown) {
      if ((index >= first && index <= last) || (index === keepsFocus && index < this.#count)) continue;
      this.#shown.delete(index);
      tile.hidden = true;
      this.#free.push(tile);
    }
    for (let index = first; index <= last; index++) if (!this.#shown.has(index)) this.#show(index);
    if (last >= first) this.range(first, last);
  }

  /** @param {number} index */
  #show(index) {
    let tile = this.#free.pop();
    if (!tile) {
      tile = this.make();
      tile.setAttribute("role", "listitem");
      this.sheet.append(tile);
    }
    tile.hidden = false;
    this.#shown.set(index, tile);
    this.#place(tile, index);
    this.#fill(tile, index);
  }

  /** @param {HTMLElement} tile @param {number} index */
  #place(tile, index) {
    const x = (index % this.#columns) * this.#step;
    const y = Math.floor(index / this.#columns) * this.#step;
    tile.style.setProperty("left", `${x}px`);
    tile.style.setProperty("top", `${y}px`);
  }

  /** @param {HTMLElement} tile @param {number} index */
  #fill(tile, index) {
    tile.dataset.index = String(index);
    tile.setAttribute("aria-posinset", String(index + 1));
    tile.setAttribute("aria-setsize", String(this.#count));
    this.fill(tile, index);
    this.#markFocus(tile, index);
  }

  /** @param {HTMLElement} tile @param {number} index */
  #markFocus(tile, index) {
    const opener = tile.querySelector("button");
    if (opener) opener.tabIndex = index === this.#focus ? 0 : -1;
  }

  /** @param {number} index */
  #setFocus(index) {
    const before = this.#focus;
    this.#focus = index;
    for (const each of [before, index]) {
      const tile = this.#shown.get(each);
      if (tile) this.#markFocus(tile, each);
    }
  }

  /** Moves the focus by the arrow keys, Home, End and the page keys. @param {KeyboardEvent} event */
  #walk(event) {
    const page = this.#columns * Math.max(1, Math.floor(this.scroller.clientHeight / this.#step));
    const steps = /** @type {Record<string, number>} */ ({
      ArrowRight: 1,
      ArrowLeft: -1,
      ArrowDown: this.#columns,
      ArrowUp: -this.#columns,
      PageDown: page,
      PageUp: -page,
      Home: -this.#count,
      End: this.#count,
    });
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    this.focus(Math.max(0, Math.min(this.#count - 1, this.#focus + step)));
  }

  /** Scrolls to an entry and gives it the focus. @param {number} index */
  focus(index) {
    const top = Math.floor(index / this.#columns) * this.#step + this.sheet.offsetTop;
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop) this.scroller.scrollTop = top - GAP;
    else if (top + this.#step > scrollTop + clientHeight) this.scroller.scrollTop = top + this.#step - clientHeight;
    this.#setFocus(index);
    this.#update();
    this.#shown.get(index)?.querySelector("button")?.focus({ preventScroll: true });
  }
}
