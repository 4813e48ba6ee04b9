/** The stream of the server's events, which is opened again whenever it breaks. */

import { request } from "./server.js";

const FIRST_WAIT = 500;
const LONGEST_WAIT = 10_000;
const SILENCE = 45_000; // milliseconds without a byte, after which the stream counts as broken; the server sends comments

/**
 * Yields the events of a stream of server-sent events, whose parts may be cut anywhere.
 * @param {ReadableStream<Uint8Array>} body
 * @param {() => void} alive called for each part that arrives
 * @returns {AsyncGenerator<any>}
 */
export async function* read(body, alive = () => {}) {
  const reader = body.pipeThrough(/** @type {any} */ (new TextDecoderStream())).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      alive();
      rest += value.replaceAll("\r\n", "\n");
      const blocks = rest.split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        const lines = block.split("\n").filter((line) => line.startsWith("data:"));
        if (lines.length) yield JSON.parse(lines.map((line) => line.slice(5).trimStart()).join("\n"));
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * Events of the server as events of the page: each type of the server's with its JSON as `detail`, and "state", whose
 * detail is {state: "open" | "lost", seconds until the next try}.
 */
export class Stream extends EventTarget {
  #wait = FIRST_WAIT;
  #wake = () => {};

  /** Keeps the stream open for as long as the page lives. */
  async run() {
    for (;;) {
      await this.#once();
      this.#tell("lost", Math.ceil(this.#wait / 1000));
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, this.#wait * (0.8 + 0.4 * Math.random()));
        this.#wake = () => {
          clearTimeout(timer);
          resolve(undefined);
        };
      });
      this.#wait = Math.min(2 * this.#wait, LONGEST_WAIT);
    }
  }

  /** Tries again at once. */
  tryNow() {
    this.#wait = FIRST_WAIT;
    this.#wake();
  }

  async #once() {
    const stop = new AbortController();
    let timer = 0;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => stop.abort(), SILENCE);
    };
    try {
      alive();
      const answer = await request("/api/events", { signal: stop.signal });
      if (!answer.body) return;
      this.#wait = FIRST_WAIT;
      this.#tell("open", 0);
      for await (const event of read(answer.body, alive)) {
        this.dispatchEvent(new CustomEvent(event.type, { detail: event }));
      }
    } catch {
      // the connection broke or was refused: run() waits and tries again
    } finally {
      clearTimeout(timer);
    }
  }

  /** @param {"open" | "lost"} state @param {number} seconds */
  #tell(state, seconds) {
    this.dispatchEvent(new CustomEvent("state", { detail: { state, seconds } }));
  }
}
