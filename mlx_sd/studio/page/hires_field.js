/** Hires fix as three numbers, which the server reads as SCALE:STEPS:STRENGTH; and the sides of outpainting. */

import { el } from "./dom.js";
import { field } from "./fields.js";

/** @typedef {import("./form_state.js").FormState} FormState */

/**
 * Returns the field of `hires`.
 * @param {any} setting @param {FormState} state
 */
export function hiresField(setting, state) {
  const scale = number({ min: 1.05, max: 8, step: 0.05, placeholder: "off", label: "Enlarge by, times" });
  const steps = number({ min: 1, max: 1000, step: 1, placeholder: "same", label: "Steps of the second pass" });
  const strength = number({
    min: 0.05,
    max: 1,
    step: 0.05,
    placeholder: "0.7",
    label: "How much the second pass changes",
  });
  const write = () => {
    const text = [scale.value, steps.value, strength.value].join(":").replace(/:+$/, "");
    state.set("hires", scale.value ? text : null);
  };
  for (const input of [scale, steps, strength]) input.addEventListener("change", write);
  const body = el("div", { class: "parts-row" }, part("times", scale), part("steps", steps), part("changes", strength));
  const result = field("hires", scale, {
    help: "Makes the picture larger, and goes on with it for more detail",
    body,
    wide: true,
    reset: () => state.set("hires", null),
  });
  state.watch(["hires"], () => {
    const [a = "", b = "", c = ""] = String(state.get("hires") ?? "").split(":");
    [scale.value, steps.value, strength.value] = [a, b, c];
    result.markChanged(a !== "");
  });
  return result;
}

/**
 * Returns the field of `extend`: pixels on each side, as left=128,top=64.
 * @param {any} setting @param {FormState} state
 */
export function extendField(setting, state) {
  const sides = ["left", "top", "right", "bottom"];
  const inputs = sides.map((side) =>
    number({ min: 0, max: 4096, step: 8, placeholder: "0", label: `Pixels beyond the ${side} side` }),
  );
  const write = () => {
    const text = sides
      .flatMap((side, index) => (Number(inputs[index].value) > 0 ? [`${side}=${inputs[index].value}`] : []))
      .join(",");
    state.set("extend", text || null);
  };
  for (const input of inputs) input.addEventListener("change", write);
  const body = el("div", { class: "parts-row" }, ...sides.map((side, index) => part(side, inputs[index])));
  const result = field("extend", inputs[0], {
    help: "Outpainting, in pixels on each side",
    body,
    wide: true,
    reset: () => state.set("extend", null),
  });
  state.watch(["extend"], () => {
    const values = Object.fromEntries(
      String(state.get("extend") ?? "")
        .split(",")
        .map((each) => each.split("=")),
    );
    sides.forEach((side, index) => (inputs[index].value = values[side] ?? ""));
    result.markChanged(state.get("extend") !== null);
  });
  return result;
}

/** @param {{min: number, max: number, step: number, placeholder: string, label: string}} options @returns {HTMLInputElement} */
const number = ({ label, ...options }) =>
  el("input", { class: "input number", type: "number", "aria-label": label, ...options });

/** @param {string} words @param {HTMLElement} control */
const part = (words, control) => el("span", { class: "part" }, control, el("span", { class: "unit", text: words }));
