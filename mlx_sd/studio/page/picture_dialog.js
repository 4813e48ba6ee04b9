/** One picture of the gallery, large, with all of its settings; the arrow keys go to the next. */

import { button, el } from "./dom.js";
import { complain, openDialog } from "./dialogs.js";
import { copySettings, pictureActions } from "./picture_actions.js";
import { galleryPath, getJson, showPicture } from "./server.js";
import { settingsOf } from "./words.js";

/** Returns what the server says of a picture. @param {string} name @returns {Promise<{name: string, request: Record<string, any> | null, [key: string]: any}>} */
export const details = (name) => getJson(`/api/gallery/${encodeURIComponent(name)}`);

/**
 * Opens the picture with this index.
 * @param {number} index @param {import("./gallery_list.js").GalleryList} list
 * @param {import("./picture_actions.js").Context} context @param {(last: number) => void} closed told the last index
 */
export function openPicture(index, list, context, closed) {
  let current = index;
  const image = el("img", { class: "detail-image" });
  const side = el("div", { class: "detail-side" });
  const step = (/** @type {number} */ by) => {
    const next = current + by;
    if (!list.entries[next]) return;
    current = next;
    list.need(next).catch(complain);
    show();
  };
  const before = button({
    icon: "left",
    label: "Newer picture",
    class: "icon-button round before",
    on: () => step(-1),
  });
  const after = button({ icon: "right", label: "Older picture", class: "icon-button round after", on: () => step(1) });
  const dialog = openDialog({
    title: "Picture",
    class: "detail",
    body: [el("div", { class: "detail-wall" }, image, before, after), side],
    closed: () => closed(current),
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.target instanceof HTMLInputElement) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });

  const show = async () => {
    const { name, prompt } = list.entries[current];
    before.disabled = current === 0;
    after.disabled = current >= list.entries.length - 1;
    image.alt = prompt || name;
    showPicture(image, galleryPath(name));
    side.replaceChildren(
      el("p", { class: "detail-prompt", text: prompt ?? "" }),
      el("div", { class: "skeleton" }),
      el("div", { class: "skeleton" }),
    );
    try {
      const answer = await details(name);
      if (list.entries[current]?.name === name) fill(side, name, answer, context, () => dialog.close());
    } catch (error) {
      complain(error);
    }
  };
  show();
}

/** @param {HTMLElement} side @param {string} name @param {any} answer @param {import("./picture_actions.js").Context} context @param {() => void} close */
function fill(side, name, answer, context, close) {
  const request = answer.request ?? {};
  const rows = settingsOf(request);
  side.replaceChildren(
    el("p", { class: "detail-prompt", text: request.prompt ?? "" }),
    ...(request.negative ? [el("p", { class: "detail-negative" }, el("b", { text: "Not: " }), request.negative)] : []),
    pictureActions({ name, request }, context, { close }),
    rows.length
      ? el(
          "dl",
          { class: "settings-list" },
          ...rows.map((row) => el("div", {}, el("dt", { text: row.title }), el("dd", { text: row.text }))),
        )
      : el("p", { class: "hint", text: "This file does not say what made it." }),
    el(
      "div",
      { class: "detail-foot" },
      el("p", { class: "file-name", text: name }),
      rows.length > 0 &&
        button({ icon: "copy", words: "Copy settings", class: "button small", on: () => copySettings(request) }),
    ),
  );
}
