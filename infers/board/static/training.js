// The panel that shows trainings: start and stop, the learning curve, the versions of the weights to go back to, the
// the list-specific U-Net, and UniSeg, a volumetric one.

import { html, nothing, svg } from "./vendor/lit-html.js";

const WIDTH = 480;
const HEIGHT = 120;
const WORDS = {
  idle: "No training yet.",
  running: "Training",
  published: "Better weights were published",
  candidate: "Not better: the served weights stay",
  failed: "Training failed",
  stopped: "Training was stopped",
};
const STATES = { published: "published", candidate: "not published", uploaded: "uploaded" };

export function training(state, act) {
  const run = state.training;
  if (!run) return nothing;
  const running = run.state === "running";
  return html`
    <details id="training" ?open=${state.trainingOpen} @toggle=${(event) => act.openTraining(event.target.open)}>
      <summary>Training: <span class="state">${headline(run)}</span></summary>
      <div class="run">
        ${running ? html`<progress max=${Math.max(1, run.epochs ?? 1)} .value=${run.epoch ?? 0}
          aria-label="Progress of the training"></progress>` : nothing}
        ${running || run.queued || busyWith(run.specialist) || busyWith(run.uniseg)
          ? html`<button id="stop-training" @click=${act.stopTraining}>Stop</button>`
          : html`<button id="train" class="accept" @click=${act.train}>Train on the saved labels</button>`}
        <span class="hint">${run.auto_finetune ? `starts by itself after ${run.auto_finetune} new labels` : ""}</span>
      </div>
      ${run.reason ? html`<p class="reason">${run.reason}</p>` : nothing}
      ${run.examined_on ? html`<p class="hint">Tested on ${run.examined_on}.</p>` : nothing}
      ${run.curve?.length ? curve(run) : nothing}
      ${versions(run, act)}
      ${run.specialist ? specialist(run, act) : nothing}
      ${run.uniseg ? uniseg(run, act) : nothing}
    </details>
  `;
}

function headline(run, words = WORDS) {
  const phase = run.curve?.at(-1)?.phase;
  const epochs = run.state === "running" && run.epochs ? `, epoch ${run.epoch ?? 0} of at most ${run.epochs}` : "";
  return `${words[run.state] ?? run.state}${epochs}${run.state === "running" && phase ? ` (${phase})` : ""}${
    run.queued ? `, ${run.queued} waiting` : ""}`;
}

function curve({ curve: points, epochs }) {
  const across = (n) => (n / Math.max(1, epochs ?? points.length)) * WIDTH;
  const up = (value) => HEIGHT - Math.min(1, Math.max(0, value)) * HEIGHT;
  const phases = [...new Set(points.map(({ phase }) => phase))];
  const line = (phase) => points.filter((point) => point.phase === phase)
    .map(({ epoch, dice }) => `${across(epoch).toFixed(1)},${up(dice).toFixed(1)}`).join(" ");
  const last = points.at(-1);
  return html`
    <figure class="curve">
      <svg viewBox="-2 -2 ${WIDTH + 4} ${HEIGHT + 4}" role="img"
        aria-label="Learning curve: Dice of the questions ${last.dice.toFixed(2)} after epoch ${last.epoch}">
        ${[0, 0.5, 1].map((value) => svg`<line x1="0" x2=${WIDTH} y1=${up(value)} y2=${up(value)} class="grid"></line>`)}
        ${phases.map((phase) => svg`<polyline points=${line(phase)} class="dice-line"></polyline>`)}
        ${points.map(({ epoch, dice, loss, phase }) => svg`<circle r="3" cx=${across(epoch)} cy=${up(dice)}>
          <title>${phase}, epoch ${epoch}: Dice ${dice.toFixed(3)}, loss ${loss.toFixed(3)}</title></circle>`)}
      </svg>
      <figcaption class="hint">Dice (0 to 1) of the questions after each epoch; one line a phase:
        ${phases.join(", ")}.</figcaption>
    </figure>
  `;
}

