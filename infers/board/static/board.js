// The board's state and what a person can do with it. Drawing is view.js's, the server api.js's.

import { render } from "./vendor/lit-html.js";
import * as api from "./api.js";
import { keyboard } from "./keys.js";
import { page } from "./view.js";

const BUSY_MS = 1500; // between looks at the server while the job runs
const IDLE_MS = 6000;
const UNDO = "Remove every automatic mask and stop the job? Labels that people submitted or accepted stay.";
const START = { status: "", search: "", sort: "worst", page: 1 };

const state = {
  query: { ...START }, studies: [], counts: {}, pages: 1, total: 0, colours: {}, ohif: false,
  job: { state: "…", done: 0, total: 0, failed: {} }, health: {}, corrections: {}, unreadable: { count: 0, files: {} },
  warnings: [],
  bound: { value: 0.85, count: null }, selected: new Set(), current: null, large: null,
  login: false, error: "", message: "", training: null, trainingOpen: false, files: null,
};
let asked = 0; // only the newest answer is shown
let timer = 0;
let typing = 0;

function draw() {
  render(page(state, act), document.querySelector("#board"));
}

async function load(show = "") {
  clearTimeout(timer);
  const mine = ++asked;
  try {
    const [answer, above, training] =
      await Promise.all([api.list({ ...state.query, show }), countAbove(), api.training()]);
    if (mine !== asked) return;
    Object.assign(state, { login: false, error: "", training }, pick(answer), { bound: { ...state.bound, count: above } });
    state.query.page = answer.page;
    keepCurrent(show);
    remember();
  } catch (error) {
    if (mine !== asked) return;
    state.login = error.status === 401;
    state.error = state.login ? "" : error.message;
    if (error.status === 404 && show) { state.current = null; timer = setTimeout(load, IDLE_MS); draw(); return; }
  }
  draw();
  const busy = ["running", "cancelling"].includes(state.job.state)
    || [state.training, state.training?.specialist, state.training?.uniseg].some((run) => run?.state === "running");
  if (!state.login) timer = setTimeout(load, busy ? BUSY_MS : IDLE_MS);
}

const pick = ({ studies, counts, pages, total, colours, ohif, job, health, corrections, unreadable, warnings }) =>
  ({ studies, counts, pages, total, colours, ohif, job, health, corrections, unreadable, warnings });

async function countAbove() {
  const { value } = state.bound;
  if (value === "" || !(value >= 0 && value <= 1)) return 0;
  const query = { status: "automatic", at_least: value, search: state.query.search, per_page: 1 };
  return (await api.list(query)).total;
}

function keepCurrent(show) {
  const ids = state.studies.map(({ id }) => id);
  if (show && ids.includes(show)) state.current = show;
  if (!ids.includes(state.current)) state.current = ids[0] ?? null;
  if (state.large && !ids.includes(state.large)) act.shrink();
}

// The address always leads back to what is shown: it can be kept or sent to a colleague.
function remember() {
  const { status, search, sort, page: number } = state.query;
  const set = Object.entries({ status, search, sort, page: number }).filter(([key, value]) => value !== START[key]);
  if (state.large) set.push(["study", state.large]);
  history.replaceState(null, "", `${location.pathname}${set.length ? `?${new URLSearchParams(set)}` : ""}`);
}

function say(message) {
  state.message = message;
  draw();
}

async function decide(action, body, done) {
  try {
    const answer = await api.decide(action, body);
    const refused = Object.entries(answer.refused);
    say([answer.done.length ? `${done} ${count(answer.done)}` : "",
      refused.length ? `${refused.length} not: ${refused[0][0]}: ${refused[0][1]}` : ""].filter(Boolean).join(". "));
    state.selected.clear();
  } catch (error) {
    say(error.message);
  }
  await load();
}

const count = (ids) => (ids.length === 1 ? ids[0] : `${ids.length} studies`);
const versions = (ids) => Object.fromEntries(
  state.studies.filter(({ id }) => ids.includes(id)).map(({ id, version }) => [id, version]));

async function steer(ask, message) {
  try {
    await ask();
    say(message);
  } catch (error) {
    say(error.message);
  }
  await load();
}

