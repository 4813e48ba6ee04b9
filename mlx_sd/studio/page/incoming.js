/** Pictures from outside: dropped anywhere, pasted, or chosen. One with settings in it may fill the form. */

import { byId, button, el } from "./dom.js";
import { openDialog, toast } from "./dialogs.js";
import { pictureIn, upload } from "./picture_input.js";
import { sendPicture } from "./server.js";
import { settingsOf } from "./words.js";

/** Takes pictures that are dropped on the page or pasted. @param {(file: File) => void} receive */
export function watchForPictures(receive) {
  const veil = byId("drop-veil");
  const hasFiles = (/** @type {DragEvent} */ event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  let depth = 0;
  const show = (/** @type {number} */ by) => {
    depth = by === 0 ? 0 : Math.max(0, depth + by);
    veil.hidden = depth === 0;
  };
  addEventListener("dragenter", (event) => hasFiles(event) && !document.querySelector("dialog[open]") && show(1));
  addEventListener("dragleave", (event) => hasFiles(event) && show(-1));
  document.addEventListener("dropped", () => show(0));
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    show(0);
    if (!hasFiles(event)) return;
    event.preventDefault();
    const file = pictureIn(event.dataTransfer);
    if (file) receive(file);
    else toast("Only PNG, JPEG and WebP pictures can be dropped here", { kind: "error" });
  });
  addEventListener("paste", (event) => {
    const file = pictureIn(event.clipboardData);
    if (!file) return; // text goes where the cursor is
    event.preventDefault();
    receive(file);
  });
}

/**
 * Returns what is done with a picture from outside: its settings are read, and the user chooses.
 * @param {import("./form_state.js").FormState} state @param {() => void} toForm
 */
export function receiver(state, toForm) {
  const begin = async (/** @type {File} */ file) => {
    const reference = await upload(file);
    if (!reference) return;
    state.assign({ init_image: reference, mask: null });
    toForm();
    toast("The next picture begins with this one");
  };
  return async (/** @type {File} */ file) => {
    let answer;
    try {
      answer = await sendPicture("/api/read", file);
    } catch {
      answer = null; // nothing can be read: it is a picture to begin with, or the upload says what is wrong
    }
    const request = answer?.request ?? null;
    if (!request || !Object.keys(request).length) return begin(file);
    choose(
      file,
      request,
      answer.remarks ?? [],
      () => begin(file),
      () => {
        state.load(request);
        toForm();
        toast("The form has the settings of the picture");
      },
    );
  };
}

/** @param {File} file @param {Record<string, any>} request @param {string[]} remarks @param {() => void} begin @param {() => void} load */
function choose(file, request, remarks, begin, load) {
  const picture = el("img", { alt: "", class: "choice-picture" });
  const url = URL.createObjectURL(file);
  picture.src = url;
  const rows = settingsOf(request).slice(0, 8);
  const asImage = button({
    icon: "image",
    words: "Begin with the picture",
    class: "button",
    on: () => {
      dialog.close();
      begin();
    },
  });
  const asSettings = button({
    icon: "sliders",
    words: "Use its settings",
    class: "button primary",
    on: () => {
      dialog.close();
      load();
    },
  });
  const dialog = openDialog({
    title: "This picture says how it was made",
    class: "choice",
    body: [
      picture,
      el(
        "div",
        { class: "choice-side" },
        el("p", { class: "detail-prompt", text: request.prompt ?? "" }),
        el(
          "dl",
          { class: "settings-list" },
          ...rows.map((row) => el("div", {}, el("dt", { text: row.title }), el("dd", { text: row.text }))),
        ),
        ...remarks.map((text) => el("p", { class: "hint", text })),
      ),
    ],
    foot: [asImage, asSettings],
    closed: () => URL.revokeObjectURL(url),
  });
  asSettings.focus();
}
