// What the board looks like: lit-html templates of the state. Every text goes through lit-html, which escapes it.

import { html, nothing } from "./vendor/lit-html.js";
import { repeat } from "./vendor/directives/repeat.js";
import { picture } from "./api.js";
import { training } from "./training.js";

export const STATUSES = {
  automatic: "to review",
  rejected: "rejected",
  failed: "failed",
  unlabelled: "no mask yet",
  prompted: "prompted",
  accepted: "accepted",
  template: "template",
  excluded: "not a template",
};
const ORDERS = { worst: "worst predicted first", best: "best predicted first", name: "name", status: "status" };
const KEYS = [
  ["← ↑ ↓ →, j, k", "go from study to study"],
  ["a", "accept"],
  ["r", "reject"],
  ["u", "undo"],
  ["t", "use as template, or do not"],
  ["x", "select, or do not"],
  ["Enter", "show large"],
  ["e", "annotate"],
  ["o", "open in OHIF"],
  ["n, p", "next page, previous page"],
  ["/", "search"],
  ["?", "this help"],
];

const dice = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));
const interval = (row, name) => {
  const bounds = row.quality_interval[name];
  return bounds ? `[${dice(bounds[0])}, ${dice(bounds[1])}]` : "";
};

export function page(state, act) {
  return html`
    ${header(state, act)} ${state.login ? login(act) : nothing}
    <main>
      ${training(state, act)} ${filters(state, act)} ${bulk(state, act)}
      ${state.error ? html`<p class="error" role="alert">${state.error}</p>` : nothing}
      ${beginning(state.counts)}
      <ul class="studies" aria-label="Studies">
        ${repeat(state.studies, (row) => row.id, (row) => card(row, state, act))}
      </ul>
      ${!state.studies.length && !state.login
        ? html`<p class="empty">No study fits. <button @click=${act.showAll}>Show all</button></p>` : nothing}
      ${pager(state, act)}
    </main>
    ${large(state, act)} ${help(state, act)}
    <p class="message" role="status" aria-live="polite">${state.message}</p>
  `;
}

// Nothing is labelled: the first study is where to begin
function beginning(counts) {
  const labelled = ["prompted", "accepted", "template", "excluded"].some((status) => counts[status]);
  return labelled || !counts.unlabelled ? nothing : html`<p class="begin">No study is labelled yet.
    <a class="button accept" id="begin" href="annotate">Annotate the first study</a> The others follow by themselves.</p>`;
}

function header({ job, counts, health, unreadable, warnings, files }, act) {
  const masks = counts.automatic || counts.rejected;
  const busy = ["running", "cancelling"].includes(job.state);
  const failures = Object.keys(job.failed ?? {}).length;
  return html`
    <header>
      <h1>One-Prompt <span>review board</span></h1>
      <div class="job">
        <span class="state">${busy
          ? `segmenting ${job.current ?? ""}: ${job.done} of ${job.total}`
          : `job ${job.state}${job.total ? `: ${job.done} of ${job.total}` : ""}`}${
          busy && job.eta_seconds ? `, about ${duration(job.eta_seconds)} left` : ""}${
          failures ? `, ${failures} failed` : ""}</span>
        <progress max=${Math.max(1, job.total)} .value=${job.done} aria-label="Progress of the job"></progress>
        ${busy
          ? html`<button id="cancel" ?disabled=${job.state === "cancelling"} @click=${act.cancel}>Cancel</button>`
          : html`<button id="run" @click=${act.run}>Run again</button>`}
        ${masks ? html`<button id="undo-job" class="quiet" title="Remove every automatic mask"
          @click=${act.undoJob}>Undo job</button>` : nothing}
        <button class="quiet" @click=${act.help} aria-label="Help with the keyboard">?</button>
      </div>
    </header>
    ${job.failed?.[""] ? html`<p class="error" role="alert">${job.failed[""]}</p>` : nothing}
    ${warnings.map((text) => html`<p class="warning open" role="status">${text}.</p>`)}
    ${health.warnings?.length ? html`<p class="warning" role="status" id="health">About the templates:
      ${health.warnings.join(". ")}.</p>` : nothing}
    ${unreadable.count ? html`<details class="warning" id="unreadable">
      <summary>${unreadable.count} ${unreadable.count === 1 ? "file is" : "files are"} left out</summary>
      <ul>${Object.entries(unreadable.files).map(([file, reason]) => html`<li><b>${file}</b>: ${reason}</li>`)}</ul>
    </details>` : nothing}
    <details id="files" @toggle=${act.files}>
      <summary>All files</summary>
      ${files === null ? nothing : html`<table><tbody>${files.map((file) => html`<tr>
        <td>${file.path}</td><td>${file.taken}</td><td>${file.study}</td>
        <td>${file.note}</td></tr>`)}</tbody></table>`}
    </details>
  `;
}