export const act = {
  draw,
  query(change) {
    Object.assign(state.query, { page: 1 }, change);
    api.forgetWaiting();
    return load();
  },
  async files(event) {
    if (!event.target.open) return;
    try {
      state.files = await api.files();
    } catch (error) {
      state.error = error.message;
    }
    draw();
  },
  showAll: () => act.query({ status: "", search: "" }),
  search(text) {
    clearTimeout(typing);
    state.query.search = text;
    typing = setTimeout(() => act.query({ search: text }), 250);
  },
  turn: (step) => act.query({ page: Math.min(Math.max(1, state.query.page + step), state.pages) }),
  bound(value) {
    state.bound = { value, count: null };
    clearTimeout(typing);
    typing = setTimeout(load, 250);
    draw();
  },
  go(id) {
    if (state.current !== id) { state.current = id; draw(); }
  },
  focus(id) {
    act.go(id);
    document.querySelector(`.card[data-id="${CSS.escape(id)}"]`)?.focus();
  },
  toggle(id) {
    if (!state.selected.delete(id)) state.selected.add(id);
    draw();
  },
  selectPage() { for (const { id } of state.studies) state.selected.add(id); draw(); },
  selectNone() { state.selected.clear(); draw(); },
  accept: (ids) => decide("accept", { ids, versions: versions(ids) }, "accepted"),
  acceptAbove(event) {
    event.preventDefault();
    return decide("accept", { bound: Number(state.bound.value), search: state.query.search }, "accepted");
  },
  acceptResult: (ids) => decide("accept_result", { ids }, "the interactive result is now the label of"),
  reject: (ids) => decide("reject", { ids, versions: versions(ids) }, "rejected"),
  undo: (ids) => decide("undo", { ids }, "undone for"),
  again: (ids) => decide("again", { ids }, "will be segmented again:"),
  template(row) {
    const use = row.status === "excluded";
    return decide("template", { ids: [row.id], use }, use ? "used as template:" : "no longer a template:");
  },
  run: () => steer(() => api.job("POST"), "the job looks for work"),
  cancel: () => steer(() => api.job("DELETE"), "the job stops after the batch it is at"),
  undoJob: () => confirm(UNDO) && steer(() => api.job("POST", "job/undo"), "the automatic masks are gone"),
  train: () => steer(() => api.training("POST"), "training starts; the server answers as before meanwhile"),
  stopTraining: () => steer(() => api.training("DELETE"), "training is stopped; what is served stays"),
  trainUniSeg: () => steer(() => api.trainUniSeg(), "UniSeg is trained; the server answers as before"),
  withdrawUniSeg: () => steer(() => api.withdrawUniSeg(), "UniSeg makes no masks of this list from now on"),
  trainSpecialist: () => steer(() => api.trainSpecialist(), "a list-specific U-Net is trained; the server answers as before"),
  useSpecialist: (use) => steer(() => api.decide("specialist", { use }),
    use ? "the list-specific U-Net takes part in the masks from now on" : "One-Prompt makes all masks alone from now on"),
  serve: (version) => steer(() => api.serve(version), `${version} is served from now on`),
  openTraining(open) { state.trainingOpen = open; },
  enlarge(id) {
    state.large = id;
    draw();
    document.querySelector("#large").showModal();
    remember();
  },
  shrink() {
    const shown = state.large;
    state.large = null;
    document.querySelector("#large")?.close();
    draw();
    remember();
    if (shown) act.focus(shown);
  },
  help: () => document.querySelector("#help").showModal(),
  closeHelp: () => document.querySelector("#help").close(),
  async login(event) {
    event.preventDefault();
    try {
      await api.login(event.target);
      await load();
    } catch (error) {
      say(`login failed: ${error.message}`);
    }
  },
};

const given = new URLSearchParams(location.search);
for (const key of Object.keys(START)) if (given.has(key)) state.query[key] = given.get(key);
state.query.page = Math.max(1, Number.parseInt(state.query.page, 10) || 1);
const study = given.get("study") ?? "";
document.querySelector("#board").replaceChildren();
draw();
keyboard(state, act);
await load(study);
if (state.studies.some(({ id }) => id === study)) act.enlarge(study);
