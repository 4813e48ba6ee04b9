/** The middle of the page: the picture that is being made, or the one that was made last, and what can be done with it. */

import { announce, button, byId, el } from "./dom.js";
import { complain } from "./dialogs.js";
import { details } from "./picture_dialog.js";
import { pictureActions } from "./picture_actions.js";
import { galleryPath, showPicture } from "./server.js";
import { duration, summary } from "./words.js";

const EXAMPLES = [
  "a red tent on green grass, under a clear day sky",
  "a sailboat with blue sails on the left on the blue sea, under a sunset sky",
  "a large moon, a lighthouse on white snow, under a night sky",
];

/** Shows the stage and keeps it up to date. */
export class Stage {
  /** @type {import("./jobs.js").Job | null} */
  #job = null;
  /** @type {{name: string, request: Record<string, any>} | null} */
  #picture = null;
  #spoken = 0;
  #deadline = 0; // performance.now() at which the job should end

  /**
   * @param {import("./jobs.js").Jobs} jobs
   * @param {import("./picture_actions.js").Context} context
   */
  constructor(jobs, context) {
    this.jobs = jobs;
    this.context = context;
    this.image = el("img", { class: "stage-image", alt: "" });
    this.preview = el("img", { class: "stage-preview", alt: "" });
    this.frame = el("div", { class: "stage-frame" }, this.preview, this.image, el("span", { class: "shimmer" }));
    this.bar = el(
      "div",
      {
        class: "progress",
        role: "progressbar",
        "aria-label": "Progress of the picture",
        "aria-valuemin": 0,
        "aria-valuemax": 100,
      },
      el("span", { class: "progress-fill" }),
    );
    this.words = el("p", { class: "stage-words" });
    this.cancel = button({ icon: "stop", words: "Cancel", class: "button small", on: () => this.#cancel() });
    this.caption = el("div", { class: "stage-caption" });
    this.loading = "";
    this.root = byId("stage");
    this.root.replaceChildren(
      el(
        "div",
        { class: "stage-empty" },
        el("img", { src: "/page/icon.svg", alt: "", width: 72, height: 72 }),
        el("h2", { text: "A picture begins with a sentence" }),
        el("p", { text: "Describe it, or begin with one of these. Everything is computed on this machine." }),
        this.#examples(),
      ),
      el("div", { class: "stage-wall" }, this.frame),
      el("div", { class: "stage-progress" }, this.bar, el("div", { class: "stage-status" }, this.words, this.cancel)),
      this.caption,
    );
    this.#mode("empty");
    jobs.addEventListener("job", (event) => this.#follow(/** @type {CustomEvent} */ (event).detail));
    jobs.addEventListener("preview", (event) => this.#showPreview(/** @type {CustomEvent} */ (event).detail));
    setInterval(() => this.#showProgress(), 500);
  }

  /** Says that a model is loaded, which takes a while. @param {string} state @param {string | null} name */
  showModel(state, name) {
    this.loading = state === "loading" ? `Loading ${name ?? "the model"}` : "";
    this.#showProgress();
  }

  /** Whether there is neither a finished picture nor one that is being made. */
  get isEmpty() {
    return this.#picture === null && this.#job === null;
  }

  /** Shows the picture that is being made again, after another one was looked at. */
  showRunning() {
    const job = this.#job;
    this.#job = null;
    if (job) this.#start(job);
  }

  /** The picture that is shown, if it is finished. */
  get picture() {
    return this.#picture;
  }

  /** Shows a finished picture. @param {string} name @param {Record<string, any>} request */
  show(name, request) {
    const isNew = this.#picture?.name !== name;
    this.#picture = { name, request };
    this.#shape(request);
    if (isNew) this.#load(name, request);
    this.#mode("done");
    this.caption.replaceChildren(
      el("p", { class: "caption-prompt", text: request.prompt ?? "" }),
      el("p", { class: "caption-settings", text: summary(request) }),
      pictureActions({ name, request }, this.context),
    );
  }

  /** @param {string} name @param {Record<string, any>} request */
  #load(name, request) {
    this.image.classList.remove("ready");
    this.image.addEventListener(
      "load",
      () => {
        this.image.classList.add("ready");
        if (!request.width)
          this.frame.style.setProperty("--ratio", String(this.image.naturalWidth / this.image.naturalHeight));
        this.frame.style.setProperty("--natural", `${this.image.naturalWidth}px`);
      },
      { once: true },
    );
    this.image.alt = request.prompt ? `Picture: ${request.prompt}` : "Picture";
    showPicture(this.image, galleryPath(name));
  }

  /** Takes the picture off the stage where it was deleted. @param {string} name */
  forget(name) {
    if (this.#picture?.name !== name) return;
    this.#picture = null;
    if (!this.#job) this.#mode("empty");
  }

  /** @param {"empty" | "working" | "done" | "failed"} mode */
  #mode(mode) {
    this.root.dataset.mode = mode;
  }

  /** @param {Record<string, any>} request */
  #shape(request) {
    if (request.width && request.height)
      this.frame.style.setProperty("--ratio", String(request.width / request.height));
  }

  /** @param {import("./jobs.js").Job} job */
  #follow(job) {
    if (job.state === "running") this.#start(job);
    else if (job.id === this.#job?.id && job.state !== "queued") this.#end(job);
    else if (job.state === "failed" && !this.#job) this.#fail(job);
  }

  /** @param {import("./jobs.js").Job} job */
  #start(job) {
    const isNew = this.#job?.id !== job.id;
    this.#job = job;
    if (job.seconds_left !== null) this.#deadline = performance.now() + 1000 * job.seconds_left;
    if (isNew) {
      this.#deadline = job.seconds_left === null ? 0 : this.#deadline;
      this.#spoken = 0;
      this.#shape(job.request);
      this.preview.removeAttribute("src");
      this.image.classList.remove("ready");
      this.#mode("working");
      this.root.classList.add("waiting");
      this.cancel.disabled = false;
      this.caption.replaceChildren(
        el("p", { class: "caption-prompt", text: job.request.prompt ?? "" }),
        el("p", { class: "caption-settings", text: summary(job.request) }),
      );
      announce("The picture is being made");
    }
    this.#showProgress();
  }

  #showProgress() {
    const job = this.#job;
    if (!job) return;
    const { evaluation, evaluations } = job;
    const share = evaluations ? evaluation / evaluations : 0;
    this.bar.style.setProperty("--share", String(share));
    this.bar.setAttribute("aria-valuenow", String(Math.round(100 * share)));
    const left = this.#deadline ? Math.max(0, (this.#deadline - performance.now()) / 1000) : null;
    const time = left === null || evaluation === 0 ? "" : left < 1 ? "nearly done" : `${duration(left)} left`;
    const waiting = this.jobs.waiting.length;
    this.words.textContent = [
      evaluation ? `Step ${evaluation} of ${evaluations}` : this.loading || "Getting ready",
      time,
      waiting ? `${waiting} more in the queue` : "",
    ]
      .filter(Boolean)
      .join(" · ");
    if (share >= this.#spoken + 0.25 && share < 1) {
      this.#spoken = Math.floor(share * 4) / 4;
      announce(`${Math.round(100 * this.#spoken)} percent${time ? `, ${time}` : ""}`);
    }
  }

  /** @param {{id: string, image: string | null}} preview */
  #showPreview({ id, image }) {
    if (id !== this.#job?.id || !image) return;
    this.root.classList.remove("waiting");
    this.preview.src = `data:image/jpeg;base64,${image}`;
    this.#showProgress();
  }

  /** @param {import("./jobs.js").Job} job */
  #end(job) {
    this.#job = null;
    this.root.classList.remove("waiting");
    if (job.state === "done" && job.target) {
      this.show(job.target, job.request);
      this.#complete(job.target);
      announce("The picture is ready");
    } else if (job.state === "failed") this.#fail(job);
    else if (this.#picture) {
      const { name, request } = this.#picture;
      this.#picture = null;
      this.show(name, request);
    } else this.#mode("empty");
    if (job.state === "cancelled") announce("Cancelled");
  }

  /** Shows the settings that the file records, which name all that the request left open. @param {string} name */
  async #complete(name) {
    const { request } = await details(name).catch(() => ({ request: null }));
    if (request && this.#picture?.name === name) this.show(name, request);
  }

  /** @param {import("./jobs.js").Job} job */
  #fail(job) {
    const message = job.error?.message ?? "The picture could not be made";
    this.#mode("failed");
    this.caption.replaceChildren(
      el("p", { class: "caption-error", text: message }),
      el("p", { class: "caption-settings", text: job.request.prompt ?? "" }),
    );
    announce(message, true);
    this.context.fieldError(job.error?.field ?? null, message);
  }

  async #cancel() {
    if (!this.#job) return;
    this.cancel.disabled = true;
    this.words.textContent = "Stopping after this step";
    try {
      await this.jobs.cancel(this.#job.id);
    } catch (error) {
      complain(error);
      this.cancel.disabled = false;
    }
  }

  #examples() {
    return el(
      "div",
      { class: "examples" },
      ...EXAMPLES.map((text) => button({ words: text, class: "example", on: () => this.context.usePrompt(text) })),
    );
  }
}
