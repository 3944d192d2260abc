// What the page looks like: lit-html templates of the state. Every text goes through lit-html, which escapes it.

import { html, nothing, svg } from "../../static/vendor/lit-html.js";
import { WINDOWS } from "./deeds.js";
import { KEYS } from "./keys.js";
import { panel } from "./panel.js";

const TOOLS = [
  ["click", "c", "Click", "Click inside the structure; right button: outside",
    svg`<path d="M5 3l13 8-6 1.4L9 18z"></path>`],
  ["box", "b", "Box", "Drag a box around the structure", svg`<rect x="4" y="5" width="16" height="14" rx="1"
    stroke-dasharray="3 2.4"></rect>`],
  ["stroke", "s", "Stroke", "Draw along the structure", svg`<path d="M4 17c4-9 6 3 9-4 2-4 4-5 7-6"></path>`],
  ["brush", "p", "Brush", "Paint; right button erases", svg`<path d="M20 4c-4 2-8 6-10 9l2 2c3-2 7-6 8-11z
    M9 14c-3 0-3 3-5 5 3 1 7 0 7-3z"></path>`],
  ["eraser", "e", "Eraser", "Erase", svg`<path d="M9 19l-5-5 9-9 6 6-8 8zM8 10l6 6M9 19h11"></path>`],
  ["look", "v", "Look", "Look around: the other planes follow", svg`<circle cx="12" cy="12" r="4"></circle><path
    d="M12 2v5M12 17v5M2 12h5M17 12h5"></path>`],
];
const STATUS = { automatic: "to review", rejected: "rejected", failed: "failed", unlabelled: "no label yet", accepted: "accepted",
  template: "template", excluded: "not a template", prompted: "prompted" };

const icon = (drawing) => html`<svg viewBox="0 0 24 24" aria-hidden="true">${drawing}</svg>`;

export function top(state, act) {
  const { job, row, counts } = state;
  const busy = ["running", "cancelling"].includes(job?.state);
  const total = Object.values(counts).reduce((sum, one) => sum + one, 0);
  const final = (counts.template ?? 0) + (counts.accepted ?? 0) + (counts.prompted ?? 0);
  return html`
    <a class="brand" href="./" title="All studies: the review board">One-Prompt</a>
    <h1 title=${state.id ?? ""}>${state.id ?? ""}</h1>
    ${row ? html`<span class="badge ${row.status}">${STATUS[row.status] ?? row.status}</span>` : nothing}
    ${state.others.length ? html`<span class="others" role="status">${othersHere(state.others)}</span>` : nothing}
    <span class="grow"></span>
    ${job ? html`<span class="jobline" id="job" title=${busy ? "The other studies are being segmented" : `job ${job.state}`}>
      ${busy ? html`<progress max=${Math.max(1, job.total)} .value=${job.done} aria-label="Progress of the job"></progress>
        segmenting ${job.done} of ${job.total}` : html`${final} of ${total} ${total === 1 ? "study" : "studies"} labelled`}
    </span>` : nothing}
    <button id="next" @click=${act.next} title="The study whose label promises most (n)">Next study</button>
    <button class="quiet" id="open-help" @click=${act.help} aria-label="Help" title="Keys and hints (?)">?</button>`;
}

function othersHere(others) {
  const names = others.map(({ name }) => name || "somebody").join(", ");
  return `${names} ${others.length === 1 ? "has" : "have"} this study open too`;
}

export function rail(state, act) {
  return html`
    ${TOOLS.map(([name, key, title, hint, drawing]) => html`
      <button class="tool" data-tool=${name} aria-pressed=${state.tool === name} aria-label=${`${title} (${key})`}
        data-tip=${`${hint} (${key})`} @click=${() => act.tool(name)}>${icon(drawing)}<span>${title}</span></button>`)}
    <button class="tool sign" data-tool="outside" aria-pressed=${state.outside} aria-label="Inside or outside (x)"
      data-tip="What clicks and strokes mean: inside or outside (x)" @click=${act.turnOutside}>
      <b>${state.outside ? "−" : "+"}</b><span>${state.outside ? "Outside" : "Inside"}</span></button>
    <hr>
    <button class="tool" data-tool="undo" aria-label="Undo (z)" data-tip="Undo (z)" @click=${act.undo}>${icon(svg`<path
      d="M8 5L4 9l4 4M4 9h10a5 5 0 010 10h-3"></path>`)}<span>Undo</span></button>
    <button class="tool" data-tool="redo" aria-label="Redo (y)" data-tip="Redo (y)" @click=${act.redo}>${icon(svg`<path
      d="M16 5l4 4-4 4M20 9H10a5 5 0 000 10h3"></path>`)}<span>Redo</span></button>`;
}

