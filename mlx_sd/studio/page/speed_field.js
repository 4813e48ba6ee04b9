/** Speed presets, what the form costs by the count of multiplications, and what a preset trades. */

import { button, el } from "./dom.js";
import { field, sentence } from "./fields.js";

const TITLES = /** @type {Record<string, string>} */ ({ "": "Own", exact: "Exact", fast: "Fast", fastest: "Fastest" });

/**
 * Returns the choice of a preset with its cost.
 * @param {any} setting @param {import("./form_state.js").FormState} state @param {import("./check.js").Check} check
 */
export function speedField(setting, state, check) {
  const group = el("div", { class: "segments", role: "radiogroup" });
  const names = ["", ...(setting.choices ?? [])];
  const segments = names.map((name) =>
    button({ words: TITLES[name] ?? sentence(name), class: "segment", role: "radio", on: () => choose(name) }),
  );
  group.append(...segments);
  const choose = (/** @type {string} */ name) => {
    // A preset decides these, and values of their own would overrule it.
    if (name) state.assign({ speed: name, steps: null, sampler: null, schedule: null, deepcache: null, tgate: null });
    else state.set("speed", null);
  };
  group.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const index = (names.indexOf(state.get("speed") ?? "") + step + names.length) % names.length;
    choose(names[index]);
    segments[index].focus();
  });
  const cost = el("div", { class: "cost" });
  const result = field("speed", group, { title: "Speed", body: el("div", {}, group, cost) });
  group.setAttribute("role", "radiogroup");
  group.removeAttribute("tabindex");
  state.watch(["speed"], () => {
    segments.forEach((segment, index) => {
      const chosen = (state.get("speed") ?? "") === names[index];
      segment.setAttribute("aria-checked", String(chosen));
      segment.tabIndex = chosen ? 0 : -1;
    });
  });
  check.addEventListener("checked", (event) => showCost(cost, /** @type {CustomEvent} */ (event).detail.cost ?? null));
  return { ...result, control: segments[0] };
}

/** @param {HTMLElement} place @param {import("./check.js").Cost | null} cost */
function showCost(place, cost) {
  if (!cost) {
    place.replaceChildren();
    return;
  }
  const share = cost.share ?? cost.macs / cost.macs_plain;
  const fill = el("span", { class: "meter-fill" });
  fill.style.setProperty("--share", String(Math.min(1, share)));
  place.replaceChildren(
    el("span", { class: "meter long", "aria-hidden": "true" }, fill),
    el("p", { class: "cost-words", text: costWords(cost, share) }),
    ...(cost.evidence ? [el("p", { class: "hint", text: sentence(cost.evidence) })] : []),
  );
}

/** @param {import("./check.js").Cost} cost @param {number} share */
export function costWords(cost, share) {
  const evaluations = `${cost.evaluations} ${cost.evaluations === 1 ? "evaluation" : "evaluations"} of the network`;
  const full = cost.full && cost.full < cost.evaluations ? `, ${cost.full} of them full` : "";
  if (share > 0.995) return `${evaluations}; nothing is reused`;
  return `${evaluations}${full}; ${(1 / share).toFixed(1)} times fewer multiplications`;
}
