/** Asks the server about the form while it changes: tokens, weights, cost, and what is wrong. */

import { debounced } from "./dom.js";
import { FIELDS, clearErrors } from "./fields.js";
import { sendJson } from "./server.js";

/**
 * @typedef {{length: number, room: number, tokens: Array<{text: string, weight: number}>}} Chunk
 * @typedef {{evaluations: number, full?: number, macs: number, macs_plain: number, share: number, evidence: string | null}} Cost
 * @typedef {{errors: Array<{field: string | null, message: string}>, prompt?: {chunks: Chunk[]}, negative?: {chunks: Chunk[]}, cost?: Cost | null}} Checked
 */

/** Tells listeners of "checked" what the server says about the form as it is. */
export class Check extends EventTarget {
  #stop = new AbortController();
  /** @type {Checked | null} */
  last = null;

  /** @param {import("./form_state.js").FormState} state */
  constructor(state) {
    super();
    this.state = state;
    const soon = debounced(() => this.run(), 350);
    state.addEventListener("change", soon);
  }

  /** Asks now; an earlier question that is still open is dropped. */
  async run() {
    this.#stop.abort();
    this.#stop = new AbortController();
    /** @type {Checked} */
    let answer;
    try {
      answer = await sendJson(
        "/api/check",
        { request: this.state.request(), count: this.state.count },
        { signal: this.#stop.signal },
      );
    } catch {
      return; // superseded, or no connection, which the banner says
    }
    this.last = answer;
    clearErrors();
    for (const { field, message } of answer.errors ?? []) FIELDS.get(field ?? "")?.setError(message);
    this.dispatchEvent(new CustomEvent("checked", { detail: answer }));
  }
}
