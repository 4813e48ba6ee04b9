/** The dialog in which a mask is painted over the start picture, by mouse, pen, finger or keyboard. */

import { button, el, slider } from "./dom.js";
import { complain, openDialog } from "./dialogs.js";
import { MaskDrawing } from "./mask_drawing.js";
import { upload } from "./picture_input.js";
import { pathOf, showPicture } from "./server.js";

/** Returns an image element once it has loaded. @param {string} reference @returns {Promise<HTMLImageElement>} */
function loaded(reference) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.alt = "";
    image.addEventListener("load", () => resolve(image), { once: true });
    image.addEventListener("error", () => reject(new Error("The picture cannot be loaded")), { once: true });
    showPicture(image, pathOf(reference));
  });
}

/**
 * Opens the editor for the start picture of the form.
 * @param {import("./form_state.js").FormState} state
 */
export async function openMaskEditor(state) {
  try {
    const picture = await loaded(state.get("init_image"));
    const mask = state.get("mask") ? await loaded(state.get("mask")) : null;
    edit(state, picture, mask);
  } catch (error) {
    complain(error);
  }
}

/** @param {import("./form_state.js").FormState} state @param {HTMLImageElement} picture @param {HTMLImageElement | null} mask */
function edit(state, picture, mask) {
  const { naturalWidth: width, naturalHeight: height } = picture;
  const canvas = /** @type {HTMLCanvasElement} */ (
    el("canvas", {
      class: "mask-canvas",
      width,
      height,
      tabindex: 0,
      role: "application",
      "aria-label": "Mask. Arrow keys move the brush, the space bar paints, B is the brush, E the eraser.",
    })
  );
  const cursor = el("span", { class: "brush-cursor", "aria-hidden": "true" });
  const board = el("div", { class: "mask-board" }, picture, canvas, cursor);
  board.style.setProperty("--ratio", String(width / height));

  const size = slider({
    label: "Size of the brush",
    min: 1,
    max: Math.round(Math.max(width, height) / 2),
    value: Math.round(Math.max(width, height) / 8),
  });
  const feather = slider({
    label: "Feather in pixels",
    min: 0,
    max: Math.round(Math.max(width, height) / 8),
    value: state.get("mask_blur") ?? 0,
  });
  const featherWords = el("output", {});
  const only = el("input", { type: "checkbox", class: "check" });
  only.checked = Boolean(state.get("only_masked"));

  const drawing = new MaskDrawing(canvas, mask, () => {
    undo.disabled = !drawing.canUndo;
    redo.disabled = !drawing.canRedo;
  });
  const act = (/** @type {import("./mask_drawing.js").Operation} */ operation) => () => drawing.add(operation);
  const brush = button({ icon: "brush", label: "Brush (B)", on: () => choose(false) });
  const eraser = button({ icon: "eraser", label: "Eraser (E)", on: () => choose(true) });
  const undo = button({ icon: "undo", label: "Undo", disabled: true, on: () => drawing.undo() });
  const redo = button({ icon: "redo", label: "Redo", disabled: true, on: () => drawing.redo() });
  let erase = false;
  const choose = (/** @type {boolean} */ value) => {
    erase = value;
    brush.setAttribute("aria-pressed", String(!erase));
    eraser.setAttribute("aria-pressed", String(erase));
  };
  choose(false);

  const showFeather = () => {
    featherWords.textContent = `${feather.value} px`;
    const shown = canvas.clientWidth ? (Number(feather.value) * canvas.clientWidth) / width : 0;
    canvas.style.setProperty("--feather", `${shown / 2}px`);
  };
  feather.addEventListener("input", showFeather);

  const tools = el(
    "div",
    { class: "mask-tools" },
    el(
      "div",
      { class: "tool-row", role: "toolbar", "aria-label": "Mask" },
      brush,
      eraser,
      el("span", { class: "divider" }),
      undo,
      redo,
      el("span", { class: "divider" }),
      button({ icon: "invert", words: "Invert", class: "button small", on: act({ kind: "invert" }) }),
      button({ icon: "fill", words: "Paint everything", class: "button small", on: act({ kind: "fill" }) }),
      button({ words: "Clear", class: "button small", on: act({ kind: "clear" }) }),
    ),
    el("label", { class: "tool-slider" }, el("span", { text: "Brush" }), size),
    el("label", { class: "tool-slider" }, el("span", { text: "Feather" }), feather, featherWords),
    el("label", { class: "check-row" }, only, el("span", { text: "Paint the masked part at full size" })),
  );
  const use = button({ words: "Use the mask", class: "button primary", on: () => save() });
  const dialog = openDialog({
    title: "Paint where the picture changes",
    class: "mask-dialog",
    body: [board, tools],
    foot: [button({ words: "Cancel", on: () => dialog.close() }), use],
  });
  canvas.focus();
  showFeather();

  const save = async () => {
    if (drawing.isEmpty) {
      state.set("mask", null);
      dialog.close();
      return;
    }
    use.disabled = true;
    const reference = await upload(await drawing.toPng());
    use.disabled = false;
    if (!reference) return;
    state.assign({
      mask: reference,
      mask_blur: Number(feather.value) || null,
      only_masked: only.checked || null,
      strength: null,
    });
    dialog.close();
  };
  const begin = (/** @type {number} */ x, /** @type {number} */ y) =>
    drawing.add({ kind: "stroke", erase, size: Number(size.value), points: [[x, y]] });
  followPointer(
    canvas,
    cursor,
    () => Number(size.value),
    begin,
    (x, y) => drawing.extend(x, y),
  );
  followKeys(dialog, canvas, cursor, size, begin, {
    b: () => choose(false),
    e: () => choose(true),
    i: act({ kind: "invert" }),
    undo: () => drawing.undo(),
    redo: () => drawing.redo(),
  });
}

