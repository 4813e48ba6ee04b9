/** Lists of networks beside the model: LoRAs, embeddings, control networks, T2I-Adapters, IP-Adapters. */

import { button, el, fillSlider, slider } from "./dom.js";
import { field, sentence } from "./fields.js";
import { pictureInput } from "./picture_input.js";
import { titleOf } from "./setting_groups.js";

const MAKERS = ["", "canny", "scribble", "softedge", "tile", "grey", "inpaint"];

/**
 * The parts of an entry, by the setting. `list` is the catalogue's key and `key` where the entry holds the network's id.
 * @type {Record<string, {list: string, key: string, start: Record<string, any>, parts: Array<"scale" | "image" | "maker" | "span" | "name">, add: string, none: string}>}
 */
const KINDS = {
  loras: {
    list: "loras",
    key: "id",
    start: { scale: 1 },
    parts: ["scale"],
    add: "Add a LoRA",
    none: "No LoRAs here. Put .safetensors files into the LoRA folder.",
  },
  embeddings: {
    list: "embeddings",
    key: "id",
    start: {},
    parts: ["name"],
    add: "Add an embedding",
    none: "No embeddings here. Put .safetensors files into the folder of embeddings.",
  },
  controls: {
    list: "control_networks",
    key: "model",
    start: { scale: 1, start: 0, end: 1 },
    parts: ["image", "maker", "scale", "span"],
    add: "Add a control network",
    none: "No control networks here. Add one under Models.",
  },
  adapters: {
    list: "adapters",
    key: "model",
    start: { scale: 1 },
    parts: ["image", "scale"],
    add: "Add a T2I-Adapter",
    none: "No T2I-Adapters here. Add one under Models.",
  },
  ip_adapters: {
    list: "image_prompts",
    key: "model",
    start: { scale: 1, images: [] },
    parts: ["image", "scale"],
    add: "Add an IP-Adapter",
    none: "No IP-Adapters here. Add one under Models.",
  },
};

/** Settings that this module shows. */
export const NETWORK_SETTINGS = Object.keys(KINDS);

/**
 * Returns the field of one of these settings.
 * @param {{name: string, help: string}} setting
 * @param {import("./form_state.js").FormState} state
 * @param {Record<string, any[]>} catalogue
 */
export function networkField(setting, state, catalogue) {
  const { name } = setting;
  const kind = KINDS[name];
  const networks = () => catalogue[kind.list] ?? [];
  const list = el("div", { class: "network-list" });
  const entries = () => /** @type {any[]} */ (state.get(name) ?? []);
  const change = (/** @type {any[]} */ value) => state.set(name, value.length ? value : null);
  const add = button({
    icon: "add",
    words: kind.add,
    class: "button small",
    on: () => {
      const [first] = networks();
      if (first) change([...entries(), { [kind.key]: first.id, ...kind.start }]);
      /** @type {HTMLElement | null} */ (list.querySelector(".network:last-child select"))?.focus();
    },
  });
  const body = el("div", { class: "networks" }, list, add);
  const result = field(name, body, {
    help: name === "loras" ? "" : simpler(setting.help),
    wide: true,
    reset: () => state.set(name, null),
  });
  let drawn = "";
  state.watch([name], () => {
    const value = entries();
    result.markChanged(value.length > 0);
    const identity = JSON.stringify(value.map((entry) => [entry[kind.key], entry.image ?? entry.images]));
    if (identity === drawn) return; // scales change in place, so that a slider keeps the focus
    drawn = identity;
    list.replaceChildren(...value.map((_, index) => networkRow(kind, index, entries, change, networks())));
  });
  const empty = el("p", { class: "hint", text: kind.none });
  if (!networks().length) {
    add.hidden = true;
    body.append(empty);
  }
  return result;
}

/** Returns a help text without the part that is about the command line. @param {string} help */
const simpler = (help) =>
  sentence(
    help
      .split(";")[0]
      .replace(/, by an? .*$/, "")
      .replace(/: a safetensors.*$/, ""),
  );

