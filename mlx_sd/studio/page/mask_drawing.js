/** A mask as a list of operations, which undo shortens: strokes, filling, clearing, inverting. */

/**
 * @typedef {{kind: "stroke", erase: boolean, size: number, points: Array<[number, number]>}} Stroke
 * @typedef {Stroke | {kind: "fill"} | {kind: "clear"} | {kind: "invert"}} Operation
 */

const PAINT = "#ff3d7f"; // of the mask on the screen: rare in pictures

/** Draws operations on a canvas whose opaque parts are the mask. */
export class MaskDrawing {
  /** @type {Operation[]} */
  #done = [];
  /** @type {Operation[]} */
  #undone = [];

  /**
   * @param {HTMLCanvasElement} canvas of the picture's size
   * @param {CanvasImageSource | null} first a mask to begin with, black and white, which undo keeps
   * @param {() => void} changed
   */
  constructor(canvas, first, changed = () => {}) {
    this.canvas = canvas;
    this.first = first;
    this.changed = changed;
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
    this.#drawFirst();
  }

  get canUndo() {
    return this.#done.length > 0;
  }

  get canRedo() {
    return this.#undone.length > 0;
  }

  /** Adds an operation and draws it. @param {Operation} operation */
  add(operation) {
    this.#done.push(operation);
    this.#undone = [];
    this.#draw(operation);
    this.changed();
  }

  /** Goes on with the last stroke. @param {number} x @param {number} y */
  extend(x, y) {
    const stroke = this.#done.at(-1);
    if (stroke?.kind !== "stroke") return;
    stroke.points.push([x, y]);
    this.#draw({ ...stroke, points: stroke.points.slice(-2) });
  }

  /** Takes the last operation back. */
  undo() {
    const operation = this.#done.pop();
    if (!operation) return;
    this.#undone.push(operation);
    this.#redraw();
  }

  /** Does again what was taken back. */
  redo() {
    const operation = this.#undone.pop();
    if (!operation) return;
    this.#done.push(operation);
    this.#redraw();
  }

  /** Returns whether anything is painted. */
  get isEmpty() {
    const { data } = this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);
    for (let i = 3; i < data.length; i += 4) if (data[i] > 0) return false;
    return true;
  }

  /** Returns the mask as a PNG, white where it is painted and black elsewhere. @returns {Promise<Blob>} */
  toPng() {
    const { width, height } = this.canvas;
    const copy = document.createElement("canvas");
    copy.width = width;
    copy.height = height;
    const context = /** @type {CanvasRenderingContext2D} */ (copy.getContext("2d"));
    context.drawImage(this.canvas, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "black";
    context.fillRect(0, 0, width, height);
    return new Promise((resolve, reject) =>
      copy.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The mask cannot be saved"))), "image/png"),
    );
  }

  #redraw() {
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.#drawFirst();
    for (const operation of this.#done) this.#draw(operation);
    this.changed();
  }

  /** @param {Operation} operation */
  #draw(operation) {
    const { context, canvas } = this;
    context.save();
    context.fillStyle = context.strokeStyle = PAINT;
    if (operation.kind === "clear") context.clearRect(0, 0, canvas.width, canvas.height);
    else if (operation.kind === "fill") context.fillRect(0, 0, canvas.width, canvas.height);
    else if (operation.kind === "invert") {
      context.globalCompositeOperation = "source-out";
      context.fillRect(0, 0, canvas.width, canvas.height);
    } else this.#drawStroke(operation);
    context.restore();
  }

  /** @param {Stroke} stroke */
  #drawStroke({ erase, size, points }) {
    const { context } = this;
    if (erase) context.globalCompositeOperation = "destination-out";
    context.lineWidth = size;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    const [[x, y], ...others] = points;
    context.moveTo(x, y);
    if (!others.length) context.lineTo(x + 0.01, y);
    for (const [nextX, nextY] of others) context.lineTo(nextX, nextY);
    context.stroke();
  }

  /** Draws the mask that there was: what is bright in its picture. */
  #drawFirst() {
    if (!this.first) return;
    const { context, canvas } = this;
    context.save();
    context.drawImage(this.first, 0, 0, canvas.width, canvas.height);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < pixels.data.length; i += 4) {
      pixels.data[i + 3] = pixels.data[i];
    }
    context.putImageData(pixels, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = PAINT;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.restore();
  }
}