export function over(state, act) {
  return html`
    ${state.loading ? loading(state.loading) : nothing}
    ${state.error ? failed(state, act) : nothing}
    ${state.gone ? gone(state, act) : nothing}
    ${state.login ? login(state, act) : nothing}
    ${state.finished ? html`<div class="card-over"><h2>Every study has a label</h2>
      <p>Train on them, or look them over on the review board.</p><a class="button accept" href="./">Review board</a></div>` : nothing}
    ${state.unfinished ? unfinished(state.unfinished, act) : nothing}
    ${state.conflict ? conflict(state.conflict, act) : nothing}
    ${state.study && !state.login ? view(state, act) : nothing}
    ${state.tour && state.study && !state.unfinished ? tour(state.tour, act) : nothing}
    <p class="toast" role="status" aria-live="polite">${state.busy ? html`<span class="spinner"></span>One-Prompt answers…`
      : state.message}</p>`;
}

function loading({ part, text }) {
  return html`<div class="loading-over" role="status"><progress max="1" .value=${part} aria-label="Loading"></progress>
    <p>${text}</p></div>`;
}

function failed(state, act) {
  return html`<div class="card-over" role="alert"><h2>This study cannot be shown</h2><p>${state.error}</p>
    <p class="actions">${state.id ? html`<button id="again" @click=${() => act.reopen(state.tried)}>Try again</button>
      <button id="coarser" @click=${act.reopenCoarser}>Smaller resolution</button>` : nothing}
      <a class="button" href="./">Review board</a></p></div>`;
}

function gone(state, act) {
  return html`<div class="card-over" id="gone" role="alertdialog" aria-label="This study is gone"><h2>This study is gone</h2>
    <p>${state.gone}</p><p>What you drew is kept in this browser, and is offered when the study is back under this name.</p>
    <p class="actions"><button id="download" data-first @click=${act.download}>Save the label to a file</button>
      <button @click=${act.next}>Next study</button><a class="button" href="./">Review board</a></p></div>`;
}

function view(state, act) {
  const [low, high] = state.window.map((value) => Math.round(value * 10) / 10);
  const { study } = state;
  return html`<div class="viewbar">
    ${study.colour ? nothing : html`
      ${study.hounsfield ? html`<select id="presets" aria-label="Window" title="Window (w)"
        @change=${(event) => { act.preset(Number(event.target.value)); event.target.blur(); }}>
        ${WINDOWS.map(([name, from, to], n) => html`<option value=${n}
          ?selected=${from === low && to === high}>${name}</option>`)}
        ${WINDOWS.some(([, from, to]) => from === low && to === high) ? nothing : html`<option value="-1" selected>Own</option>`}
      </select>` : html`<button class="mini" @click=${act.firstWindow} title="The window that it was opened with (w)">Auto</button>`}
      <label title="Black; drag with the right button to change the window">▪<input id="low" type="number" step="any"
        aria-label="Grey value shown as black" .value=${String(low)}
        @change=${(event) => act.setWindow(Number(event.target.value), state.window[1])}></label>
      <label title="White">▫<input id="high" type="number" step="any" aria-label="Grey value shown as white"
        .value=${String(high)} @change=${(event) => act.setWindow(state.window[0], Number(event.target.value))}></label>`}
    ${study.slice_axis === null ? nothing : html`<button class="mini" id="layout" @click=${act.nextLayout}
      title="Three planes, or one (l)">Planes</button>
      ${["A", "C", "S"].map((letter, plane) => html`<button class="mini" data-plane=${plane}
        aria-pressed=${state.main === plane} aria-label=${`${["Axial", "Coronal", "Sagittal"][plane]} plane large`}
        title=${`${["Axial", "Coronal", "Sagittal"][plane]} plane large`} @click=${() => act.plane(plane)}>${letter}</button>`)}`}
    ${study.slice_axis === null ? nothing : html`<span class="slices"><input id="slice" type="range" min="0"
      max=${act.slices().count - 1} step="1" .value=${String(act.slices().at)} aria-label="Slice" title="Slice (wheel, arrows)"
      @input=${(event) => act.slice(Number(event.target.value))}>${strip(act)}</span>`}
    <button class="mini" @click=${act.fit} title="Whole image (0)">Fit</button>
    <output id="readout"></output>
    ${study.shrink > 1 ? html`<span class="coarse" title="Labels are saved on the full grid">shown at 1/${study.shrink}
      resolution</span>` : nothing}
  </div>`;
}

