/** The prompt and the negative prompt: fields that grow, count their tokens and remember what was typed. */

import { button, el, freshId } from "./dom.js";
import { field } from "./fields.js";
import { PromptHistory } from "./prompt_history.js";

/**
 * Returns the field of a prompt.
 * @param {"prompt" | "negative"} name
 * @param {import("./form_state.js").FormState} state
 * @param {import("./check.js").Check} check
 * @param {{rows: number, placeholder: string, aside?: Node, id?: string, title?: string}} options
 */
export function promptField(name, state, check, { rows, placeholder, aside, id, title }) {
  /** @type {HTMLTextAreaElement} */
  const area = el("textarea", { class: `input prompt ${name}`, rows, placeholder, spellcheck: "true", id });
  const meter = el("div", { class: "tokens" });
  const result = field(name, area, { wide: true, aside, title, body: el("div", { class: "prompt-body" }, area, meter) });
  const history = new PromptHistory(area, name, (text) => state.set(name, text));

  const grow = () => {
    area.style.setProperty("height", "auto");
    area.style.setProperty("height", `${area.scrollHeight + 2}px`);
  };
  const show = () => {
    const value = state.get(name) ?? "";
    if (area.value !== value) area.value = value;
    grow();
  };
  area.addEventListener("input", () => {
    state.set(name, area.value);
    history.typed();
    grow();
  });
  state.addEventListener("change", (event) => {
    if (/** @type {CustomEvent} */ (event).detail.names.includes(name)) show();
  });
  check.addEventListener("checked", (event) => {
    const counted = /** @type {CustomEvent} */ (event).detail[name];
    showTokens(meter, area.value ? (counted?.chunks ?? []) : []);
  });
  new ResizeObserver(grow).observe(result.element);
  show();
  return { ...result, area };
}

/**
 * Shows how full each chunk of the text encoder is, and the tokens with their weights.
 * @param {HTMLElement} place
 * @param {import("./check.js").Chunk[]} chunks
 */
function showTokens(place, chunks) {
  if (!chunks.length) {
    place.replaceChildren();
    return;
  }
  const open = place.querySelector("button")?.getAttribute("aria-expanded") === "true";
  const listId = freshId("tokens");
  const bars = chunks.map(({ length, room }, index) => {
    const words = `${length} of ${room} tokens`;
    const fill = el("span", { class: "meter-fill" });
    fill.style.setProperty("--share", String(Math.min(1, length / room)));
    return el("span", { class: "meter", title: chunks.length > 1 ? `Chunk ${index + 1}: ${words}` : words }, fill);
  });
  const total = chunks.map(({ length, room }) => `${length}/${room}`).join(" + ");
  const weighted = chunks.flatMap((chunk) => chunk.tokens).filter((token) => Math.abs(token.weight - 1) > 1e-6);
  const list = el(
    "div",
    { class: "token-list", id: listId, hidden: !open },
    ...chunks.flatMap((chunk, index) => [
      index > 0 && el("hr", { class: "chunk-end" }),
      ...chunk.tokens.map(tokenChip),
    ]),
  );
  const toggle = button({
    words: `${total} tokens`,
    class: "token-count",
    "aria-expanded": String(open),
    "aria-controls": listId,
    on: () => {
      list.hidden = !list.hidden;
      toggle.setAttribute("aria-expanded", String(!list.hidden));
    },
  });
  const few = weighted.length > 0 && el("span", { class: "weights" }, ...merged(weighted).slice(0, 6).map(tokenChip));
  place.replaceChildren(
    el("div", { class: "token-row" }, el("span", { class: "meters", "aria-hidden": "true" }, ...bars), toggle, few),
    list,
  );
}

/**
 * Returns tokens of the same weight that follow each other as one, for a short summary.
 * @param {Array<{text: string, weight: number}>} tokens
 */
function merged(tokens) {
  /** @type {Array<{text: string, weight: number}>} */
  const result = [];
  for (const token of tokens) {
    const last = result.at(-1);
    if (last && last.weight === token.weight) last.text = `${last.text} ${token.text}`;
    else result.push({ ...token });
  }
  return result;
}

/** @param {{text: string, weight: number}} token */
function tokenChip({ text, weight }) {
  const plain = Math.abs(weight - 1) < 1e-6;
  return el(
    "span",
    { class: plain ? "token" : weight > 1 ? "token more" : "token less" },
    text,
    !plain && el("b", { text: ` ×${+weight.toFixed(3)}` }),
  );
}
