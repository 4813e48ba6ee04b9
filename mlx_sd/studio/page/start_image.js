/** The picture that the generation begins with, how much of it changes, and the mask. */

import { button, el, fillSlider, slider } from "./dom.js";
import { field, settingField } from "./fields.js";
import { openMaskEditor } from "./mask_editor.js";
import { pictureInput } from "./picture_input.js";
import { pathOf, showPicture } from "./server.js";

/**
 * Returns the part of the form about the start picture.
 * @param {Record<string, any>} settings by name
 * @param {import("./form_state.js").FormState} state
 * @param {(file: File) => void} receive what is done with a file from outside
 * @returns {HTMLElement}
 */
export function startImage(settings, state, receive) {
  const input = pictureInput({
    label: "Start picture",
    words: "Drop, paste or choose a picture to begin with",
    receive,
    change: (reference) =>
      state.assign({ init_image: reference, mask: null, strength: reference ? state.get("strength") : null }),
  });
  const imageField = field("init_image", input.control, { title: "Start picture", body: input.element, wide: true });
  imageField.element.classList.add("start");

  const strength = settingField({ ...settings.strength, help: "" }, state);
  strength.label.textContent = "How much changes";
  const range = slider({ label: "How much changes, slider", min: 0.05, max: 1, step: 0.05, tabindex: -1 });
  range.addEventListener("input", () => state.set("strength", Number(range.value)));
  const row = el("div", { class: "slider-row" });
  strength.control.replaceWith(row);
  row.append(range, strength.control);

  const maskPicture = el("img", { class: "mask-picture", alt: "The mask", hidden: true });
  const paint = button({
    icon: "brush",
    words: "Paint a mask",
    class: "button small",
    on: () => openMaskEditor(state),
  });
  const noMask = button({
    icon: "close",
    label: "Take the mask out",
    class: "icon-button tiny",
    on: () => state.set("mask", null),
    hidden: true,
  });
  const maskField = field("mask", paint, {
    title: "Mask",
    body: el("div", { class: "mask-row" }, maskPicture, paint, noMask),
  });

  const more = el("div", { class: "start-more" }, strength.element, maskField.element);
  state.watch(["init_image", "mask", "strength"], () => {
    const [image, mask] = [state.get("init_image"), state.get("mask")];
    input.show(image);
    more.hidden = !image;
    maskPicture.hidden = noMask.hidden = !mask;
    if (mask) showPicture(maskPicture, pathOf(mask));
    /** @type {HTMLElement} */ (paint.querySelector("span")).textContent = mask ? "Change the mask" : "Paint a mask";
    const value = state.get("strength") ?? (mask ? 1 : 0.8);
    /** @type {HTMLInputElement} */ (strength.control).placeholder = mask ? "1" : "0.8";
    range.value = String(value);
    fillSlider(range);
  });
  return el("div", { class: "start-part" }, imageField.element, more);
}
