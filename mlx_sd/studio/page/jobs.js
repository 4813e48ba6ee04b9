/** The server's jobs as the page knows them: from the first listing, then from events. */

import { getJson, remove, sendJson } from "./server.js";

/**
 * @typedef {{id: string, group: string, client: string, state: "queued" | "running" | "done" | "failed" | "cancelled" | "removed",
 *   target: string | null, error: {message: string, field: string | null} | null, created: number, started: number | null,
 *   ended: number | null, evaluation: number, evaluations: number, seconds_left: number | null, request: Record<string, any>}} Job
 */

const ENDS = ["done", "failed", "cancelled"];

/** Holds jobs and tells of "job" (detail: the job), "preview" (detail: {id, image}), and "queue". */
export class Jobs extends EventTarget {
  /** @type {Map<string, Job>} */
  byId = new Map();
  /** @type {string[]} */
  #order = [];

  /** @param {import("./events.js").Stream} stream */
  constructor(stream) {
    super();
    stream.addEventListener("job", (event) => this.#take(/** @type {CustomEvent} */ (event).detail.job));
    stream.addEventListener("queue", (event) => this.#setOrder(/** @type {CustomEvent} */ (event).detail.order));
    stream.addEventListener("preview", (event) => this.#preview(/** @type {CustomEvent} */ (event).detail));
  }

  /** Asks for all jobs: after the start, and after the connection was lost. */
  async refresh() {
    const { jobs } = await getJson("/api/jobs");
    for (const job of jobs) this.#take(job);
    const alive = new Set(jobs.map((/** @type {Job} */ job) => job.id));
    for (const job of this.byId.values()) {
      if (!ENDS.includes(job.state) && !alive.has(job.id)) this.#take({ ...job, state: "cancelled" });
    }
    this.#setOrder(
      jobs.filter((/** @type {Job} */ job) => job.state === "queued").map((/** @type {Job} */ job) => job.id),
    );
  }

  /** The job that runs, if any. @returns {Job | null} */
  get running() {
    return [...this.byId.values()].find((job) => job.state === "running") ?? null;
  }

  /** The jobs that wait, in their order. @returns {Job[]} */
  get waiting() {
    const rank = new Map(this.#order.map((id, index) => [id, index]));
    const jobs = [...this.byId.values()].filter((job) => job.state === "queued");
    return jobs.sort((a, b) => (rank.get(a.id) ?? Infinity) - (rank.get(b.id) ?? Infinity) || a.created - b.created);
  }

  /**
   * Sends a request and returns its jobs.
   * @param {Record<string, any>} request @param {{count?: number, client: string, grid?: any}} options
   * @returns {Promise<{jobs: Job[], group: string, cells?: number[][]}>} cells: the places of the jobs in a grid
   */
  async submit(request, { count = 1, client, grid }) {
    const body = grid ? { request, client, grid } : { request, count, client };
    const answer = await sendJson("/api/jobs", body);
    for (const job of answer.jobs) if (!this.byId.has(job.id)) this.#take(job); // events may have been faster
    return answer;
  }

  /** Cancels a job that runs, and takes one that waits out of the queue. @param {string} id */
  cancel(id) {
    return remove(`/api/jobs/${id}`);
  }

  /** Moves a job that waits to another place. @param {string} id @param {number} place counted from 0 */
  async move(id, place) {
    const order = this.waiting.map((job) => job.id).filter((other) => other !== id);
    order.splice(Math.max(0, place), 0, id);
    this.#setOrder(order);
    await sendJson("/api/jobs/order", { order });
  }

  /** @param {Job} job */
  #take(job) {
    const before = this.byId.get(job.id);
    if (job.state === "removed") {
      this.byId.delete(job.id);
      this.dispatchEvent(new CustomEvent("queue"));
      return;
    }
    if (before && ENDS.includes(before.state) && !ENDS.includes(job.state)) return; // an event that comes late
    this.byId.set(job.id, job);
    this.#forgetOld();
    this.dispatchEvent(new CustomEvent("job", { detail: job }));
    if (before?.state !== job.state) this.dispatchEvent(new CustomEvent("queue"));
  }

  /** @param {string[]} order */
  #setOrder(order) {
    this.#order = order;
    this.dispatchEvent(new CustomEvent("queue"));
  }

  /** @param {{id: string, evaluation: number, evaluations: number, image: string}} preview */
  #preview(preview) {
    const job = this.byId.get(preview.id);
    if (job) Object.assign(job, { evaluation: preview.evaluation, evaluations: preview.evaluations });
    this.dispatchEvent(new CustomEvent("preview", { detail: preview }));
  }

  #forgetOld() {
    const ended = [...this.byId.values()].filter((job) => ENDS.includes(job.state));
    for (const job of ended.slice(0, Math.max(0, ended.length - 500))) this.byId.delete(job.id);
  }
}
