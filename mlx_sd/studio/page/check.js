/** Asks the server about the form while it changes: tokens, weights, cost, and what is wrong. */

import { debounced } from "./dom.js";
import { clearErrors, fieldFor } from "./fields.js";
import { sendJson } from "./server.js";

const TRIES = 10;

/**
 * @typedef {{length: number, room: number, tokens: Array<{text: string, weight: number}>}} Chunk
 * @typedef {{evaluations: number, full?: number, macs: number, macs_plain: number, share: number, evidence: string | null}} Cost
 * @typedef {{errors: Array<{field: string | null, message: string}>, prompt?: {chunks: Chunk[]}, negative?: {chunks: Chunk[]}, cost?: Cost | null,
 *   completed?: Record<string, any> | null}} Checked
 */

/** Tells listeners of "checked" what the server says about the form as it is. */
export class Check extends EventTarget {
  #stop = new AbortController();
  #timer = 0;
  #noPrompt = false;
  #tries = 0; // how often the answer was incomplete because the server was busy
  /** @type {Checked | null} */
  last = null;

  /** @param {import("./form_state.js").FormState} state */
  constructor(state) {
    super();
    this.state = state;
    const soon = debounced(() => this.run(), 350);
    state.watch(["model"], () => (this.#noPrompt = false));
    state.addEventListener("change", soon);
  }

  /** Returns the form's request; a prompt that is still to be written is no mistake yet. */
  #request() {
    const request = this.state.request();
    return request.prompt || request.class !== undefined || this.#noPrompt ? request : { ...request, prompt: "" };
  }

  /** Asks now; an earlier question that is still open is dropped. */
  /** @returns {Promise<void>} */
  async run(again = false) {
    clearTimeout(this.#timer);
    if (!again) this.#tries = 0;
    this.#stop.abort();
    this.#stop = new AbortController();
    /** @type {Checked} */
    let answer;
    try {
      answer = await sendJson(
        "/api/check",
        { request: this.#request(), count: this.state.count },
        { signal: this.#stop.signal },
      );
    } catch {
      return; // superseded, or no connection, which the banner says
    }
    const refused = answer.errors.some(({ message }) => /takes no prompt|no prompt/.test(message));
    if (refused && !this.state.get("prompt") && !this.#noPrompt) {
      this.#noPrompt = true; // the model takes none: ask without
      return this.run(again);
    }
    this.last = answer;
    clearErrors();
    for (const { field, message } of answer.errors) fieldFor(field, message)?.setError(message);
    if (answer.completed) {
      const { seed, ...completed } = answer.completed; // a seed that was drawn is another one next time
      this.state.complete(completed);
    } else if (!answer.errors.length && this.#tries++ < TRIES) this.#timer = setTimeout(() => this.run(true), 3000);
    this.dispatchEvent(new CustomEvent("checked", { detail: answer }));
  }
}
