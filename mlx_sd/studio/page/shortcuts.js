/** The keys of the page, and the dialog that lists them. */

import { byId, el, icon, isTyping } from "./dom.js";
import { openDialog } from "./dialogs.js";

const LIST = [
  ["Ctrl Enter", "generate (Cmd Enter on a Mac)"],
  ["/", "go to the prompt, in the gallery to the search"],
  ["1  2  3", "create, gallery, models"],
  ["Up  Down", "in an empty prompt: those used before"],
  ["Escape", "close what is open"],
  ["?", "this list"],
  ["Arrows", "in the gallery and in a picture: go to the next one"],
  ["C", "in the gallery: pick to compare"],
  ["Delete", "in the gallery: move to the trash"],
  ["B  E  I", "in a mask: brush, eraser, invert"],
  ["[  ]", "in a mask: smaller and larger brush"],
  ["Ctrl Z", "in a mask: undo; with Shift: redo"],
  ["Arrows, space", "in a mask: move the brush, paint"],
];

/** Listens for the keys. @param {{generate: () => void, prompt: HTMLElement, search: HTMLElement}} targets */
export function watchKeys({ generate, prompt, search }) {
  const opener = byId("shortcuts-button");
  opener.append(icon("keyboard"));
  byId("theme-button").append(icon("theme"));
  opener.addEventListener("click", showShortcuts);
  addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      if (document.querySelector("dialog[open]")) return;
      event.preventDefault();
      generate();
    }
    if (
      event.ctrlKey ||
      event.metaKey ||
      event.altKey ||
      isTyping(event.target) ||
      document.querySelector("dialog[open]")
    )
      return;
    const view = { 1: "create", 2: "gallery", 3: "models" }[event.key];
    if (view) location.hash = view;
    if (event.key === "?") showShortcuts();
    if (event.key === "/") {
      event.preventDefault();
      (location.hash === "#gallery" ? search : prompt).focus();
    }
  });
}

function showShortcuts() {
  openDialog({
    title: "Keyboard shortcuts",
    class: "small",
    body: [
      el(
        "dl",
        { class: "keys" },
        ...LIST.map(([keys, words]) =>
          el(
            "div",
            {},
            el(
              "dt",
              {},
              ...keys
                .split(" ")
                .filter(Boolean)
                .map((key) => el("kbd", { text: key })),
            ),
            el("dd", { text: words }),
          ),
        ),
      ),
    ],
  });
}
