/** What can be done with a finished picture, on the stage and in the detail view. */

import { button, el } from "./dom.js";
import { complain, menuButton, toast } from "./dialogs.js";
import { remove, saveAs, galleryPath, sendJson } from "./server.js";
import { asText } from "./words.js";

/**
 * What the actions need of the page.
 * @typedef {{
 *   state: import("./form_state.js").FormState,
 *   submit: (request: Record<string, any>) => void,
 *   toForm: () => void,
 *   paintMask: () => void,
 *   compare: (picture: Picture) => void,
 *   deleted: (name: string) => void,
 *   restored: (name: string) => void,
 *   fieldError: (field: string | null, message: string) => void,
 *   usePrompt: (text: string) => void,
 *   catalogue: () => Record<string, any[]>,
 * }} Context
 * @typedef {{name: string, request: Record<string, any>}} Picture
 */

/** Settings of a picture that end where another one begins. */
const NOT_CARRIED = {
  init_image: null,
  mask: null,
  strength: null,
  hires: null,
  extend: null,
};

/**
 * Returns the row of buttons.
 * @param {Picture} picture @param {Context} context @param {{close?: () => void}} [options]
 */
export function pictureActions(picture, context, { close = () => {} } = {}) {
  const { name, request } = picture;
  const { state } = context;
  const start = (/** @type {Record<string, any>} */ more = {}) => {
    close();
    state.assign({ ...NOT_CARRIED, init_image: `gallery:${name}`, ...more });
    context.toForm();
  };
  const reuse = () => {
    close();
    state.load(request);
    context.toForm();
    toast("The form has the settings of this picture");
  };
  const again = (/** @type {Record<string, any>} */ more) => {
    close();
    context.submit({ ...request, ...more });
  };
  return el(
    "div",
    { class: "actions" },
    button({ icon: "image", words: "Begin with it", class: "button small", on: () => start() }),
    button({
      icon: "brush",
      words: "Paint a mask",
      class: "button small",
      on: () => {
        start();
        context.paintMask();
      },
    }),
    button({ icon: "enlarge", words: "Hires", class: "button small", on: () => again({ hires: "2", speed: null }) }),
    button({ icon: "reuse", words: "Use its settings", class: "button small", on: reuse }),
    button({ icon: "download", label: "Save the file", on: () => saveAs(galleryPath(name), name).catch(complain) }),
    button({
      icon: "trash",
      label: "Delete the picture",
      on: () => {
        close();
        moveToTrash(name, context);
      },
    }),
    menuButton(
      { icon: "dropdown", label: "More for this picture", title: "More for this picture", class: "icon-button" },
      (leave) => {
        const row = (/** @type {string} */ words, /** @type {any} */ shape, /** @type {() => void} */ run) =>
          button({
            icon: shape,
            words,
            class: "menu-row",
            on: () => {
              leave();
              run();
            },
          });
        return [
          row("Compare with another", "compare", () => {
            close();
            context.compare(picture);
          }),
          row("Upscale", "enlarge", () => upscale(picture, context, start)),
          row("The same with another seed", "dice", () => again({ seed: null })),
          row("Use its seed", "reuse", () => {
            close();
            state.set("seed", request.seed ?? null);
          }),
          row("Copy the settings", "copy", () => copySettings(request)),
        ];
      },
    ),
  );
}

/** @param {Record<string, any>} request */
export async function copySettings(request) {
  try {
    await navigator.clipboard.writeText(asText(request));
    toast("The settings are copied");
  } catch {
    toast("The browser does not let this page write to the clipboard", { kind: "error" });
  }
}

/** Moves a picture to the trash, and offers to take it back. @param {string} name @param {Context} context */
export async function moveToTrash(name, context) {
  let moved;
  try {
    moved = (await (await remove(`/api/gallery/${encodeURIComponent(name)}`)).json()).name;
  } catch (error) {
    complain(error);
    return;
  }
  context.deleted(name);
  const restore = async () => {
    try {
      await sendJson(`/api/trash/${encodeURIComponent(moved)}`, {});
      context.restored(name);
    } catch (error) {
      complain(error);
    }
  };
  toast("The picture is in the trash", { action: { words: "Undo", run: restore } });
}

/** @param {Picture} picture @param {Context} context @param {(more: Record<string, any>) => void} start */
function upscale(picture, context, start) {
  const [upscaler] = context.catalogue().upscalers ?? [];
  if (!upscaler) {
    toast("No upscaler is installed; add one under Models, for example stabilityai/stable-diffusion-x4-upscaler", {
      kind: "error",
    });
    return;
  }
  start({
    model: upscaler.id,
    prompt: picture.request.prompt,
    width: null,
    height: null,
    steps: null,
    sampler: null,
    schedule: null,
    speed: null,
    guidance: null,
    loras: null,
  });
  toast(`The form is set to ${upscaler.title}: press Generate to enlarge the picture four times`);
}