// Wrong voxels to expect by slice, below the slider, the worst slice in another colour
function strip(act) {
  const errors = act.errors();
  if (!errors) return nothing;
  const { expected, worst } = errors;
  const told = `Wrong voxels to expect by slice; most on slice ${worst} (d)`;
  const bar = (index) => `M${index} 1v${-(expected[index] / expected[worst]).toFixed(3)}h1V1z`;
  return html`<svg id="errors" role="img" aria-label=${told} viewBox=${`0 0 ${expected.length} 1`} preserveAspectRatio="none"
    @click=${(event) => act.slice(sliceAt(event, expected.length))}><title>${told}</title>
    <path d=${[...expected.keys()].filter((index) => expected[index]).map(bar).join("")}></path>
    <path class="worst" data-slice=${worst} d=${bar(worst)}></path></svg>`;
}

function sliceAt({ currentTarget, clientX }, count) {
  const { left, width } = currentTarget.getBoundingClientRect();
  return Math.min(Math.floor(((clientX - left) / width) * count), count - 1);
}

function unfinished(record, act) {
  return html`<div class="card-over" id="unfinished" role="alertdialog" aria-label="Unsaved work"><h2>Unsaved work</h2>
    <p>You left this study on ${new Date(record.ts).toLocaleString()} without submitting. It was kept in this browser.</p>
    <p class="actions"><button class="accept" id="take-up" data-first @click=${() => act.unfinished(true)}>Go on with it</button>
      <button id="discard" @click=${() => act.unfinished(false)}>Begin from what is saved</button></p></div>`;
}

function conflict({ text }, act) {
  return html`<div class="card-over" id="conflict" role="alertdialog" aria-label="Another label came first"><h2>Another label
    came first</h2><p>${text}</p>
    <p class="actions"><button id="replace" class="reject" @click=${act.submitOver}>Replace it with mine</button>
      <button id="theirs" @click=${act.theirs}>Open that one</button>
      <button class="quiet" id="go-on" data-first @click=${act.keepMine}>Go on drawing</button></p></div>`;
}

const TOUR = [
  ["Click the structure", "Give it a name on the right, then click inside it. One-Prompt outlines it at once. Click where it is "
    + "wrong: left button for more, right button for less. A box, a stroke and the brush work too."],
  ["Submit", "Enter, or the green button, saves the label. This study is a template from then on, and every other study of the "
    + "list is segmented by it."],
  ["Next study", "n opens the study whose correction helps most, with its mask already there: a accepts it, r rejects it, k "
    + "corrects it. ? shows all keys."],
];

function tour(step, act) {
  const [title, text] = TOUR[step - 1];
  return html`<div class="tour step${step}" role="dialog" aria-label="Tour"><p class="count">${step} of 3</p><h2>${title}</h2>
    <p>${text}</p><p class="actions"><button class="accept" @click=${() => act.tour(step + 1)}>${step === 3 ? "Begin" : "Go on"}
      </button><button class="quiet" id="close-tour" @click=${() => act.tour(4)}>Close for good</button></p></div>`;
}

function login({ study }, act) {
  return html`<form class="login card-over" @submit=${act.login}><h2>Log in</h2>
    ${study ? html`<p>Your login has expired. Nothing that you drew is lost, and you go on where you were.</p>` : nothing}
    <label>User <input name="username" autocomplete="username" required></label>
    <label>Password <input name="password" type="password" autocomplete="current-password" required></label>
    <button class="accept">Log in</button></form>`;
}

export const side = panel;

export function dialogs(state, act) {
  return html`<dialog id="help" aria-label="Help"><h2>Keys</h2>
    <dl>${KEYS.map(([key, text]) => html`<dt><kbd>${key}</kbd></dt><dd>${text}</dd>`)}</dl>
    <p>What a person paints is never changed by an answer. A pen draws; with two fingers the image moves and zooms.</p>
    <p class="actions"><button @click=${act.closeHelp}>Close</button>
      <button class="quiet" @click=${() => { act.closeHelp(); act.tour(1); }}>Show the tour again</button></p></dialog>`;
}
