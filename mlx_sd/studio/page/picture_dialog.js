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
  let current = list.entries[index].name;
  let last = index;
  const image = el("img", { class: "detail-image" });
  const side = el("div", { class: "detail-side" });
  /** Returns where the picture stands now: new pictures move it back. */
  const place = () => {
    const now = list.entries.findIndex((entry) => entry.name === current);
    if (now >= 0) last = now;
    return last;
  };
  const step = (/** @type {number} */ by) => {
    const next = place() + by;
    if (!list.entries[next]) return;
    current = list.entries[next].name;
    list.need(next).catch(complain);
    show();
  };
  const offerSteps = () => {
    before.disabled = place() === 0;
    after.disabled = place() >= list.entries.length - 1;
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
    closed: () => {
      list.removeEventListener("change", offerSteps);
      closed(place());
    },
  });
  list.addEventListener("change", offerSteps);
  dialog.addEventListener("keydown", (event) => {
    if (event.target instanceof HTMLInputElement) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });

  const show = async () => {
    const { name, prompt } = list.entries[place()];
    offerSteps();
    image.alt = prompt || name;
    showPicture(image, galleryPath(name));
    side.replaceChildren(
      el("p", { class: "detail-prompt", text: prompt ?? "" }),
      el("div", { class: "skeleton" }),
      el("div", { class: "skeleton" }),
    );
    try {
      const answer = await details(name);
      if (current === name) fill(side, name, answer, context, () => dialog.close());
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
