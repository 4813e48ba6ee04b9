/** Small helpers over the DOM: elements, icons, words for screen readers, delays. */

import { SHAPES } from "./icons.js";

const SVG = "http://www.w3.org/2000/svg";

/**
 * Returns a new element. `properties` become attributes; `class`, `text`, `on` (listeners by event) and `style` (CSS
 * properties, set one by one as the content security policy asks) have meanings of their own. False and null are left out.
 * @param {string} tag
 * @param {Record<string, any>} [properties]
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {any}
 */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name === "on") {
      for (const [event, listener] of Object.entries(value))
        element.addEventListener(event, /** @type {any} */ (listener));
    } else if (name === "style") {
      for (const [property, css] of Object.entries(value)) element.style.setProperty(property, String(css));
    } else if (name === "value") /** @type {any} */ (element).value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) if (child) element.append(child);
  return element;
}

/**
 * Returns the element with this id, which the page has.
 * @param {string} id
 * @returns {any}
 */
export const byId = (id) => document.getElementById(id);

/**
 * Returns an icon that screen readers skip.
 * @param {keyof typeof SHAPES} name
 */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  for (const shape of SHAPES[name]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", shape);
    svg.append(path);
  }
  return svg;
}

/**
 * Returns a button with an icon, words or both; without words the label is for screen readers and the tip.
 * @param {{icon?: keyof typeof SHAPES, words?: string, label?: string, class?: string, id?: string, on?: () => void, [name: string]: any}} options
 * @returns {HTMLButtonElement}
 */
export function button({ icon: shape, words, label, class: names, on, ...others }) {
  return el(
    "button",
    {
      type: "button",
      class: names ?? (words ? "button" : "icon-button"),
      "aria-label": words ? label : (label ?? ""),
      title: words ? null : label,
      on: on ? { click: on } : {},
      ...others,
    },
    shape && icon(shape),
    words && el("span", { text: words }),
  );
}

/** Shows on a slider's track how far its thumb is. @param {any} slider */
export function fillSlider(slider) {
  const { min, max, value } = slider;
  slider.style.setProperty("--share", String((Number(value) - Number(min)) / (Number(max) - Number(min))));
}

/**
 * Returns a slider whose track shows its value.
 * @param {{label: string, min: number, max: number, step?: number, value?: number | string, [name: string]: any}} options
 * @returns {HTMLInputElement}
 */
export function slider({ label, ...options }) {
  const range = el("input", { class: "slider", type: "range", "aria-label": label, ...options });
  range.addEventListener("input", () => fillSlider(range));
  fillSlider(range);
  return range;
}

/**
 * Says words to screen readers: politely, or at once for errors.
 * @param {string} words
 * @param {boolean} [urgent]
 */
export function announce(words, urgent = false) {
  const region = byId(urgent ? "urgent" : "polite");
  region.textContent = "";
  setTimeout(() => (region.textContent = words), 30);
}

/**
 * Returns a function that waits until it has not been called for so many milliseconds.
 * @template {any[]} A
 * @param {(...values: A) => void} action
 * @param {number} delay
 */
export function debounced(action, delay) {
  let timer = 0;
  return (/** @type {A} */ ...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), delay);
  };
}

let serial = 0;

/** Returns an id that no other element has. @param {string} stem */
export const freshId = (stem) => `${stem}-${++serial}`;

/** Returns whether the user is typing text, where keys alone are no shortcuts. @param {EventTarget | null} target */
export const isTyping = (target) =>
  target instanceof Element && target.matches("input, textarea, select, [contenteditable]");
