/** The two menus above the prompt: named styles, which the server keeps, and prompts used before. */

import { button, el } from "./dom.js";
import { complain, menuButton, toast } from "./dialogs.js";
import { promptsUsed } from "./prompt_history.js";
import { getJson, sendJson } from "./server.js";

/** @typedef {{name: string, prompt: string, negative: string}} Style */

/** @type {Style[]} */
let styles = [];

/**
 * Returns the menus.
 * @param {import("./form_state.js").FormState} state
 */
export function promptMenus(state) {
  getJson("/api/styles")
    .then((answer) => (styles = answer.styles ?? answer))
    .catch(() => {});
  return el(
    "span",
    { class: "head-tools" },
    menuButton({ icon: "star", label: "Styles", title: "Styles", class: "icon-button tiny" }, (close) =>
      styleRows(state, close),
    ),
    menuButton(
      { icon: "history", label: "Prompts used before", title: "Prompts used before", class: "icon-button tiny" },
      (close) => historyRows(state, close),
    ),
  );
}

/** @param {import("./form_state.js").FormState} state @param {() => void} close */
function historyRows(state, close) {
  const prompts = promptsUsed();
  if (!prompts.length)
    return [
      el("p", {
        class: "menu-empty",
        text: "Prompts that you have used are listed here. In an empty field, the arrow keys go through them too.",
      }),
    ];
  return [
    el("p", { class: "menu-title", text: "Prompts used before" }),
    ...prompts.map((text) =>
      button({
        words: text,
        class: "menu-row",
        on: () => {
          state.set("prompt", text);
          close();
        },
      }),
    ),
  ];
}

/** @param {import("./form_state.js").FormState} state @param {() => void} close */
function styleRows(state, close) {
  const rows = styles.map((style) =>
    el(
      "div",
      { class: "menu-pair" },
      button({
        words: style.name,
        class: "menu-row",
        on: () => {
          apply(style, state);
          close();
        },
      }),
      button({
        icon: "trash",
        label: `Delete the style ${style.name}`,
        class: "icon-button tiny",
        on: () => {
          save(styles.filter((other) => other !== style));
          close();
        },
      }),
    ),
  );
  const name = el("input", {
    class: "input",
    type: "text",
    placeholder: "Name of a new style",
    "aria-label": "Name of a new style",
    maxlength: 80,
  });
  const form = el(
    "form",
    { class: "menu-form" },
    name,
    button({ words: "Save", class: "button small", type: "submit" }),
  );
  form.addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    const style = { name: name.value.trim(), prompt: state.get("prompt") ?? "", negative: state.get("negative") ?? "" };
    if (!style.name) return;
    save([...styles.filter((other) => other.name !== style.name), style]);
    toast(`The prompts are saved as the style “${style.name}”`);
    close();
  });
  return [
    el("p", { class: "menu-title", text: "Styles" }),
    rows.length > 0 && el("div", {}, ...rows),
    el("p", {
      class: "menu-empty",
      text: rows.length
        ? "A style is put behind your prompt, or around it where it says {prompt}."
        : "Save the prompts of the form under a name, and use them again.",
    }),
    form,
  ].filter((node) => node instanceof Node);
}

/** @param {Style[]} list */
async function save(list) {
  try {
    await sendJson("/api/styles", { styles: list }, { method: "PUT" });
    styles = list;
  } catch (error) {
    complain(error);
  }
}

/** @param {Style} style @param {import("./form_state.js").FormState} state */
function apply(style, state) {
  state.assign({
    prompt: joined(state.get("prompt"), style.prompt),
    negative: joined(state.get("negative"), style.negative),
  });
}

/** @param {string | null} text @param {string} style */
function joined(text, style) {
  if (style.includes("{prompt}")) return style.replace("{prompt}", text ?? "");
  return [text, style].filter(Boolean).join(", ");
}