/**
 * @param {typeof KINDS[string]} kind @param {number} index @param {() => any[]} entries
 * @param {(value: any[]) => void} change @param {any[]} networks
 */
function networkRow(kind, index, entries, change, networks) {
  const entry = entries()[index];
  const put = (/** @type {Record<string, any>} */ values) =>
    change(entries().map((other, i) => (i === index ? { ...other, ...values } : other)));
  const names = networks.map((network) =>
    el("option", { value: network.id, text: network.title ?? network.name ?? network.id }),
  );
  if (!networks.some((network) => network.id === entry[kind.key]))
    names.push(el("option", { value: entry[kind.key], text: `${entry[kind.key]} (not here)` }));
  const choice = el("select", { class: "input select", "aria-label": "Network" }, ...names);
  choice.value = entry[kind.key];
  choice.addEventListener("change", () => put({ [kind.key]: choice.value }));
  const remove = button({
    icon: "close",
    label: "Take this network out",
    on: () => change(entries().filter((_, i) => i !== index)),
  });
  const parts = {
    scale: () => scalePart(entry, put),
    image: () => imagePart(entry, put),
    maker: () => makerPart(entry, put),
    span: () => spanPart(entry, put),
    name: () => namePart(entry, put),
  };
  return el(
    "div",
    { class: "network" },
    el("div", { class: "network-head" }, choice, remove),
    ...kind.parts.map((part) => parts[part]()),
  );
}

/** @typedef {(values: Record<string, any>) => void} Put */

/** @param {any} entry @param {Put} put */
function scalePart(entry, put) {
  const range = slider({ label: "Scale, slider", min: -1, max: 2, step: 0.05, value: entry.scale, tabindex: -1 });
  const number = el("input", {
    class: "input number",
    type: "number",
    step: 0.05,
    value: entry.scale,
    "aria-label": "Scale",
  });
  range.addEventListener("input", () => {
    number.value = range.value;
    put({ scale: Number(range.value) });
  });
  number.addEventListener("input", () => {
    if (number.value === "") return;
    range.value = number.value;
    fillSlider(range);
    put({ scale: Number(number.value) });
  });
  return el("div", { class: "slider-row" }, range, number);
}

/** @param {any} entry @param {Put} put */
function imagePart(entry, put) {
  const isList = "images" in entry;
  const input = pictureInput({
    label: "Picture that the network sees",
    words: "Drop or choose a picture",
    small: true,
    change: (reference) => put(isList ? { images: reference ? [reference] : [] } : { image: reference }),
  });
  input.show(isList ? (entry.images[0] ?? null) : (entry.image ?? null));
  return input.element;
}

/** @param {any} entry @param {Put} put */
function makerPart(entry, put) {
  const choice = el(
    "select",
    { class: "input select", "aria-label": "How the control image is made" },
    ...MAKERS.map((maker) => el("option", { value: maker, text: maker ? `made by ${maker}` : "the picture as it is" })),
  );
  choice.value = entry.maker ?? "";
  choice.addEventListener("change", () => put({ maker: choice.value || null }));
  return choice;
}

/** @param {any} entry @param {Put} put */
function spanPart(entry, put) {
  const number = (/** @type {"start" | "end"} */ key, /** @type {string} */ label) => {
    const input = el("input", {
      class: "input number",
      type: "number",
      min: 0,
      max: 1,
      step: 0.05,
      value: entry[key],
      "aria-label": label,
    });
    input.addEventListener("change", () => put({ [key]: Number(input.value) }));
    return input;
  };
  return el(
    "div",
    { class: "span-row" },
    el("span", { text: "acts from" }),
    number("start", "Acts from, as a share of the steps"),
    el("span", { text: "to" }),
    number("end", "Acts to, as a share of the steps"),
  );
}

/** @param {any} entry @param {Put} put */
function namePart(entry, put) {
  const input = el("input", {
    class: "input",
    type: "text",
    value: entry.name ?? "",
    placeholder: "its word in prompts: the file's name",
    "aria-label": `Word in prompts for ${titleOf("embeddings")}`,
  });
  input.addEventListener("change", () => put({ name: input.value.trim() || null }));
  return input;
}
