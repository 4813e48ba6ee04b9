/** The form: the prompt, the few settings that are shown first, all others in groups, and the button. */

import { chosenModel, namesOf } from "./chosen_model.js";
import { button, byId, el, icon } from "./dom.js";
import { countField, modelField, namesField, seedField, sizeField, sliderField } from "./essentials.js";
import { settingField } from "./fields.js";
import { extendField, hiresField } from "./hires_field.js";
import { NETWORK_SETTINGS, networkField } from "./network_rows.js";
import { promptField } from "./prompt_field.js";
import { promptMenus } from "./prompt_menus.js";
import { grouped, titleOf } from "./setting_groups.js";
import { speedField } from "./speed_field.js";
import { startImage } from "./start_image.js";

/** Settings that name a network of the catalogue, and the kind of it. */
const FROM_CATALOGUE = /** @type {Record<string, string>} */ ({
  refiner: "refiners",
  vae: "vaes",
  ip_encoder: "image_encoders",
});

/**
 * @typedef {import("./chosen_model.js").Description & {settings: any[], hires_modes: string[], limits: any}} Description
 * @typedef {{submit: () => void, grid: () => void, receive: (file: File) => void, lastSeed: () => number | null}} Actions
 */

/**
 * Fills the form.
 * @param {Description} description what the server says that there is
 * @param {import("./form_state.js").FormState} state
 * @param {import("./check.js").Check} check
 * @param {Actions} actions
 */
export function buildForm(description, state, check, actions) {
  const { settings, catalogue } = description;
  const by = Object.fromEntries(settings.map((setting) => [setting.name, setting]));
  const has = (/** @type {string} */ name, /** @type {() => Node} */ make) => (by[name] ? make() : null);
  const form = byId("form");

  const prompt = promptField("prompt", state, check, {
    rows: 3,
    id: "prompt-field",
    placeholder: "What the picture shows",
    aside: promptMenus(state),
  });
  const negative = promptField("negative", state, check, {
    rows: 1,
    placeholder: "What to steer away from",
    title: "Negative",
  });

  const parts = [
    el("div", { class: "form-part prompts" }, prompt.element, negative.element),
    el("div", { class: "form-part" }, startImage(by, state, actions.receive)),
    el(
      "div",
      { class: "form-part fields" },
      has(
        "model",
        () =>
          modelField({ ...by.model, default: description.default_model }, state, /** @type {any} */ (catalogue))
            .element,
      ),
      sizeField(state, () => scaleOf(chosenModel(description, state))),
      has("speed", () => speedField(by.speed, state, check).element),
      el(
        "div",
        { class: "pair" },
        sliderField(by.steps, state, { from: 1, to: 50, step: 1, standard: 25 }).element,
        sliderField(by.guidance, state, { from: 1, to: 20, step: 0.5, standard: 7.5 }).element,
        has("sampler", () => namesField(by.sampler, state, () => namesOf(description, state).samplers).element),
        has("schedule", () => namesField(by.schedule, state, () => namesOf(description, state).schedules).element),
      ),
      seedField(by.seed, state, actions.lastSeed).element,
      has("loras", () => networkField(by.loras, state, catalogue).element),
    ),
    allSettings(description, state),
  ];
  const count = countField(state, description.limits?.count ?? 64);
  const generate = button({ icon: "spark", words: "Generate", class: "button primary generate", type: "submit" });
  const grid = button({ icon: "grid", label: "An X/Y grid of two settings", on: actions.grid });
  const foot = el("div", { class: "form-foot" }, count.element, grid, generate);
  state.watch([" count"], () => {
    /** @type {HTMLElement} */ (generate.querySelector("span")).textContent =
      state.count > 1 ? `Generate ${state.count}` : "Generate";
  });
  form.replaceChildren(el("div", { class: "form-scroll" }, ...parts.filter(Boolean)), foot);
  form.addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    actions.submit();
  });
  return { prompt: prompt.area, generate };
}

