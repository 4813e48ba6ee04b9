/** Dialogs, questions, menus and messages, all of which Escape closes. */

import { announce, button, byId, el, freshId } from "./dom.js";

/**
 * Opens a dialog and returns it. It is taken out of the page when it closes, and the focus goes back.
 * @param {{title: string, body: Node[], foot?: Node[], class?: string, closed?: () => void}} options
 * @returns {HTMLDialogElement}
 */
export function openDialog({ title, body, foot = [], class: names = "", closed }) {
  const id = freshId("dialog");
  const before = document.activeElement;
  /** @type {HTMLDialogElement} */
  const dialog = el(
    "dialog",
    { class: `dialog ${names}`, "aria-labelledby": id },
    el(
      "header",
      { class: "dialog-head" },
      el("h2", { id, text: title }),
      button({ icon: "close", label: "Close", on: () => dialog.close() }),
    ),
    el("div", { class: "dialog-body" }, ...body),
    foot.length > 0 && el("footer", { class: "dialog-foot" }, ...foot),
  );
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // the backdrop
  });
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (before instanceof HTMLElement) before.focus();
    closed?.();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/**
 * Asks a question and returns whether the answer is yes.
 * @param {string} question
 * @param {{detail?: string, yes?: string, danger?: boolean}} [options]
 * @returns {Promise<boolean>}
 */
export function ask(question, { detail = "", yes = "Yes", danger = false } = {}) {
  return new Promise((resolve) => {
    let agreed = false;
    const agree = button({
      words: yes,
      class: danger ? "button danger" : "button primary",
      on: () => {
        agreed = true;
        dialog.close();
      },
    });
    const dialog = openDialog({
      title: question,
      class: "small",
      body: [el("p", { text: detail })],
      foot: [button({ words: "Cancel", on: () => dialog.close() }), agree],
      closed: () => resolve(agreed),
    });
    agree.focus();
  });
}

/**
 * Shows a message for some seconds, longer where it offers something to do.
 * @param {string} words
 * @param {{kind?: "plain" | "error", action?: {words: string, run: () => void}}} [options]
 */
export function toast(words, { kind = "plain", action } = {}) {
  announce(words, kind === "error");
  const message = el("div", { class: `toast ${kind}` }, el("p", { text: words }));
  const leave = () => message.remove();
  if (action)
    message.append(
      button({
        words: action.words,
        class: "button small",
        on: () => {
          action.run();
          leave();
        },
      }),
    );
  message.append(button({ icon: "close", label: "Close the message", class: "icon-button tiny", on: leave }));
  byId("toasts").append(message);
  let timer = setTimeout(leave, action || kind === "error" ? 10_000 : 4_000);
  message.addEventListener("pointerenter", () => clearTimeout(timer));
  message.addEventListener("focusin", () => clearTimeout(timer));
  message.addEventListener("pointerleave", () => (timer = setTimeout(leave, 4_000)));
}

/** Shows what went wrong, where no field is concerned. @param {unknown} error */
export const complain = (error) => toast(error instanceof Error ? error.message : String(error), { kind: "error" });

/**
 * Returns a button that opens a panel below it, which Escape and a click elsewhere close.
 * @param {{icon?: any, words?: string, label?: string, class?: string, title: string}} face
 * @param {(close: () => void) => Node[]} content made anew each time the panel opens
 * @returns {HTMLElement}
 */
export function menuButton(face, content) {
  const id = freshId("menu");
  const panel = el("div", { class: "menu", id, popover: "auto", role: "dialog", "aria-label": face.title });
  const opener = button({ ...face, popovertarget: id, "aria-haspopup": "dialog", "aria-expanded": "false" });
  opener.removeAttribute("title");
  panel.addEventListener("beforetoggle", (/** @type {any} */ event) => {
    if (event.newState === "open") panel.replaceChildren(...content(() => panel.hidePopover()));
  });
  panel.addEventListener("toggle", (/** @type {any} */ event) => {
    opener.setAttribute("aria-expanded", String(event.newState === "open"));
    if (event.newState !== "open") return;
    place(panel, opener);
    /** @type {HTMLElement | null} */ (panel.querySelector("button, input"))?.focus();
  });
  panel.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => walk(event, panel));
  return el("span", { class: "menu-anchor" }, opener, panel);
}

/** Puts a panel below its button, inside the window. @param {HTMLElement} panel @param {HTMLElement} opener */
function place(panel, opener) {
  const box = opener.getBoundingClientRect();
  const size = panel.getBoundingClientRect();
  const left = Math.max(8, Math.min(box.right - size.width, innerWidth - size.width - 8));
  const below = box.bottom + 6;
  const top = below + size.height > innerHeight - 8 ? Math.max(8, box.top - size.height - 6) : below;
  panel.style.setProperty("left", `${left}px`);
  panel.style.setProperty("top", `${top}px`);
}

/** Moves the focus in a menu by the arrow keys. @param {KeyboardEvent} event @param {HTMLElement} panel */
function walk(event, panel) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const buttons = [.../** @type {NodeListOf<HTMLElement>} */ (panel.querySelectorAll("button, input"))];
  const index = buttons.indexOf(/** @type {HTMLElement} */ (document.activeElement));
  buttons[(index + step + buttons.length) % buttons.length]?.focus();
  event.preventDefault();
}
