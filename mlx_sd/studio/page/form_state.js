/** The values of the form by the names that the server's JSON has, kept over a reload. */

const KEY = "mlx-sd-form";
const CLIENT = "mlx-sd-client";

/** Settings that belong to a picture and are recorded in it, and are not chosen. */
const RECORDED = /_hash(es)?$/;

/** Returns the id by which the server knows this browser, so that clients take turns. */
export function clientId() {
  let id = localStorage.getItem(CLIENT);
  if (!id) {
    id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (n) => n.toString(16).padStart(2, "0")).join("");
    localStorage.setItem(CLIENT, id);
  }
  return id;
}

/** Settings about a mask, which end with it: the server refuses them alone. */
const OF_A_MASK = { mask_blur: null, only_masked: null, padding: null };

/** @param {unknown} value */
const isNothing = (value) =>
  value === null || value === undefined || value === "" || (Array.isArray(value) && !value.length);

/** Holds values and tells listeners of "change" ({names}), with null where the server's default applies. */
export class FormState extends EventTarget {
  /** @type {Record<string, any>} */
  #values = {};
  /** @type {Record<string, any>} default values by name, as the server states them */
  #defaults = {};

  /** @type {Record<string, any>} what the server fills in */
  #completed = {};

  /** @param {Array<{name: string, default?: any}>} settings */
  constructor(settings) {
    super();
    this.#defaults = Object.fromEntries(settings.map((setting) => [setting.name, setting.default]));
    try {
      this.#values = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    } catch {
      this.#values = {};
    }
  }

  /** @param {string} name @returns {any} */
  get(name) {
    return this.#values[name] ?? null;
  }

  /** Returns the value that will be used: the form's, or what the server puts in its place. @param {string} name @returns {any} */
  effective(name) {
    return this.get(name) ?? this.#completed[name] ?? null;
  }

  /** Takes what the server fills in for what the form leaves open. @param {Record<string, any>} values */
  complete(values) {
    this.#completed = values;
    this.dispatchEvent(new Event("completed"));
  }

  /**
   * Runs `show` now, and whenever one of the settings changes or what the server puts in its place.
   * @param {string[]} names @param {() => void} show
   */
  watch(names, show) {
    show();
    this.addEventListener("completed", show);
    this.addEventListener("change", (event) => {
      const changed = /** @type {CustomEvent} */ (event).detail.names;
      if (names.some((name) => changed.includes(name))) show();
    });
  }

  /** How many pictures a submission asks for. @returns {number} */
  get count() {
    return this.#values[" count"] ?? 1;
  }

  set count(value) {
    this.#values[" count"] = value;
    this.#changed([" count"]);
  }

  /** @param {string} name @param {any} value */
  set(name, value) {
    this.assign({ [name]: value });
  }

  /** Sets several values at once; where the mask goes, its settings go too. @param {Record<string, any>} changes */
  assign(changes) {
    const values = "mask" in changes && isNothing(changes.mask) ? { ...changes, ...OF_A_MASK } : changes;
    const names = Object.keys(values).filter(
      (name) => JSON.stringify(this.get(name)) !== JSON.stringify(values[name] ?? null),
    );
    for (const name of names) {
      if (isNothing(values[name])) delete this.#values[name];
      else this.#values[name] = values[name];
    }
    if (names.length) this.#changed(names);
  }

  /**
   * Puts the settings of a picture in the place of all of the form's; what the picture does not say is the default.
   * @param {Record<string, any>} request
   * @param {{keep?: string[]}} [options] names whose values stay
   */
  load(request, { keep = [] } = {}) {
    const before = Object.keys(this.#values).filter((name) => !name.startsWith(" ") && !keep.includes(name));
    const values = Object.fromEntries(before.map((name) => [name, null]));
    for (const [name, value] of Object.entries(request)) {
      if (keep.includes(name) || RECORDED.test(name)) continue;
      values[name] = JSON.stringify(value) === JSON.stringify(this.#defaults[name] ?? null) ? null : value;
    }
    this.assign(values);
  }

  /** Returns the names whose values differ from the default. */
  changedNames() {
    return Object.keys(this.#values).filter((name) => !name.startsWith(" "));
  }

  /** Returns the request that the form describes, without what is left to the server. @returns {Record<string, any>} */
  request() {
    return Object.fromEntries(Object.entries(this.#values).filter(([name]) => !name.startsWith(" ")));
  }

  /** @param {string[]} names */
  #changed(names) {
    localStorage.setItem(KEY, JSON.stringify(this.#values));
    this.dispatchEvent(new CustomEvent("change", { detail: { names } }));
  }
}
