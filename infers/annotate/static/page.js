// The annotation page: its state, how a study is opened, and what goes on in the background. What a person does is in
// deeds.js, what it looks like in view.js.

import { render } from "../../static/vendor/lit-html.js";
import * as board from "../../static/api.js";
import { makeDeeds } from "./deeds.js";
import { Grid } from "./grid.js";
import * as kept from "./kept.js";
import { keyboard } from "./keys.js";
import { Marks } from "./marks.js";
import * as server from "./server.js";
import { Hand } from "./tools.js";
import { dialogs, over, rail, side, top } from "./view.js";
import { supported, through, Viewer } from "./viewer.js";
import { heard } from "./prompts.js";
import { Work } from "./work.js";

const AWAY = [0, 429, 502, 503, 504]; // of answers that another try may bring
const BUSY_MS = 1500, IDLE_MS = 6000, PRESENT_MS = 10000, KEEP_MS = 800;
const SHRINKS = [1, 2, 3, 4, 6, 8]; // that the server offers
const MOST_VOXELS = 1.6e8; // that are shown at full resolution: about 1.3 GB of memory with what the graphics card holds

export const state = {
  id: null, study: null, row: null, job: null, counts: {}, training: null, trainingOpen: false, others: [], user: "",
  loading: null, error: "", message: "", login: false, conflict: null, unfinished: null, done: null, finished: false,
  tool: "click", outside: false, size: 6, opacity: 0.35, window: [0, 1], hover: null, busy: 0, adding: "", newMask: false,
  away: false, gone: "", naming: null, doubted: null, tour: localStorage.getItem("oneprompt-tour-seen") ? 0 : 1,
  me: localStorage.getItem("oneprompt-me") ?? "", seen: {}, times: [],
};
const session = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
const parts = Object.fromEntries(["top", "rail", "over", "side", "dialogs"].map((id) => [id, document.getElementById(id)]));
let question = null; // that stands over the image: its first answer has the focus
let viewer, marks, timer = 0, presence = 0, keeping = 0, opening = 0;
export let work = null;
let keptLast = Promise.resolve(); // of keeping: one at a time, the newest last

export const page = {
  state, session,
  get work() { return work; },
  get viewer() { return viewer; },
  get marks() { return marks; },
  draw, say, open, keepSoon, keepNow, refresh, loadLabel, fail, attend, coarser,
};
const act = makeDeeds(page);

function draw() {
  render(top(state, act), parts.top);
  render(rail(state, act), parts.rail);
  render(over(state, act), parts.over);
  render(side(state, act, work, viewer), parts.side);
  render(dialogs(state, act, work), parts.dialogs);
  const asked = parts.over.querySelector("[role=alertdialog]");
  if (asked !== question) asked?.querySelector("[data-first]")?.focus();
  question = asked;
}

function say(message) {
  state.message = message;
  draw();
}

// What went wrong is said once, in the words of the server; an expired login is asked for again. `later` says what comes
// of it where the server is only away or busy.
function fail(error, doing = "", later = "") {
  if (error.name === "AbortError") return;
  if (error.status === 401) { state.login = true; say("Log in again: nothing that you drew is lost."); return; }
  const away = AWAY.includes(error.status);
  state.away ||= away;
  const text = `${doing}${error.message}`.replace(/[.\s]*$/, ".");
  say(away && later ? `${text} ${later}` : text);
  if (!("status" in error)) console.error(error);
}

// Opening

async function open(id, shrink = null) {
  const mine = ++opening;
  if (work && state.id) { keepNow(); leave(); }
  Object.assign(state, { id, study: null, row: null, error: "", conflict: null, unfinished: null, done: null, finished: false,
    loading: { part: 0, text: "Opening…" }, others: [], newMask: false, changed: null, loaded: null,
    gone: "", message: "" });
  work = null;
  history.replaceState(null, "", `${location.pathname}?${new URLSearchParams({ study: id })}`);
  draw();
  const newest = () => mine === opening;
  try {
    const study = await server.study(id, shrink ?? 1);
    if (!newest()) return;
    const wanted = shrink ?? smallest(study);
    state.tried = wanted;
    if (wanted > study.shrink) { await open(id, wanted); return; }
    const bytes = await server.volume(id, study.shrink, (part, whole) => {
      if (!newest()) return;
      state.loading = { part: part / whole, text: `${megabytes(part)} of ${megabytes(whole)} MB` };
      draw();
    });
    if (!newest()) return;
    state.loading = { part: 1, text: "Drawing…" };
    draw();
    await viewer.show(bytes, study);
    marks.grid = new Grid(study, viewer.image);
    work = new Work(study, marks.grid, viewer);
    Object.assign(state, { study, user: study.user, window: viewer.window, login: false,
      seen: Object.fromEntries(Object.entries(study.labels).map(([tag, { version }]) => [tag, version])) });
    work.seen = state.seen;
    state.main = mainPlane(study);
    viewer.arrange("all", state.main);
    await loadLabel();
    if (!newest()) return;
    await keptLast;
    state.unfinished = await kept.found(study).catch(() => null);
    act.colours();
    work.saved = work.changes;
    state.loading = null;
  } catch (error) {
    if (!newest()) return;
    state.loading = null;
    state.login = error.status === 401;
    state.error = state.login ? "" : openingFailed(error);
    if (!("status" in error)) console.error(error);
  }
  draw();
  await refresh();
  attend();
}

function openingFailed(error) {
  if (error instanceof RangeError) return "This browser has too little memory for the image: open it at a smaller resolution. Its label "
    + "is saved on the full grid all the same.";
  return error.message;
}

