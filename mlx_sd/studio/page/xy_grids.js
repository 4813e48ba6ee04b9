/** X/Y grids: remembered in this browser, shown as tables that fill, and saved as one sheet. */

import { button, el } from "./dom.js";
import { complain, openDialog } from "./dialogs.js";
import { galleryPath, saveBlob, showPicture } from "./server.js";
import { titleOf } from "./setting_groups.js";
import { valueText } from "./words.js";

const KEY = "mlx-sd-grids";
const MOST = 20;

/**
 * @typedef {{setting: string, values: any[]}} Axis
 * @typedef {{id: string, x: Axis, y?: Axis, cells: Array<{job: string, name: string | null}>}} Grid cells row by row
 */

/** @returns {Grid[]} newest first */
function grids() {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? "[]");
  } catch {
    return [];
  }
}

/** @param {Grid} grid */
function save(grid) {
  localStorage.setItem(KEY, JSON.stringify([grid, ...grids().filter((other) => other.id !== grid.id)].slice(0, MOST)));
}

/**
 * Remembers a grid whose jobs were accepted.
 * @param {{x: Axis, y?: Axis}} axes
 * @param {{jobs: import("./jobs.js").Job[], group: string, cells?: number[][]}} answer
 * @returns {Grid}
 */
export function rememberGrid(axes, { jobs, group, cells: places = [] }) {
  /** @type {Grid["cells"]} */
  const cells = [];
  jobs.forEach((job, index) => {
    const [column, row = 0] = places[index];
    cells[row * axes.x.values.length + column] = { job: job.id, name: job.target };
  });
  const grid = { id: group, ...axes, cells };
  save(grid);
  return grid;
}

/** Returns buttons that open the remembered grids. @param {import("./picture_actions.js").Context & {jobs?: any}} context */
export function gridButtons(context) {
  return grids().map((grid) =>
    button({
      icon: "grid",
      words:
        [grid.x, grid.y].flatMap((axis) => (axis ? [titleOf(axis.setting)] : [])).join(" × ") +
        ` (${grid.cells.length})`,
      class: "button small",
      on: () => openGrid(grid, context.jobs),
    }),
  );
}

/** Opens a grid as a table that fills while its pictures are made. @param {Grid} grid @param {import("./jobs.js").Jobs | undefined} jobs */
export function openGrid(grid, jobs) {
  const rows = grid.y?.values ?? [null];
  const pictures = grid.cells.map(() => el("img", { alt: "" }));
  const fill = (/** @type {number} */ index) => {
    const { name, job } = grid.cells[index];
    const state = jobs?.byId.get(job)?.state ?? "done";
    const cell = pictures[index].parentElement;
    if (cell) cell.dataset.state = state;
    if (!name || state !== "done" || pictures[index].src) return;
    pictures[index].alt = label(grid, index);
    showPicture(pictures[index], galleryPath(name));
  };
  const head = el(
    "tr",
    {},
    el("td", {}),
    ...grid.x.values.map((value) => el("th", { scope: "col", text: valueText(value) })),
  );
  const body = rows.map((value, row) =>
    el(
      "tr",
      {},
      el("th", { scope: "row", text: value === null ? "" : valueText(value) }),
      ...grid.x.values.map((_, column) =>
        el("td", {}, el("div", { class: "grid-cell" }, pictures[row * grid.x.values.length + column])),
      ),
    ),
  );
  const caption = `${titleOf(grid.x.setting)} across${grid.y ? `, ${titleOf(grid.y.setting)} down` : ""}`;
  const table = el(
    "table",
    { class: "grid-table" },
    el("caption", { text: caption }),
    el("thead", {}, head),
    el("tbody", {}, ...body),
  );
  const listen = (/** @type {Event} */ event) => {
    const job = /** @type {CustomEvent} */ (event).detail;
    const index = grid.cells.findIndex((cell) => cell.job === job.id);
    if (index < 0) return;
    grid.cells[index].name = job.target ?? grid.cells[index].name;
    if (job.state === "done") save(grid);
    fill(index);
  };
  jobs?.addEventListener("job", listen);
  openDialog({
    title: "X/Y grid",
    class: "xy-table",
    body: [el("div", { class: "table-scroll", tabindex: 0, role: "region", "aria-label": caption }, table)],
    foot: [
      button({ icon: "download", words: "Save as one sheet", on: () => saveSheet(grid, pictures).catch(complain) }),
    ],
    closed: () => jobs?.removeEventListener("job", listen),
  });
  pictures.forEach((_, index) => fill(index));
}

/** @param {Grid} grid @param {number} index */
function label(grid, index) {
  const columns = grid.x.values.length;
  const x = `${titleOf(grid.x.setting)} ${valueText(grid.x.values[index % columns])}`;
  return grid.y ? `${x}, ${titleOf(grid.y.setting)} ${valueText(grid.y.values[Math.floor(index / columns)])}` : x;
}

/** Draws the table with its labels as one picture and saves it. @param {Grid} grid @param {HTMLImageElement[]} pictures */
async function saveSheet(grid, pictures) {
  const there = pictures.filter((picture) => picture.naturalWidth);
  if (!there.length) throw new Error("No picture of the grid is ready yet");
  const [width, height] = [
    Math.max(...there.map((p) => p.naturalWidth)),
    Math.max(...there.map((p) => p.naturalHeight)),
  ];
  const columns = grid.x.values.length;
  const [gap, size] = [Math.ceil(width / 64), Math.max(11, Math.round(width / 20))];
  const canvas = document.createElement("canvas");
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const font = `${size}px sans-serif`;
  context.font = font;
  const left = grid.y
    ? Math.ceil(Math.max(...grid.y.values.map((value) => context.measureText(valueText(value)).width))) + 2 * size
    : gap;
  const top = 2.2 * size;
  canvas.width = left + columns * (width + gap);
  canvas.height = top + Math.ceil(pictures.length / columns) * (height + gap);
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = "black";
  context.font = font;
  context.textBaseline = "middle";
  context.textAlign = "center";
  grid.x.values.forEach((value, column) =>
    context.fillText(valueText(value), left + column * (width + gap) + width / 2, top / 2, width),
  );
  grid.y?.values.forEach((value, row) =>
    context.fillText(valueText(value), left / 2, top + row * (height + gap) + height / 2),
  );
  pictures.forEach((picture, index) => {
    if (picture.naturalWidth)
      context.drawImage(
        picture,
        left + (index % columns) * (width + gap),
        top + Math.floor(index / columns) * (height + gap),
      );
  });
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (blob) saveBlob(/** @type {Blob} */ (blob), `grid-${grid.id}.png`);
}