function versions(run, act) {
  const line = (record, name) => html`
    <tr data-version=${record.hash}>
      <td><code>${record.hash}</code></td>
      <td>${name}</td>
      <td>${record.created ? new Date(record.created * 1000).toLocaleString() : ""}</td>
      <td>${scores(record)}</td>
      <td>${record.served ? html`<b>served</b>`
        : html`<button @click=${() => act.serve(record.hash)}>Serve this one</button>`}</td>
    </tr>`;
  return html`
    <table class="versions">
      <tr><th>version</th><th></th><th>made</th><th>one-template Dice, clicks</th><th></th></tr>
      ${run.versions.map((record) => line(record, STATES[record.state] ?? ""))}
      ${line(run.base, "configured weights")}
    </table>
  `;
}

const SPECIALIST_WORDS = {
  ...WORDS,
  idle: "None was trained yet.",
  running: "It is being trained",
  published: "One-Prompt is better with it on this list",
  candidate: "One-Prompt was not better with it",
};

function count(studies) {
  return studies === 1 ? "one labelled study" : `${studies} labelled studies`;
}

function busyWith(own) {
  return own?.state === "running" || own?.queued;
}

function specialist({ specialist: own, uniseg: others, state }, act) {
  const { offered } = own;
  const structures = offered.structures?.join(", ");
  const busy = state === "running" || busyWith(own) || busyWith(others);
  return html`
    <section id="specialist">
      <h3>List-specific U-Net</h3>
      <p class="hint">A network for this list alone${own.from_labels
        ? `, trained after One-Prompt from ${count(own.from_labels)} on (there ${own.labelled === 1 ? "is" : "are"} ${own.labelled})` : ""}.
        It takes part in the masks where One-Prompt was better with it on what it did not learn from.</p>
      <p><span class="state">${headline(own, SPECIALIST_WORDS)}</span>${own.reason ? `: ${own.reason}` : ""}</p>
      ${offered.hash ? html`<p>In use: <code>${offered.hash}</code> for ${structures}, better from
        ${count(offered.won_from)} on. It counts for ${Math.round(100 * offered.share)} %. It was tested on
        ${offered.examined_on}, beside the weights <code>${offered.parent}</code> of One-Prompt.</p>` : nothing}
      <div class="run">
        ${busy ? nothing : html`<button id="train-specialist" @click=${act.trainSpecialist}>Train a list-specific U-Net</button>`}
        ${offered.hash ? html`<button id="withdraw-specialist" @click=${() => act.useSpecialist(false)}>Do not use it</button>` : nothing}
        ${offered.withdrawn ? html`<button id="use-specialist" @click=${() => act.useSpecialist(true)}>Use the withdrawn one</button>` : nothing}
      </div>
    </section>`;
}

const UNISEG_WORDS = {
  ...WORDS,
  idle: "None was trained yet.",
  running: "It is being trained",
  published: "It is better than One-Prompt on this list",
  candidate: "It was not better than One-Prompt",
};

function uniseg({ uniseg: own, specialist: others, state }, act) {
  const { offered } = own;
  const busy = state === "running" || busyWith(own) || busyWith(others);
  return html`
    <section id="uniseg">
      <h3>UniSeg</h3>
      <p class="hint">A network that sees volumes, for all structures of the list. It makes the masks where it was better
        than One-Prompt, and than the list-specific U-Net, on what it did not learn from.</p>
      <p><span class="state">${headline(own, UNISEG_WORDS)}</span>${own.reason ? `: ${own.reason}` : ""}</p>
      ${offered.hash ? html`<p>In use: <code>${offered.hash}</code> for ${offered.structures.join(", ")}${offered.configured
        ? ", as configured" : ""}.${offered.licence ? ` Licence: ${offered.licence}.` : ""}</p>` : nothing}
      <div class="run">
        ${busy ? nothing : html`<button id="train-uniseg" @click=${act.trainUniSeg}>Train UniSeg</button>`}
        ${offered.hash && !offered.configured
          ? html`<button id="withdraw-uniseg" @click=${act.withdrawUniSeg}>Do not use it</button>` : nothing}
      </div>
    </section>`;
}

function scores({ before, after, reason }) {
  if (!before || !after) return "";
  const text = `${before.dice.toFixed(3)} → ${after.dice.toFixed(3)}, ${before.clicks.toFixed(1)} → ${after.clicks.toFixed(1)}`;
  return html`<span title=${reason ?? ""}>${text}</span>`;
}
