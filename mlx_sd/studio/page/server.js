/** Everything that goes to the server: one place for the token, for errors and for pictures. */

const TOKEN = "mlx-sd-token";

/** An answer of the server that says what is wrong, with the field that it concerns. */
export class ServerError extends Error {
  /**
   * @param {string} message
   * @param {string | null} field
   * @param {number} status 0 where there was no answer
   */
  constructor(message, field, status) {
    super(message);
    this.field = field;
    this.status = status;
  }
}

/** Takes the token out of the address bar and keeps it for this tab. */
export function takeToken() {
  const match = /^#(?:.*&)?token=([^&]+)/.exec(location.hash);
  if (!match) return;
  sessionStorage.setItem(TOKEN, decodeURIComponent(match[1]));
  history.replaceState(null, "", location.pathname + location.search);
}

const token = () => sessionStorage.getItem(TOKEN);

/**
 * Returns the answer to a request with the token in it; ServerError where the server refuses or is not there.
 * @param {string} path
 * @param {RequestInit & {headers?: Record<string, string>}} [options]
 * @returns {Promise<Response>}
 */
export async function request(path, options = {}) {
  /** @type {Record<string, string>} */
  const headers = { ...options.headers };
  if (token()) headers.Authorization = `Bearer ${token()}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ServerError("The studio does not answer; is it still running?", null, 0);
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

/**
 * Returns what a refusal says, whatever form its body has.
 * @param {Response} answer
 */
async function refusal(answer) {
  let message = `The studio answered ${answer.status}`;
  let field = null;
  try {
    const { error } = await answer.json();
    message = error?.message ?? message;
    field = error?.field ?? null;
  } catch {
    // no JSON: the status alone has to do
  }
  if (answer.status === 401) message = "The token is missing or wrong; open the address that the studio printed";
  if (answer.status === 429) message += `; try again in ${answer.headers.get("Retry-After") ?? "a few"} seconds`;
  return new ServerError(message, field, answer.status);
}

/** Returns the JSON at a path. @param {string} path @param {AbortSignal} [signal] @returns {Promise<any>} */
export const getJson = async (path, signal) => (await request(path, { signal })).json();

/**
 * Sends JSON and returns the JSON of the answer, null where it has none.
 * @param {string} path
 * @param {unknown} body
 * @param {{method?: string, signal?: AbortSignal}} [options]
 * @returns {Promise<any>}
 */
export async function sendJson(path, body, { method = "POST", signal } = {}) {
  const answer = await request(path, {
    method,
    signal,
    body: JSON.stringify(body),
    headers: { "Content-Type": "application/json" },
  });
  const text = await answer.text();
  return text ? JSON.parse(text) : null;
}

/** Deletes what lies at a path. @param {string} path */
export const remove = (path) => request(path, { method: "DELETE" });

/**
 * Sends a picture file as it is and returns the JSON of the answer.
 * @param {string} path
 * @param {Blob} picture of the type image/png, image/jpeg or image/webp
 */
export async function sendPicture(path, picture) {
  const answer = await request(path, { method: "POST", body: picture, headers: { "Content-Type": picture.type } });
  return answer.json();
}

/** Returns the path of a picture that a setting names: "upload:ID" or "gallery:NAME". @param {string} reference */
export function pathOf(reference) {
  const [kind, ...name] = reference.split(":");
  const id = encodeURIComponent(name.join(":"));
  return kind === "gallery" ? `/api/gallery/${id}/picture` : `/api/images/${id}`;
}

/**
 * Returns the path of a picture of the gallery; with its version the browser may keep what it has loaded.
 * @param {string} name @param {"picture" | "thumbnail"} [size] @param {string} [version]
 */
export function galleryPath(name, size = "picture", version = "") {
  const query = version ? `?v=${encodeURIComponent(version)}` : "";
  return `/api/gallery/${encodeURIComponent(name)}/${size}${query}`;
}

const shownPaths = new WeakMap();

/**
 * Shows the picture at a path in an img. With a token the picture is fetched, because an img sends no token.
 * @param {HTMLImageElement} image
 * @param {string} path
 */
export async function showPicture(image, path) {
  shownPaths.set(image, path);
  if (!token()) {
    image.src = path;
    return;
  }
  try {
    const blob = await (await request(path)).blob();
    if (shownPaths.get(image) !== path) return;
    const url = URL.createObjectURL(blob);
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    image.src = url;
  } catch {
    if (shownPaths.get(image) === path) image.dispatchEvent(new Event("error"));
  }
}

/**
 * Saves the picture at a path as a file of the user's.
 * @param {string} path
 * @param {string} name
 */
export async function saveAs(path, name) {
  saveBlob(await (await request(path)).blob(), name);
}

/** Saves bytes as a file of the user's. @param {Blob} blob @param {string} name */
export function saveBlob(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
