/** Settings, sizes and times in words for people. */

import { titleOf } from "./setting_groups.js";

const ORDER = [
  "model",
  "seed",
  "sampler",
  "schedule",
  "steps",
  "guidance",
  "width",
  "height",
  "speed",
  "deepcache",
  "tgate",
  "loras",
  "init_image",
  "strength",
  "mask",
  "hires",
];
const TEXTS = ["prompt", "negative", "prompt_2", "negative_2"];

/** Returns the value of a setting as text. @param {any} value @returns {string} */
export function valueText(value) {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return String(+value.toFixed(4));
  if (Array.isArray(value)) return value.length ? value.map(entryText).join(", ") : "–";
  if (typeof value === "object") return entryText(value);
  return String(value).replace(/^(upload|gallery):/, "");
}

/** @param {any} entry */
function entryText(entry) {
  if (typeof entry !== "object" || entry === null) return String(entry);
  const name = String(entry.id ?? entry.model ?? entry.name ?? "");
  return entry.scale === undefined ? name : `${name} ×${entry.scale}`;
}

/** @param {string} name */
const rank = (name) => {
  const place = ORDER.indexOf(name);
  return place < 0 ? ORDER.length : place;
};

/**
 * Returns the settings of a request that say something, in an order for people, without prompts and hashes.
 * @param {Record<string, any>} request
 * @returns {Array<{name: string, title: string, text: string}>}
 */
export function settingsOf(request) {
  return Object.keys(request)
    .filter(
      (name) =>
        !TEXTS.includes(name) && !/_hash(es)?$|^mlx_sd|^version$/.test(name) && valueText(request[name]) !== "–",
    )
    .sort((a, b) => rank(a) - rank(b))
    .map((name) => ({ name, title: titleOf(name), text: valueText(request[name]) }));
}

/**
 * Returns the settings in which two requests differ, prompts too.
 * @param {Record<string, any>} first @param {Record<string, any>} second
 * @returns {Array<{name: string, title: string, first: string, second: string}>}
 */
export function differences(first, second) {
  const names = [...new Set([...Object.keys(first), ...Object.keys(second)])].filter(
    (name) => !/_hash(es)?$/.test(name),
  );
  return names
    .map((name) => ({ name, title: titleOf(name), first: valueText(first[name]), second: valueText(second[name]) }))
    .filter((row) => row.first !== row.second)
    .sort((a, b) => Number(TEXTS.includes(b.name)) - Number(TEXTS.includes(a.name)) || rank(a.name) - rank(b.name));
}

/** Returns a request in one short line. @param {Record<string, any>} request */
export function summary(request) {
  const { width, height, steps, sampler, guidance, seed, speed } = request;
  return [
    width && height && `${width} × ${height}`,
    steps && `${steps} steps`,
    sampler,
    speed,
    guidance !== null && guidance !== undefined && `guidance ${valueText(guidance)}`,
    seed !== null && seed !== undefined && `seed ${seed}`,
  ]
    .filter(Boolean)
    .join(" · ");
}

/** Returns settings as text that can be pasted somewhere. @param {Record<string, any>} request */
export function asText(request) {
  const lines = TEXTS.filter((name) => request[name]).map((name) => `${titleOf(name)}: ${request[name]}`);
  return [...lines, ...settingsOf(request).map(({ title, text }) => `${title}: ${text}`)].join("\n");
}

/** @param {number | null | undefined} seconds */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
  if (seconds < 1) return "under a second";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}

/** @param {number} bytes */
export function bytes(bytes) {
  if (!bytes) return "";
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(bytes) / 3));
  const amount = bytes / 1000 ** power;
  return `${amount < 10 && power ? amount.toFixed(1) : Math.round(amount)} ${units[power]}`;
}
