/** The few settings that are shown first: model, size, steps, guidance, sampler, schedule, seed. */

import { button, el, fillSlider, freshId, slider } from "./dom.js";
import { field, settingField } from "./fields.js";
import { titleOf } from "./setting_groups.js";

/** @typedef {import("./form_state.js").FormState} FormState */

/** Sizes by name, as width and height; the embedded checkpoint draws small pictures. */
const SIZES = {
  small: [
    [128, 128, "Square"],
    [192, 128, "Landscape"],
    [128, 192, "Portrait"],
  ],
  middle: [
    [512, 512, "Square"],
    [768, 512, "Landscape"],
    [512, 768, "Portrait"],
  ],
  large: [
    [1024, 1024, "Square"],
    [1216, 832, "Landscape"],
    [832, 1216, "Portrait"],
  ],
};

/**
 * Returns the choice of a model.
 * @param {any} setting @param {FormState} state @param {{models: any[]}} catalogue
 */
export function modelField(setting, state, catalogue) {
  return settingField({ ...setting, help: "", unit: null }, state, {
    choices: catalogue.models.map((model) => ({ value: model.id, title: model.title ?? model.name })),
  });
}

/**
 * Returns sizes to choose from, both sides as numbers, and a button that swaps them.
 * @param {FormState} state
 * @param {() => keyof typeof SIZES} scale which sizes suit the model
 */
export function sizeField(state, scale) {
  const side = (/** @type {"width" | "height"} */ name) => {
    const input = el("input", {
      class: "input number",
      type: "number",
      inputmode: "numeric",
      min: 8,
      step: 8,
      placeholder: "auto",
      "aria-label": titleOf(name),
    });
    input.addEventListener("input", () => state.set(name, input.value ? Number(input.value) : null));
    state.watch([name], () => {
      const text = String(state.get(name) ?? "");
      if (input.value !== text) input.value = text;
      input.placeholder = String(state.effective(name) ?? "auto");
    });
    return input;
  };
  const [width, height] = [side("width"), side("height")];
  const shapes = el("span", { class: "shapes" });
  const swap = button({
    icon: "swap",
    label: "Swap width and height",
    on: () => state.assign({ width: state.effective("height"), height: state.effective("width") }),
  });
  const widthField = field("width", width, {
    title: "Size",
    body: el("div", { class: "size-row" }, shapes, width, el("span", { class: "times", text: "×" }), height, swap),
  });
  const heightField = field("height", height, { title: "Height", body: el("span", { hidden: true }) });
  heightField.element.classList.add("error-only");
  let drawn = "";
  state.watch(["width", "height", "model"], () => {
    const sizes = SIZES[scale()];
    if (drawn !== scale()) shapes.replaceChildren(...sizes.map((size) => shapeButton(size, state)));
    drawn = scale();
    const [w, h] = [state.effective("width"), state.effective("height")];
    sizes.forEach((size, index) => {
      shapes.children[index].setAttribute("aria-pressed", String(size[0] === w && size[1] === h));
    });
  });
  return el("div", { class: "size" }, widthField.element, heightField.element);
}

/** @param {Array<number | string>} size @param {FormState} state */
function shapeButton([width, height, name], state) {
  const one = button({
    label: `${name}, ${width} × ${height}`,
    class: "shape-button",
    on: () => state.assign({ width, height }),
  });
  one.append(el("span", { class: `shape ${String(name).toLowerCase()}`, "aria-hidden": "true" }));
  return one;
}

/**
 * Returns a number with a slider beside it; the slider covers the usual values, the number takes all.
 * @param {any} setting @param {FormState} state
 * @param {{from: number, to: number, step: number, standard: number}} slider
 */
export function sliderField(setting, state, { from, to, step, standard }) {
  const result = settingField({ ...setting, help: "", default: setting.default ?? standard }, state);
  const range = slider({ label: `${titleOf(setting.name)}, slider`, min: from, max: to, step, tabindex: -1 });
  range.addEventListener("input", () => state.set(setting.name, Number(range.value)));
  state.watch([setting.name], () => {
    const value = state.effective(setting.name) ?? standard;
    range.value = String(value);
    fillSlider(range);
  });
  const row = el("div", { class: "slider-row" });
  result.control.replaceWith(row);
  row.append(range, result.control);
  return result;
}

/**
 * Returns the seed: empty is a new one for each picture.
 * @param {any} setting @param {FormState} state @param {() => number | null} lastSeed
 */
export function seedField(setting, state, lastSeed) {
  const result = settingField(
    { ...setting, help: "", default: "random", range: { minimum: 0, maximum: 4294967295 } },
    state,
  );
  const row = el("div", { class: "joined-row" });
  const dice = button({ icon: "dice", label: "A random seed for each picture", on: () => state.set("seed", null) });
  const again = button({
    icon: "reuse",
    label: "The seed of the last picture",
    on: () => {
      const seed = lastSeed();
      if (seed !== null) state.set("seed", seed);
    },
  });
  result.control.replaceWith(row);
  row.append(result.control, dice, again);
  state.watch(["seed"], () => dice.setAttribute("aria-pressed", String(state.get("seed") === null)));
  return result;
}

/**
 * Returns how many pictures a press of the button makes.
 * @param {FormState} state @param {number} highest
 */
export function countField(state, highest) {
  const id = freshId("count");
  const input = el("input", {
    class: "input number",
    type: "number",
    id,
    inputmode: "numeric",
    min: 1,
    max: highest,
    value: state.count,
  });
  input.addEventListener("change", () => {
    state.count = Math.max(1, Math.min(highest, Math.round(Number(input.value)) || 1));
    input.value = String(state.count);
  });
  const result = field("count", input, { title: "Pictures" });
  result.element.classList.add("count-field");
  return result;
}

/**
 * Returns a list with the names of samplers or schedules that the chosen model has.
 * @param {any} setting @param {FormState} state @param {() => string[]} namesOfModel
 */
export function namesField(setting, state, namesOfModel) {
  const result = settingField({ ...setting, help: "" }, state, { choices: [] });
  let shown = /** @type {string[] | null} */ (null);
  state.watch(["model"], () => {
    const names = namesOfModel();
    if (names === shown) return;
    if (shown?.includes(state.get(setting.name)) && !names.includes(state.get(setting.name))) {
      state.set(setting.name, null); // a name of the other kind of models
    }
    shown = names;
    const chosen = state.get(setting.name);
    const listed = chosen === null || names.includes(chosen) ? names : [...names, chosen];
    const [automatic] = result.control.children;
    automatic.textContent = "automatic";
    result.control.replaceChildren(automatic, ...listed.map((name) => el("option", { value: name, text: name })));
    /** @type {HTMLSelectElement} */ (result.control).value = chosen ?? "";
  });
  return result;
}