const duration = (seconds) => (seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.round(seconds / 60)} min`);

function filters({ query, counts }, act) {
  const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const chip = (status, text, count) => html`
    <button class="chip ${status}" data-status=${status} aria-pressed=${query.status === status}
      @click=${() => act.query({ status })}>${text} <b>${count}</b></button>`;
  return html`
    <div class="filters">
      <div class="chips" role="group" aria-label="Filter by status">
        ${chip("", "all", all)}
        ${Object.entries(STATUSES).map(([status, text]) =>
          counts[status] || query.status === status ? chip(status, text, counts[status] ?? 0) : nothing)}
      </div>
      <label>Search <input id="search" type="search" placeholder="study id" .value=${query.search}
        @input=${(event) => act.search(event.target.value)}></label>
      <label>Order <select id="sort" @change=${(event) => act.query({ sort: event.target.value })}>
        ${Object.entries(ORDERS).map(([value, text]) =>
          html`<option value=${value} ?selected=${value === query.sort}>${text}</option>`)}
      </select></label>
    </div>
  `;
}

function bulk({ bound, selected, corrections }, act) {
  const chosen = selected.size;
  const corrected = Math.max(0, ...Object.values(corrections));
  return html`
    <div class="bulk">
      <form @submit=${act.acceptAbove}>
        <label>Accept all predicted at least
          <input id="bound" type="number" min="0" max="1" step="0.01" .value=${String(bound.value)}
            @input=${(event) => act.bound(event.target.value)}></label>
        <button id="accept-above" class="accept" ?disabled=${!bound.count}>Accept ${bound.count ?? "…"}</button>
      </form>
      <div class="chosen" ?hidden=${!chosen}>
        <span>${chosen} selected</span>
        <button id="accept-selected" class="accept" @click=${() => act.accept([...selected])}>Accept</button>
        <button class="reject" @click=${() => act.reject([...selected])}>Reject</button>
        <button @click=${() => act.undo([...selected])}>Undo</button>
        <button @click=${() => act.again([...selected])}>Segment again</button>
        <button class="quiet" @click=${act.selectNone}>Clear</button>
      </div>
      <button class="quiet" id="select-page" @click=${act.selectPage}>Select this page</button>
      <p class="note">The predicted Dice is an estimate; in brackets, where the true one lies in 9 of 10 masks.
        ${corrected ? `It learnt from ${corrected} corrected ${corrected === 1 ? "study" : "studies"} of this list.`
          : `No study of this list was corrected yet: it rests on other data sets, and on warped copies of the templates,
            which are easier than new studies.`}
        Masks with an alarm are never accepted unseen.</p>
    </div>
  `;
}

function card(row, state, act) {
  const chosen = state.selected.has(row.id);
  const current = state.current === row.id;
  return html`
    <li class="card ${row.status} ${chosen ? "chosen" : ""}" data-id=${row.id} tabindex=${current ? 0 : -1}
      aria-label="${row.id}, ${STATUSES[row.status]}, predicted Dice ${dice(row.predicted)}"
      @focusin=${() => act.go(row.id)}>
      <button class="picture" tabindex="-1" aria-label="Show ${row.id} large" @click=${() => act.enlarge(row.id)}>
        ${shown(row, 192, act)}</button>
      <div class="about">
        <label class="name" title=${row.id}><input type="checkbox" tabindex="-1" .checked=${chosen}
          @change=${() => act.toggle(row.id)}> <span>${row.id}</span></label>
        <p class="line"><span class="badge">${STATUSES[row.status]}</span>
          <span class="dice" title="predicted Dice, and where the true one lies in 9 of 10 masks">${dice(row.predicted)}
            <small>${interval(row, row.worst)}</small></span></p>
        ${details(row)}
        <p class="actions">${buttons(row, state, act)}</p>
      </div>
    </li>
  `;
}

function details(row) {
  return html`
    ${row.reason ? html`<p class="reason">${row.reason}</p>` : nothing}
    ${row.note ? html`<p class="hint note">${row.note}</p>` : nothing}
    ${doubt(row)}
    ${row.offered ? html`<p class="reason">An interactive result waits to become its label.</p>` : nothing}
    ${row.outdated ? html`<p class="hint">templates changed since</p>` : nothing}
    ${row.author && row.status !== "automatic" ? html`<p class="hint">by ${row.author}</p>` : nothing}
  `;
}

function doubt(row) {
  const alarming = Object.keys(row.alarms)[0];
  const name = alarming ?? row.worst;
  const text = row.quality_reason[name];
  if (!text) return nothing;
  const whose = Object.keys(row.quality).length > 1 ? `${name}: ` : "";
  return html`<p class=${alarming ? "alarm" : "hint"}>${whose}${text}</p>`;
}

function shown(row, size, act) {
  const found = picture(row.id, row.version, size, act.draw);
  if (found instanceof Error) return html`<span class="none">no picture: ${found.message}</span>`;
  return found ? html`<img src=${found} alt="Most telling slice of ${row.id}">` : html`<span class="none">…</span>`;
}

function buttons(row, { ohif }, act) {
  const button = (name, text, action, title = "") =>
    html`<button class=${name} tabindex="-1" title=${title} @click=${action}>${text}</button>`;
  const ids = [row.id];
  const final = ["accepted", "template", "excluded"].includes(row.status);
  return html`
    ${row.offered ? button("accept", "Accept result", () => act.acceptResult(ids), "Save the last interactive result now") : nothing}
    ${["automatic", "rejected"].includes(row.status) ? button("accept", "Accept", () => act.accept(ids)) : nothing}
    ${row.status === "automatic" ? button("reject", "Reject", () => act.reject(ids)) : nothing}
    ${row.undoable ? button("undo", "Undo", () => act.undo(ids)) : nothing}
    ${final ? button("template", row.status === "excluded" ? "Use as template" : "No template", () => act.template(row)) : nothing}
    ${row.status === "failed" || row.status === "rejected" ? button("again", "Try again", () => act.again(ids)) : nothing}
    <a class="button annotate" tabindex="-1" href="annotate?study=${encodeURIComponent(row.id)}">Annotate</a>
    ${ohif ? html`<a class="button" tabindex="-1" target="_blank" rel="noopener"
      href="studies/${encodeURIComponent(row.id)}/ohif">OHIF</a>` : nothing}
  `;
}

function pager({ query, pages, total }, act) {
  return html`
    <nav class="pager" aria-label="Pages">
      <button id="previous" ?disabled=${query.page <= 1} @click=${() => act.turn(-1)}>Previous</button>
      <span>page ${query.page} of ${pages}, ${total} ${total === 1 ? "study" : "studies"}</span>
      <button id="next" ?disabled=${query.page >= pages} @click=${() => act.turn(1)}>Next</button>
    </nav>
  `;
}

function large(state, act) {
  const row = state.studies.find(({ id }) => id === state.large);
  return html`
    <dialog id="large" aria-label="Study" @close=${act.shrink}>
      ${row ? html`
        <h2>${row.id} <span class="badge">${STATUSES[row.status]}</span></h2>
        <div class="picture">${shown(row, 640, act)}</div>
        <table>
          <tr><th>structure</th><th>predicted Dice</th><th>what to know about it</th></tr>
          ${Object.entries(row.quality).map(([name, value]) => html`<tr><td><svg width="12" height="12" aria-hidden="true"
            ><rect width="12" height="12" fill=${state.colours[name] ?? "#888"}></rect></svg> ${name}</td>
            <td>${dice(value)} ${interval(row, name)}</td>
            <td>${row.alarms[name]?.join("; ") ?? row.quality_reason[name] ?? ""}</td></tr>`)}
        </table>
        ${Object.entries(row.score).map(([name, { dice: measured, surface_mm: far }]) => html`<p class="hint score">its
          automatic mask of ${name} had Dice ${dice(measured)}, mean surface distance ${far.toFixed(1)} mm</p>`)}
        ${row.templates.length ? html`<p class="hint">made ${row.most_weight && row.templates.length > 1
          ? `mostly from ${row.most_weight}, of ` : "from "}${row.templates.join(", ")}</p>` : nothing}
        ${details(row)}
        <p class="actions">${buttons(row, state, act)} <button class="quiet" @click=${act.shrink}>Close</button></p>`
        : nothing}
    </dialog>
  `;
}

function help(state, act) {
  return html`
    <dialog id="help" aria-label="Keyboard" @close=${act.closeHelp}>
      <h2>Keyboard</h2>
      <dl>${KEYS.map(([key, text]) => html`<dt><kbd>${key}</kbd></dt><dd>${text}</dd>`)}</dl>
      <p>Accepting makes a mask the study's final label, with your name; it then serves as a template. Labels that a person
        submitted are never changed here.</p>
      <button @click=${act.closeHelp}>Close</button>
    </dialog>
  `;
}

function login(act) {
  return html`
    <form class="login" @submit=${act.login}>
      <h2>Log in</h2>
      <label>User <input name="username" autocomplete="username" required></label>
      <label>Password <input name="password" type="password" autocomplete="current-password" required></label>
      <button class="accept">Log in</button>
    </form>
  `;
}
