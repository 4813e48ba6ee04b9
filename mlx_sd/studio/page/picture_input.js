/** A place for one picture: choose, drop, paste or take it from the gallery; the value is "upload:ID" or "gallery:NAME". */

import { button, el, freshId } from "./dom.js";
import { complain } from "./dialogs.js";
import { pathOf, sendPicture, showPicture } from "./server.js";

export const TYPES = ["image/png", "image/jpeg", "image/webp"];

/** What the page knows of pictures that it has sent, by their reference. @type {Map<string, {width: number, height: number}>} */
export const SIZES = new Map();

/**
 * Sends a picture and returns its reference; says what is wrong, and returns null, where the server refuses it.
 * @param {Blob} blob
 * @returns {Promise<string | null>}
 */
export async function upload(blob) {
  try {
    if (!TYPES.includes(blob.type)) throw new Error("Pictures are PNG, JPEG or WebP files");
    const { id, width, height } = await sendPicture("/api/images", blob);
    SIZES.set(`upload:${id}`, { width, height });
    return `upload:${id}`;
  } catch (error) {
    complain(error);
    return null;
  }
}

/** Returns the first picture among files that are dropped or pasted. @param {DataTransfer | null} data @returns {File | null} */
export const pictureIn = (data) => [...(data?.files ?? [])].find((file) => TYPES.includes(file.type)) ?? null;

/**
 * Returns a place for a picture.
 * @param {{label: string, words: string, change: (reference: string | null) => void, small?: boolean, receive?: (file: File) => void}} options
 *   receive: what is done with a file, where it is more than sending it
 * @returns {{element: HTMLElement, control: HTMLInputElement, show: (reference: string | null) => void}}
 */
export function pictureInput({ label, words, change, small = false, receive }) {
  const id = freshId("picture");
  /** @type {HTMLInputElement} */
  const file = el("input", { type: "file", id, accept: TYPES.join(","), class: "unseen", "aria-label": label });
  const image = el("img", { alt: "", class: "picked", hidden: true });
  const words_ = el("span", { class: "picture-words", text: words });
  const remove = button({
    icon: "close",
    label: `Take out: ${label}`,
    class: "icon-button tiny over",
    hidden: true,
    on: () => change(null),
  });
  const element = el(
    "div",
    { class: small ? "picture-input small" : "picture-input" },
    file,
    el("label", { for: id, class: "picture-label" }, image, words_),
    remove,
  );
  const take = async (/** @type {File} */ picture) => {
    if (receive) return receive(picture);
    element.classList.add("busy");
    const reference = await upload(picture);
    element.classList.remove("busy");
    if (reference) change(reference);
  };
  file.addEventListener("change", () => {
    const [picture] = file.files ?? [];
    if (picture) take(picture);
    file.value = "";
  });
  element.addEventListener("dragover", (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    element.classList.add("over");
  });
  element.addEventListener("dragleave", () => element.classList.remove("over"));
  element.addEventListener("drop", (/** @type {DragEvent} */ event) => {
    element.classList.remove("over");
    const picture = pictureIn(event.dataTransfer);
    if (!picture) return;
    event.preventDefault();
    event.stopPropagation();
    document.dispatchEvent(new Event("dropped"));
    take(picture);
  });
  return {
    element,
    control: file,
    show(reference) {
      const isThere = Boolean(reference);
      element.classList.toggle("filled", isThere);
      image.hidden = remove.hidden = !isThere;
      words_.hidden = isThere;
      if (reference) showPicture(image, pathOf(reference));
      else image.removeAttribute("src");
    },
  };
}
