/** Prompts that were used before: the arrow keys go through them in an empty field, and a menu lists them. */

const LONGEST = 60;

/** @param {string} name @returns {string[]} newest first */
export function promptsUsed(name = "prompt") {
  try {
    return JSON.parse(localStorage.getItem(`mlx-sd-history-${name}`) ?? "[]");
  } catch {
    return [];
  }
}

/** Puts a prompt in front of those that were used. @param {string} text @param {string} [name] */
export function rememberPrompt(text, name = "prompt") {
  if (!text.trim()) return;
  const others = promptsUsed(name).filter((other) => other !== text);
  localStorage.setItem(`mlx-sd-history-${name}`, JSON.stringify([text, ...others].slice(0, LONGEST)));
}

/** Goes through the prompts of a field by the arrow keys, from an empty field on, as in a shell. */
export class PromptHistory {
  #index = -1;

  /**
   * @param {HTMLTextAreaElement} area
   * @param {string} name
   * @param {(text: string) => void} choose
   */
  constructor(area, name, choose) {
    area.addEventListener("keydown", (event) => {
      const step = { ArrowUp: 1, ArrowDown: -1 }[event.key];
      if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
      const prompts = promptsUsed(name);
      const browsing = this.#index >= 0 && area.value === prompts[this.#index];
      if (area.value !== "" && !browsing) return;
      const next = (browsing ? this.#index : -1) + step;
      if (next < -1 || next >= prompts.length) return;
      event.preventDefault();
      this.#index = next;
      choose(next < 0 ? "" : prompts[next]);
    });
  }

  /** Ends the walk: the text is the user's own now. */
  typed() {
    this.#index = -1;
  }
}