// The finest resolution that this machine is likely to hold
function smallest({ shape }) {
  for (const shrink of SHRINKS) {
    const sides = shape.map((size) => (size >= 64 * shrink ? Math.ceil(size / shrink) : size));
    if (sides[0] * sides[1] * sides[2] <= MOST_VOXELS && Math.max(...sides) <= viewer.largestSide) return shrink;
  }
  return 8;
}

// The next resolution below the one that was tried
function coarser() {
  return SHRINKS.find((shrink) => shrink > (state.tried ?? 1)) ?? SHRINKS.at(-1);
}

// The plane in which the network, and a person, sees the study's slices
function mainPlane(study) {
  const thin = viewer.dims.indexOf(1);
  const axis = thin >= 0 ? thin : study.slice_axis === null ? 2 : marks.grid.shownAxis(study.slice_axis);
  return 2 - axis;
}

// The label that stands for the study: a person's, else prompts, else the automatic mask
async function loadLabel() {
  const { study } = state;
  const tag = ["final", "prompted", "original"].find((one) => study.labels[one]);
  if (!tag) return;
  const { structures, prompts, accepted } = study.labels[tag];
  const bytes = await server.mask(study.id, tag);
  work.loaded = bytes;
  work.labels.load(work.grid.shown(bytes), tag === "final" && !accepted);
  for (const name of Object.keys(structures)) {
    const one = work.add(name);
    if (!one) continue;
    if (prompts?.[name]) one.prompts = heard(prompts[name]);
    else one.grounded = true;
  }
  const first = work.structures.find(({ name }) => name in structures);
  if (first) work.choose(first);
  state.loaded = tag;
  work.past = [];
  work.future = [];
  viewer.labelsChanged();
  const axis = through(viewer.main);
  const fullest = work.labels.fullest(axis);
  if (fullest !== null) viewer.go(viewer.at.map((index, n) => (n === axis ? fullest : index)));
}

// In the background

async function refresh() {
  clearTimeout(timer);
  const { id } = state;
  if (!id || state.login) return;
  try {
    const [answer, training] = await Promise.all([server.row(id), board.training()]);
    if (id !== state.id) return;
    Object.assign(state, { row: answer.row, job: answer.job, counts: answer.counts, training, gone: "" });
    if (state.away && work) act.askAgain();
    state.away = false;
  } catch (error) {
    if (error.status === 401) state.login = true;
    else if (error.status === 404) missing(error.message);
  }
  draw();
  const busy = ["running", "cancelling"].includes(state.job?.state)
    || [state.training, state.training?.specialist].some((run) => run?.state === "running");
  timer = setTimeout(refresh, busy ? BUSY_MS : IDLE_MS);
}

async function attend() {
  clearTimeout(presence);
  const { id } = state;
  if (!id || !state.study) return;
  try {
    const { others, labels } = await server.presence(id, { session, name: state.me });
    if (id !== state.id) return;
    state.others = others;
    state.changed = ["final", "prompted"].find((tag) => (labels[tag] ?? "") !== (state.seen[tag] ?? "")) ?? null;
    state.newMask = !state.changed && Boolean(labels.original) && labels.original !== state.seen.original;
    draw();
  } catch { /* the next look tells */ }
  presence = setTimeout(attend, PRESENT_MS);
}

function leave() {
  work?.abort();
  server.leave(state.id, session);
}

// The study was taken out of the list. What was drawn on it stays here.
function missing(message) {
  if (work) state.gone = message;
  else state.error = message;
  keepNow();
}

// Unsaved work is kept a moment after every change, and at once when the page is hidden
function keepSoon() {
  clearTimeout(keeping);
  keeping = setTimeout(keepNow, KEEP_MS);
  draw();
}

function keepNow() {
  clearTimeout(keeping);
  const mine = work;
  if (!mine?.unsaved || mine.kept === mine.changes || state.unfinished) return keptLast;
  const { changes } = mine;
  keptLast = keptLast.then(async () => {
    try {
      await kept.keep(mine, state.me);
      mine.kept = changes;
    } catch (error) {
      say(`This browser cannot keep unsaved work (${error.message}): submit before you leave.`);
    }
  });
  return keptLast;
}

const megabytes = (bytes) => (bytes / 2 ** 20).toFixed(bytes < 2 ** 23 ? 1 : 0);

// Beginning

async function begin() {
  if (!supported()) {
    state.error = "This browser has no WebGL 2, which drawing volumes needs. The review board works without it, and so do "
      + "3D Slicer and OHIF with this server.";
    state.loading = null;
    draw();
    return;
  }
  viewer = new Viewer(document.getElementById("image"));
  marks = new Marks(document.getElementById("marks"), viewer);
  await viewer.attach();
  // Too much for the graphics card, or it was taken away: a page that is loaded anew gets another
  viewer.canvas.addEventListener("webglcontextlost", async (event) => {
    event.preventDefault();
    await keepNow();
    state.error = "The graphics card gave the image up. What you drew is kept: open the study again, at a smaller resolution if "
      + "this happens twice.";
    draw();
  });
  viewer.drawn = () => {
    marks.draw(work?.structures ?? [], work?.current);
    const slider = document.getElementById("slice");
    if (slider && !viewer.flat) slider.value = viewer.at[through(viewer.main)];
  };
  page.hand = new Hand(document.getElementById("marks"), viewer, marks, state, act);
  keyboard(page, act);
  document.addEventListener("visibilitychange", () => document.hidden && keepNow());
  window.addEventListener("pagehide", () => { keepNow(); if (state.id) leave(); });
  const asked = new URLSearchParams(location.search);
  if (asked.get("study")) await open(asked.get("study"), SHRINKS.find((shrink) => shrink === Number(asked.get("shrink"))));
  else await act.next();
}

parts.over.replaceChildren();
draw();
await begin();
