/** The dialog that asks for the two settings of an X/Y grid and their values. */

import { namesOf } from "./chosen_model.js";
import { button, el } from "./dom.js";
import { openDialog } from "./dialogs.js";
import { field, select } from "./fields.js";
import { titleOf } from "./setting_groups.js";

/** Settings whose values can be written in a list. */
const USEFUL = [
  "guidance",
  "steps",
  "seed",
  "sampler",
  "schedule",
  "speed",
  "strength",
  "model",
  "clip_skip",
  "deepcache",
  "tgate",
  "freeu",
  "guidance_rescale",
  "pag",
  "hires",
  "eta",
  "width",
  "height",
  "prompt",
  "negative",
];

/**
 * Returns the values that a text lists: "5, 7.5, 10", "10-50/10" for every tenth from 10 to 50, one in each line for text.
 * @param {any} setting @param {string} text @returns {any[]}
 */
export function valuesOf(setting, text) {
  const isNumber = setting.kind === "integer" || setting.kind === "number";
  const isLong = ["prompt", "negative"].includes(setting.name);
  const hasCommas = ["tgate", "freeu"].includes(setting.name);
  const words = text
    .split(isLong || hasCommas ? "\n" : /[\n,]/)
    .map((word) => word.trim())
    .filter(Boolean);
  if (!isNumber) return words;
  return words.flatMap((word) => {
    const range = /^(-?\d+(?:\.\d+)?)\s*-\s*(-?\d+(?:\.\d+)?)(?:\s*\/\s*(\d+(?:\.\d+)?))?$/.exec(word);
    if (!range) return Number.isFinite(Number(word)) ? [Number(word)] : [];
    const [from, to, by] = [Number(range[1]), Number(range[2]), Number(range[3] ?? 1)];
    const count = by > 0 ? Math.min(64, Math.floor((to - from) / by + 1e-9) + 1) : 0;
    return Array.from({ length: Math.max(0, count) }, (_, index) => +(from + index * by).toFixed(6));
  });
}

/**
 * Asks for a grid.
 * @param {import("./form.js").Description} description
 * @param {import("./form_state.js").FormState} state
 * @param {(grid: {x: {setting: string, values: any[]}, y?: {setting: string, values: any[]}}) => void} submit
 */
export function openGridDialog(description, state, submit) {
  const settings = USEFUL.flatMap((name) => description.settings.filter((setting) => setting.name === name));
  const highest = description.limits?.count ?? 64;
  const names = namesOf(description, state);
  const x = axis("x", "Across", settings, description, names, "guidance", "4, 7.5, 11");
  const y = axis("y", "Down", [...settings], description, names, "seed", "1-3");
  const words = el("p", { class: "grid-sum", role: "status" });
  const make = button({ words: "Make the grid", class: "button primary", on: () => send() });
  const read = () => {
    const [across, down] = [x.read(), y.read()];
    const count = across.values.length * Math.max(1, down.values.length);
    const same = across.setting === down.setting && down.values.length > 0;
    const wrong = same
      ? "The two settings must differ."
      : !across.values.length
        ? "The setting across needs values."
        : count > highest
          ? `${count} pictures are too many; at most ${highest} are made at once.`
          : "";
    words.textContent =
      wrong ||
      `${across.values.length} × ${Math.max(1, down.values.length)} = ${count} ${count === 1 ? "picture" : "pictures"}, all else as in the form.`;
    make.disabled = Boolean(wrong);
    return down.values.length ? { x: across, y: down } : { x: across };
  };
  const send = () => {
    const grid = read();
    if (make.disabled) return;
    dialog.close();
    // Without a seed each picture would have its own, and a grid compares like with like.
    if (grid.x.setting !== "seed" && grid.y?.setting !== "seed" && state.get("seed") === null)
      state.set("seed", Math.floor(Math.random() * 4294967296));
    submit(grid);
  };
  for (const each of [x, y]) each.element.addEventListener("input", read);
  const dialog = openDialog({
    title: "X/Y grid",
    class: "small xy",
    body: [
      el("p", {
        class: "hint",
        text: "One picture for each pair of values. Values are divided by commas or lines; 10-50/10 is 10, 20, 30, 40, 50. Leave the second list empty for a single row.",
      }),
      x.element,
      y.element,
      words,
    ],
    foot: [button({ words: "Cancel", on: () => dialog.close() }), make],
  });
  read();
}

/**
 * @param {string} key @param {string} title @param {any[]} settings @param {any} description
 * @param {ReturnType<typeof namesOf>} names @param {string} first @param {string} values
 */
function axis(key, title, settings, description, names, first, values) {
  const choice = select(settings.map((setting) => ({ value: setting.name, title: titleOf(setting.name) })));
  choice.options[0].remove();
  choice.value = first;
  const area = el("textarea", {
    class: "input",
    rows: 2,
    "aria-label": `Values ${title.toLowerCase()}`,
    value: values,
  });
  const fill = button({
    words: "All",
    class: "button small",
    on: () => {
      area.value = all().join("\n");
      area.dispatchEvent(new Event("input", { bubbles: true }));
    },
  });
  /** @returns {string[]} */
  const all = () =>
    /** @type {Record<string, string[]>} */ ({
      sampler: names.samplers,
      schedule: names.schedules.filter((name) => !name.includes(",")), // a comma divides values
      model: (description.catalogue.models ?? []).map((/** @type {any} */ entry) => entry.id),
    })[choice.value] ??
    setting()?.choices ??
    [];
  const setting = () => settings.find((each) => each.name === choice.value);
  const show = () => (fill.hidden = !all().length);
  choice.addEventListener("change", () => {
    area.value = "";
    show();
  });
  show();
  const result = field(`grid-${key}`, choice, {
    title,
    body: el("div", { class: "axis" }, el("div", { class: "joined-row" }, choice, fill), area),
    wide: true,
  });
  return { element: result.element, read: () => ({ setting: choice.value, values: valuesOf(setting(), area.value) }) };
}
