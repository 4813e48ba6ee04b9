/** One field of the form for one setting: label, help, range, unit, default, and the error that concerns it. */

import { button, el, freshId } from "./dom.js";
import { titleOf } from "./setting_groups.js";

/**
 * @typedef {{name: string, kind: string, help: string, group?: string, range?: any, choices?: any[] | null, default?: any,
 *   unit?: string | null, metavar?: string | null}} Setting
 * @typedef {{element: HTMLElement, control: HTMLElement, setError: (message: string | null) => void}} Field
 */

/** All fields of the page by the name of their setting, so that an error finds its place. @type {Map<string, Field>} */
export const FIELDS = new Map();

/**
 * Returns a field around a control: the control must have no label of its own.
 * @param {string} name
 * @param {HTMLElement} control what gets the focus and the error
 * @param {{title?: string, help?: string, body?: HTMLElement, wide?: boolean, reset?: () => void, aside?: Node}} [options]
 *   body: what stands in the place of the control where it is only a part; aside: beside the label
 * @returns {Field & {label: HTMLElement, markChanged: (changed: boolean) => void}}
 */
export function field(name, control, { title = titleOf(name), help, body = control, wide = false, reset, aside } = {}) {
  control.id ||= freshId(`field-${name}`);
  const error = el("p", { class: "field-error", id: `${control.id}-error`, hidden: true });
  const hint = help ? el("p", { class: "hint", id: `${control.id}-help`, text: sentence(help) }) : null;
  const isGroup = !control.matches("input, select, textarea, button");
  const label = control.matches("input, select, textarea")
    ? el("label", { class: "label", for: control.id, text: title })
    : el("span", { class: "label", id: `${control.id}-label`, text: title }); // the words of a button are its name
  if (isGroup) {
    control.setAttribute("role", "group");
    control.setAttribute("aria-labelledby", label.id);
    control.tabIndex = -1;
  }
  const back = reset
    ? button({
        icon: "reset",
        label: `Back to the default: ${title}`,
        class: "icon-button tiny reset",
        on: reset,
        hidden: true,
      })
    : null;
  const described = [hint?.id].filter(Boolean).join(" ");
  if (described) control.setAttribute("aria-describedby", described);
  const element = el(
    "div",
    { class: wide ? "field wide" : "field", "data-setting": name },
    el("div", { class: "field-head" }, label, back, aside),
    body,
    hint,
    error,
  );
  const result = {
    element,
    control,
    label,
    /** @param {string | null} message */
    setError(message) {
      error.hidden = !message;
      error.textContent = message ?? "";
      element.classList.toggle("wrong", Boolean(message));
      if (message) control.setAttribute("aria-invalid", "true");
      else control.removeAttribute("aria-invalid");
      const ids = [message ? error.id : "", described].filter(Boolean).join(" ");
      if (ids) control.setAttribute("aria-describedby", ids);
      else control.removeAttribute("aria-describedby");
    },
    /** @param {boolean} changed */
    markChanged(changed) {
      element.classList.toggle("changed", changed);
      if (back) back.hidden = !changed;
    },
  };
  FIELDS.set(name, result);
  return result;
}

/**
 * Returns the field that an error concerns: the one that it names, or the prompt where its words do.
 * @param {string | null} name @param {string} message
 */
export function fieldFor(name, message) {
  return FIELDS.get(name ?? (/\bprompt\b/.test(message) ? "prompt" : ""));
}

/** Shows an error at its field, opens what hides it, and moves the focus there. @param {string | null} name @param {string} message */
export function showError(name, message) {
  const target = fieldFor(name, message);
  if (!target) return false;
  target.setError(message);
  for (let parent = target.element.parentElement; parent; parent = parent.parentElement) {
    if (parent instanceof HTMLDetailsElement) parent.open = true;
  }
  target.control.scrollIntoView({ block: "center" });
  target.control.focus();
  return true;
}

/** Takes all errors away. */
export function clearErrors() {
  for (const each of FIELDS.values()) each.setError(null);
}

/**
 * Returns the field that fits a setting's kind, bound to the form's state.
 * @param {Setting} setting
 * @param {import("./form_state.js").FormState} state
 * @param {{choices?: Array<string | {value: string, title: string}>}} [options] choices beside the setting's own
 */
