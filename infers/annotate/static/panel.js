// The panel beside the image: the mask's review, structures, tools, submitting, the job and the training.

import { html, nothing } from "../../static/vendor/lit-html.js";
import { training } from "../../static/training.js";
import { count } from "./prompts.js";
import { reviewable } from "./saving.js";

const dice = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));

export function panel(state, act, work, viewer) {
  if (!work || !state.study) return nothing;
  return html`
    ${review(state, act)} ${structures(state, act, work)} ${options(state, act, work, viewer)}
    ${submitting(state, act, work)} ${news(state, act)} ${list(state, act)}
    <div class="teach">${training(state, act)}</div>`;
}

function review(state, act) {
  if (!reviewable(state)) return nothing;
  const { row } = state;
  const bounds = row.quality_interval[row.worst];
  const why = row.alarms[row.worst]?.[0] ?? row.quality_reason[row.worst];
  return html`<section class="review"><h2>Automatic mask</h2>
    <p class="big" title="Predicted Dice of the worst structure, and where the true one lies in 9 of 10 masks">${dice(row.predicted)}
      <small>${bounds ? `${dice(bounds[0])} – ${dice(bounds[1])}` : ""}</small>
      <small>predicted Dice${Object.keys(row.quality).length > 1 ? ` of ${row.worst}` : ""}</small></p>
    ${why ? html`<p class=${row.alarms[row.worst]?.length ? "alarm" : "hint"}>${why}</p>` : nothing}
    ${row.templates.length ? html`<p class="hint">made from ${row.templates.join(", ")}</p>` : nothing}
    <p class="actions three">
      <button id="accept" class="accept" title="It becomes this study's label (a)" @click=${act.accept}>Accept <kbd>a</kbd></button>
      <button id="correct" title="Mend it (k)" @click=${act.correct}>Correct <kbd>k</kbd></button>
      <button id="reject" class="reject" title="It is wrong (r)" @click=${act.reject}>Reject <kbd>r</kbd></button></p></section>`;
}

function news(state, act) {
  return html`
    ${state.changed ? html`<section class="notice" role="status"><p>Somebody saved ${state.changed === "final" ? "a label" : "prompts"}
      for this study after you opened it. You are asked before yours replaces it.</p></section>` : nothing}
    ${state.newMask ? html`<section class="notice" role="status"><p>A new automatic mask is there.</p>
      <button id="load-mask" @click=${act.loadMask}>Show it</button></section>` : nothing}`;
}

function structures(state, act, work) {
  return html`<section class="structures"><h2>Structures</h2>
    <ul>${work.structures.map((one, n) => entry(state, act, work, one, n))}</ul>
    <form class="add" @submit=${act.add}>
      <input id="new-structure" list="known" maxlength="64" autocomplete="off" aria-label="Name of a new structure"
        placeholder=${work.structures.length ? "another structure" : "its name, e.g. liver"}>
      <datalist id="known">${Object.keys(work.known).map((name) => html`<option value=${name}></option>`)}</datalist>
      <button id="add-structure" title="Add the structure">Add</button></form></section>`;
}

function entry(state, act, work, one, n) {
  const chosen = work.current === one;
  const prompts = count(one.prompts);
  if (state.naming === one) {
    return html`<li class="chosen"><form class="rename" @submit=${act.renamed}><input .value=${one.name} maxlength="64"
      aria-label="New name"><button>Rename</button></form></li>`;
  }
  return html`<li class=${chosen ? "chosen" : ""} data-structure=${one.name}>
    <button class="pick" aria-pressed=${chosen} @click=${() => act.choose(one)} @dblclick=${() => act.rename(one)}
      title=${`${one.name} (${n + 1}); twice: another name`}>
      <svg width="14" height="14" aria-hidden="true"><rect width="14" height="14" rx="3" fill=${one.colour}></rect></svg>
      <span>${one.name}</span>${prompts ? html`<small title=${`${prompts} prompts`}>${prompts}</small>` : nothing}</button>
    <button class="icon find" title="Where it is largest" aria-label=${`Show where ${one.name} is largest`}
      @click=${() => act.find(one)}>◎</button>
    <button class="icon eye" aria-pressed=${!one.hidden} title="Show or hide" aria-label=${`Show or hide ${one.name}`}
      @click=${() => act.show(one)}>${one.hidden ? "○" : "●"}</button>
    <button class="icon clear" title="Remove it from this study's label" aria-label=${`Clear ${one.name}`}
      @click=${() => act.clear(one)}>×</button></li>`;
}

function options(state, act, work, viewer) {
  const painting = ["brush", "eraser"].includes(state.tool);
  return html`<section class="options">
    ${painting ? html`<label class="slide">Size <input id="size" type="range" min="0.5" max="60" step="0.5" .value=${String(state.size)}
      @input=${(event) => act.size(Number(event.target.value))}><output>${state.size.toFixed(1)} mm</output></label>` : nothing}
    <label class="slide">Label <input id="opacity" type="range" min="0" max="0.9" step="0.05" .value=${String(state.opacity)}
      @input=${(event) => act.opacity(Number(event.target.value))}><output>${Math.round(100 * state.opacity)} %</output></label>
    ${viewer.flat ? nothing : html`<p class="actions">
      <button class="mini" id="fill" @click=${act.fillBetween} title="Fill the slices between painted ones (f)">Fill between</button>
      <button class="mini" id="spread" @click=${act.spread}
        title="One-Prompt carries what is painted through the volume (g)">Carry through</button></p>`}</section>`;
}

function submitting(state, act, work) {
  const prompted = work.prompted().length;
  return html`<section class="submit">
    <button id="submit" class="accept primary" ?disabled=${state.submitting} @click=${act.submit}
      title="Save this label; the study becomes a template (Enter)">${state.submitting ? "Saving…" : "Submit label"} <kbd>Enter</kbd></button>
    ${prompted && state.loaded !== "final" ? html`<button id="submit-prompts" class="quiet" ?disabled=${state.submitting}
      @click=${act.submitPrompts} title="Only the clicks, boxes and strokes: a template of that kind, until a label is saved">Submit
      the prompts alone</button>` : nothing}
    ${state.done ? html`<p class="done">${state.done}</p>` : nothing}
    <label class="who">Your name <input id="me" maxlength="64" .value=${state.me} placeholder=${state.user || "optional"}
      title="Kept in this browser; labels say who made them" @change=${(event) => act.me(event.target.value)}></label></section>`;
}

function list(state, act) {
  const { job } = state;
  if (!job || job.state === "idle") return nothing;
  const busy = ["running", "cancelling"].includes(job.state);
  const failures = Object.keys(job.failed ?? {}).length;
  return html`<section class="joblist"><h2>The other studies</h2>
    <progress max=${Math.max(1, job.total)} .value=${job.done} aria-label="Studies segmented"></progress>
    <p class="hint">${busy ? `segmenting ${job.current ?? ""}: ${job.done} of ${job.total}` : `${job.state}: ${job.done} of ${job.total}`}${
      failures ? `, ${failures} failed` : ""}</p>
    <p class="actions">${busy ? html`<button class="mini" @click=${act.cancelJob}>Cancel</button>`
      : html`<button class="mini" @click=${act.runJob}>Run again</button>`}
      <button class="mini" @click=${act.next}>Next study <kbd>n</kbd></button></p></section>`;
}
