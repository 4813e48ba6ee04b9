/** The start: asks the server what there is, builds the parts of the page, and connects them. */

import { announce, byId } from "./dom.js";
import { complain, toast } from "./dialogs.js";
import { Check } from "./check.js";
import { Stream } from "./events.js";
import { clearErrors, showError } from "./fields.js";
import { buildForm } from "./form.js";
import { FormState, clientId } from "./form_state.js";
import { Gallery } from "./gallery.js";
import { receiver, watchForPictures } from "./incoming.js";
import { Jobs } from "./jobs.js";
import { openMaskEditor } from "./mask_editor.js";
import { Models } from "./models.js";
import { rememberPrompt } from "./prompt_history.js";
import { Queue } from "./queue.js";
import { Recent } from "./recent.js";
import { getJson, ServerError, takeToken } from "./server.js";
import { watchKeys } from "./shortcuts.js";
import { Stage } from "./stage.js";
import { openGridDialog } from "./xy_dialog.js";
import { openGrid, rememberGrid } from "./xy_grids.js";

const VIEWS = ["create", "gallery", "models"];

/** Returns what the server says that there is; asks again until it answers. */
async function description() {
  for (let wait = 500; ; wait = Math.min(5000, 2 * wait)) {
    try {
      return await getJson("/api/state");
    } catch (error) {
      if (!(error instanceof ServerError) || error.status) throw error;
      byId("lost").hidden = false;
      byId("lost-words").textContent = error.message;
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

async function start() {
  takeToken();
  const info = await description();
  byId("lost").hidden = true;
  const stream = new Stream();
  const jobs = new Jobs(stream);
  const state = new FormState(info.settings);
  const check = new Check(state);
  const client = clientId();

  const showView = () => {
    const name = VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "create";
    for (const view of VIEWS) byId(`view-${view}`).hidden = view !== name;
    for (const link of document.querySelectorAll(".tabs a")) {
      const isHere = /** @type {HTMLElement} */ (link).dataset.view === name;
      if (isHere) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    document.title = `${name === "create" ? "" : `${name[0].toUpperCase()}${name.slice(1)} · `}mlx-sd Studio`;
    if (name === "gallery") gallery.open();
    if (name === "models") models.refresh();
  };
  const toForm = () => {
    location.hash = "create";
    byId("prompt-field").scrollIntoView({ block: "nearest" });
  };
  const fieldError = (/** @type {string | null} */ name, /** @type {string} */ message) => {
    if (!showError(name, message)) return false;
    announce(message, true);
    return true;
  };
  const submit = async (/** @type {Record<string, any>} */ request, count = 1) => {
    clearErrors();
    try {
      await jobs.submit(request, { count, client });
      rememberPrompt(request.prompt ?? "");
      announce(count > 1 ? `${count} pictures are in the queue` : "The picture is in the queue");
    } catch (error) {
      refused(error);
    }
  };
  const refused = (/** @type {unknown} */ error) => {
    if (!(error instanceof ServerError) || !fieldError(error.field, error.message)) complain(error);
  };
  const generate = () => {
    toStage();
    submit(state.request(), state.count);
  };
  const toStage = () => {
    if (matchMedia("(max-width: 719px)").matches) byId("stage").scrollIntoView({ block: "start" });
  };
  const submitGrid = async (/** @type {any} */ grid) => {
    try {
      const answer = await jobs.submit(state.request(), { client, grid });
      openGrid(rememberGrid(grid, answer), jobs);
      rememberPrompt(state.get("prompt") ?? "");
    } catch (error) {
      refused(error);
    }
  };

  const context = {
    state,
    jobs,
    submit: (/** @type {any} */ request) => {
      toForm();
      submit(request);
    },
    toForm,
    paintMask: () => openMaskEditor(state),
    compare: (/** @type {{name: string}} */ picture) => {
      location.hash = "gallery";
      gallery.pickFirst(picture.name);
    },
    deleted: (/** @type {string} */ name) => {
      gallery.forget(name);
      recent.forget(name);
      stage.forget(name);
    },
    restored: () => {
      recent.refresh().catch(complain);
      gallery.list.restart().catch(complain);
    },
    fieldError,
    usePrompt: (/** @type {string} */ text) => {
      state.set("prompt", text);
      byId("prompt-field").focus();
    },
    catalogue: () => info.catalogue,
  };
  const receive = receiver(state, toForm);
  const stage = new Stage(jobs, context);
  new Queue(jobs, () => stage.showRunning());
  const recent = new Recent(stage);
  const lastSeed = () => stage.picture?.request.seed ?? null;
  const build = () =>
    buildForm(info, state, check, {
      submit: generate,
      grid: () => openGridDialog(info, state, submitGrid),
      receive,
      lastSeed,
    });
  const form = build();
  const gallery = new Gallery(context, stream);
  const models = new Models(context, stream, async () => {
    const { catalogue } = await getJson("/api/state");
    if (JSON.stringify(catalogue) === JSON.stringify(info.catalogue)) return;
    info.catalogue = catalogue;
    build();
  });

  jobs.addEventListener("job", (event) => {
    const job = /** @type {CustomEvent} */ (event).detail;
    if (job.state === "done" && job.target) recent.add(job.target, job.request.prompt ?? null);
  });
  stream.addEventListener("model", (event) => {
    const { state: phase, name, error } = /** @type {CustomEvent} */ (event).detail;
    stage.showModel(phase, name);
    if (error) toast(error, { kind: "error" });
  });
  watchForPictures(receive);
  watchKeys({ generate, prompt: form.prompt, search: gallery.search });
  watchConnection(stream, async () => {
    await jobs.refresh();
    await recent.refresh({ stage: true });
  });
  addEventListener("hashchange", showView);
  showView();
  check.run();
  document.body.classList.add("ready");
  stream.run();
}

/** Shows whether the page hears of the server. @param {Stream} stream @param {() => Promise<void>} opened */
function watchConnection(stream, opened) {
  const [banner, words] = [byId("lost"), byId("lost-words")];
  byId("try-now").addEventListener("click", () => stream.tryNow());
  stream.addEventListener("state", (event) => {
    const { state, seconds } = /** @type {CustomEvent} */ (event).detail;
    byId("connection").dataset.state = state;
    byId("connection-words").textContent = state === "open" ? "Connected" : "Connection lost";
    banner.hidden = state === "open";
    if (state === "lost")
      words.textContent = `Connection lost. The next try is in ${seconds} s; what waits in the queue goes on.`;
    else opened().catch(complain);
  });
}

start().catch((error) => {
  toast(error instanceof Error ? error.message : String(error), { kind: "error" });
});