export function settingField(setting, state, { choices } = {}) {
  const bounds = setting.range ?? {};
  const options = choices ?? setting.choices;
  let control;
  if (options) control = select(options, setting.default);
  else if (setting.kind === "boolean")
    control = select(
      [
        { value: "true", title: "yes" },
        { value: "false", title: "no" },
      ],
      setting.default,
    );
  else if (isNumber(setting)) control = numberInput(setting, bounds);
  else
    control = el("input", {
      class: "input",
      type: "text",
      spellcheck: "false",
      placeholder: setting.default ?? setting.metavar ?? "automatic",
    });

  const read = () => {
    const text = control.value.trim();
    if (text === "") return null;
    if (setting.kind === "boolean") return text === "true";
    return isNumber(setting) ? Number(text) : text;
  };
  control.addEventListener("change", () => state.set(setting.name, read()));
  if (control instanceof HTMLInputElement) control.addEventListener("input", () => state.set(setting.name, read()));

  const body = setting.unit
    ? el("div", { class: "with-unit" }, control, el("span", { class: "unit", text: setting.unit }))
    : control;
  const result = field(setting.name, control, {
    help: helpOf(setting),
    body,
    reset: () => state.set(setting.name, null),
  });
  const show = () => {
    const value = state.get(setting.name);
    const text = value === null ? "" : String(value);
    if (control.value !== text && !(document.activeElement === control && Number(control.value) === value)) {
      if (
        control instanceof HTMLSelectElement &&
        text &&
        ![...control.options].some((option) => option.value === text)
      ) {
        control.append(el("option", { value: text, text }));
      }
      control.value = text;
    }
    result.markChanged(value !== null);
    showDefault(control, value === null ? state.effective(setting.name) : null, setting);
  };
  state.watch([setting.name], show);
  control.addEventListener("input", () => result.setError(null));
  return result;
}

/**
 * Shows what the server puts in the place of an empty field.
 * @param {HTMLElement} control @param {any} value @param {Setting} setting
 */
function showDefault(control, value, setting) {
  if (value === null || typeof value === "object") return;
  const text = typeof value === "boolean" ? (value ? "yes" : "no") : String(value);
  if (control instanceof HTMLInputElement && setting.name !== "seed") control.placeholder = text;
  if (!(control instanceof HTMLSelectElement)) return;
  const title = [...control.options].find((option) => option.value === String(value))?.text ?? text;
  if (control.options[0].value === "") control.options[0].text = `automatic (${title})`;
}

/**
 * Returns a list to choose from, whose first entry is the default.
 * @param {Array<string | {value: string, title: string}>} options
 * @param {any} standard
 */
export function select(options, standard = null) {
  const entries = options.map((option) => (typeof option === "string" ? { value: option, title: option } : option));
  const named = entries.find((entry) => entry.value === String(standard))?.title;
  return el(
    "select",
    { class: "input select" },
    el("option", { value: "", text: named ? `automatic (${named})` : "automatic" }),
    ...entries.map(({ value, title }) => el("option", { value, text: title })),
  );
}

/** @param {Setting} setting */
const isNumber = (setting) => setting.kind === "integer" || setting.kind === "number";

/** @param {Setting} setting @param {any} bounds */
function numberInput(setting, bounds) {
  return el("input", {
    class: "input number",
    type: "number",
    inputmode: setting.kind === "integer" ? "numeric" : "decimal",
    min: bounds.minimum ?? null,
    max: bounds.maximum ?? null,
    step: setting.kind === "integer" ? (setting.unit === "pixels" && bounds.minimum === 8 ? 8 : 1) : "any",
    placeholder: setting.default ?? "automatic",
  });
}

/** Returns the help of a setting with its range, as the server states it. @param {Setting} setting */
export function helpOf(setting) {
  if (!setting.help) return "";
  const help = setting.help.replace(/--([a-z][a-z-]*)/g, (_, flag) => `“${titleOf(flag.replaceAll("-", "_"))}”`);
  const { minimum, maximum, open_minimum, open_maximum } = setting.range ?? {};
  const has = (/** @type {any} */ bound) => bound !== null && bound !== undefined;
  const low = has(minimum) ? `${open_minimum ? "above" : "from"} ${minimum}` : "";
  const high = has(maximum) ? `${open_maximum ? "below" : "to"} ${maximum}` : "";
  const range = [low, high]
    .filter(Boolean)
    .join(", ")
    .replace(/^from (.*), to/, "from $1 to");
  return range && has(maximum) ? `${help}; ${range}` : help;
}

/** Returns words that begin with a capital letter. @param {string} words */
export const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1);