/** Returns which sizes suit a model of the catalogue. @param {any} model @returns {"small" | "middle" | "large"} */
function scaleOf(model) {
  if (!model || model.place === "embedded") return "small";
  return /xl|refiner/i.test(`${model.family}`) ? "large" : "middle";
}

/**
 * Returns all other settings in groups that open, with a search over them.
 * @param {Description} description @param {import("./form_state.js").FormState} state
 */
function allSettings(description, state) {
  const groups = grouped(description.settings).map((group) => settingGroup(group, description, state));
  const search = el("input", {
    class: "input",
    type: "search",
    placeholder: "Find a setting",
    "aria-label": "Find a setting",
  });
  const none = el("p", { class: "hint", text: "No setting has these words.", hidden: true });
  search.addEventListener("input", () => {
    const words = search.value.trim().toLowerCase();
    const matches = groups.map((group) => group.filter(words));
    none.hidden = matches.some(Boolean);
  });
  search.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter") event.preventDefault();
  });
  const reset = button({
    icon: "reset",
    words: "Reset all",
    class: "button small quiet",
    on: () => state.load({ prompt: state.get("prompt"), negative: state.get("negative") }),
  });
  return el(
    "section",
    { class: "form-part all-settings", "aria-label": "All settings" },
    el("div", { class: "all-head" }, el("h2", { text: "All settings" }), reset),
    search,
    none,
    ...groups.map((group) => group.element),
  );
}

/**
 * @param {ReturnType<typeof grouped>[number]} group
 * @param {Description} description
 * @param {import("./form_state.js").FormState} state
 */
function settingGroup(group, description, state) {
  const rows = group.settings.map((setting) => ({ setting, element: fieldOf(setting, description, state).element }));
  const badge = el("span", { class: "badge" });
  const element = el(
    "details",
    { class: "group" },
    el(
      "summary",
      {},
      el("span", { class: "group-title", text: group.title }),
      el("span", { class: "group-about", text: group.about }),
      badge,
      icon("dropdown"),
    ),
    el("div", { class: "group-body" }, ...rows.map((row) => row.element)),
  );
  const names = group.settings.map((setting) => setting.name);
  state.watch(names, () => {
    const changed = state.changedNames().filter((name) => names.includes(name)).length;
    badge.textContent = changed ? String(changed) : "";
    badge.hidden = !changed;
    badge.title = changed === 1 ? "1 setting is not the default" : `${changed} settings are not the default`;
  });
  return {
    element,
    /** Shows what has these words, and returns whether anything has. @param {string} words */
    filter(words) {
      let any = false;
      for (const { setting, element: row } of rows) {
        const text = `${setting.name} ${titleOf(setting.name)} ${setting.help} ${group.title}`.toLowerCase();
        row.hidden = Boolean(words) && !words.split(/\s+/).every((word) => text.includes(word));
        any ||= !row.hidden;
      }
      element.hidden = !any;
      element.open = Boolean(words) && any;
      return any;
    },
  };
}

/**
 * Returns the field of a setting: its own, or the one that fits its kind.
 * @param {any} setting @param {Description} description @param {import("./form_state.js").FormState} state
 */
function fieldOf(setting, { catalogue, hires_modes: hiresModes }, state) {
  const { name } = setting;
  const entries = (/** @type {string} */ kind) =>
    (catalogue[kind] ?? []).map((entry) => ({ value: entry.id, title: entry.title ?? entry.name }));
  if (NETWORK_SETTINGS.includes(name)) return networkField(setting, state, catalogue);
  if (name === "hires") return hiresField(setting, state);
  if (name === "extend") return extendField(setting, state);
  if (name === "hires_mode")
    return settingField(setting, state, { choices: [...hiresModes, ...entries("upscalers")] });
  if (FROM_CATALOGUE[name]) return settingField(setting, state, { choices: entries(FROM_CATALOGUE[name]) });
  return settingField(setting, state);
}