/**
 * Paints by mouse, pen and finger.
 * @param {HTMLCanvasElement} canvas @param {HTMLElement} cursor @param {() => number} size
 * @param {(x: number, y: number) => void} begin @param {(x: number, y: number) => void} extend
 */
function followPointer(canvas, cursor, size, begin, extend) {
  /** @param {PointerEvent} event @returns {[number, number]} */
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) * canvas.width) / box.width,
      ((event.clientY - box.top) * canvas.height) / box.height,
    ];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button > 0) return;
    canvas.setPointerCapture(event.pointerId);
    begin(...place(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    showCursor(canvas, cursor, size(), ...place(event));
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    const parts = event.getCoalescedEvents?.() ?? [];
    for (const part of parts.length ? parts : [event]) extend(...place(part));
  });
  canvas.addEventListener("pointerleave", () => cursor.classList.remove("shown"));
}

/** @param {HTMLCanvasElement} canvas @param {HTMLElement} cursor @param {number} size @param {number} x @param {number} y */
function showCursor(canvas, cursor, size, x, y) {
  const scale = canvas.clientWidth / canvas.width;
  cursor.classList.add("shown");
  cursor.style.setProperty("--size", `${size * scale}px`);
  cursor.style.setProperty("--x", `${canvas.offsetLeft + x * scale}px`);
  cursor.style.setProperty("--y", `${canvas.offsetTop + y * scale}px`);
}

/**
 * Paints by the keyboard: arrows move the brush, the space bar paints.
 * @param {HTMLElement} dialog @param {HTMLCanvasElement} canvas @param {HTMLElement} cursor @param {HTMLInputElement} size
 * @param {(x: number, y: number) => void} begin @param {Record<string, () => void>} keys
 */
function followKeys(dialog, canvas, cursor, size, begin, keys) {
  let [x, y] = [canvas.width / 2, canvas.height / 2];
  const steps = /** @type {Record<string, [number, number]>} */ ({
    ArrowLeft: [-1, 0],
    ArrowRight: [1, 0],
    ArrowUp: [0, -1],
    ArrowDown: [0, 1],
  });
  canvas.addEventListener("keydown", (event) => {
    const [dx, dy] = steps[event.key] ?? [0, 0];
    const step = Number(size.value) / 2;
    x = Math.max(0, Math.min(canvas.width, x + dx * step));
    y = Math.max(0, Math.min(canvas.height, y + dy * step));
    if (event.key === " ") begin(x, y);
    if (steps[event.key] || event.key === " ") event.preventDefault();
    showCursor(canvas, cursor, Number(size.value), x, y);
  });
  dialog.addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase();
    if (key === "z" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      (event.shiftKey ? keys.redo : keys.undo)();
    } else if (!event.ctrlKey && !event.metaKey && !event.altKey) {
      if (key === "[" || key === "]")
        size.value = String(Number(size.value) * (key === "[" ? 0.8 : 1.25) + (key === "[" ? -0.5 : 0.5));
      else if (key.length === 1) keys[key]?.();
    }
  });
}
