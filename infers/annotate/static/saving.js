// Submitting, deciding on a mask, and going on to the next study.

import * as board from "../../static/api.js";
import * as kept from "./kept.js";
import { told } from "./prompts.js";
import * as server from "./server.js";

const NOT_SAVED = "Not saved, and nothing is lost: ";
const TRY_AGAIN = "Submit again when it is back; sent twice, it is saved once.";

export function saving(page) {
  const { state } = page;

  // What the study was when it was opened; another person's label since then is not overwritten unasked
  async function submit(over = false) {
    const { work } = page;
    if (!work || state.submitting || state.unfinished) return;
    const { names, table } = work.naming();
    if (!names.length) {
      page.say(work.prompted().length ? "Nothing is segmented yet: submit the prompts alone, or correct the answer."
        : "There is nothing to submit yet: click a structure, or paint it.");
      return;
    }
    const seen = over ? state.conflict.version : state.seen.final ?? "";
    await during(async () => {
      const { study, changes } = work;
      const file = await server.labelFile(study.label, work.grid.file(work.labels.values, table, work.loaded));
      const { version } = await server.submit(study.id, file, study.label.suffix, names, who(), seen);
      await done(work, changes, `The label of ${study.id} is saved: it is a template now.`, { final: version });
    });
  }

  async function submitPrompts() {
    const { work } = page;
    const structures = work?.prompted() ?? [];
    if (!structures.length || state.submitting) return;
    await during(async () => {
      const { study, changes } = work;
      const prompts = Object.fromEntries(structures.map((one) => [one.name, told(one.prompts, study.flat)]));
      await server.submitPrompts(study.id, { prompts, ...who() });
      await done(work, changes, `The prompts of ${study.id} are saved: it is a template of that kind now.`);
    });
  }

  async function during(act) {
    state.submitting = true;
    state.conflict = null;
    page.draw();
    try {
      await page.keepNow();
      await act();
    } catch (error) {
      if (error.status === 409 && error.message.includes("meanwhile")) {
        await disagree(error).catch((problem) => page.fail(problem, NOT_SAVED, TRY_AGAIN));
      } else {
        page.fail(error, NOT_SAVED, TRY_AGAIN);
      }
    } finally {
      state.submitting = false;
      page.draw();
    }
  }

  async function disagree(error) {
    const { labels } = await server.presence(state.id, { session: page.session, name: state.me });
    state.conflict = { text: error.message, version: labels.final ?? "" };
  }

  // `changes` were sent; what was drawn while they were on their way is unsaved still
  async function done(work, changes, message, versions = {}) {
    work.saved = changes;
    if (!work.unsaved) await kept.forget(work.study).catch(() => {});
    if (page.work !== work) return;
    state.done = message;
    page.say(message);
    state.seen = work.seen = { ...state.seen, ...versions };
    state.loaded = versions.final ? "final" : "prompted";
    const { labels } = await server.presence(work.study.id, { session: page.session, name: state.me }).catch(() => ({}));
    if (page.work !== work) return;
    if (labels) state.seen = work.seen = labels;
    await page.refresh();
  }

  // With the name that a person gave, so that the next one knows whose label it is
  const who = () => ({ client_id: state.me || "annotation page" });

  return {
    submit: () => submit(),
    submitOver: () => submit(true),
    submitPrompts,
    keepMine() { state.conflict = null; page.draw(); },
    async theirs() {
      state.conflict = null;
      page.work.saved = page.work.changes;
      await kept.forget(page.work.study).catch(() => {});
      await page.open(state.id);
    },
    // The label as a file on this computer: the study is gone, or the server is
    async download() {
      const { study, grid, labels, loaded } = page.work;
      const { names, table } = page.work.naming();
      const file = await server.labelFile(study.label, grid.file(labels.values, table, loaded));
      const link = Object.assign(document.createElement("a"),
        { href: URL.createObjectURL(file), download: `${study.id}${study.label.suffix}` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
      page.say(`${link.download} is saved: ${names.map((name, n) => `${n + 1} ${name}`).join(", ")}.`);
    },
    async unfinished(take) {
      const record = state.unfinished;
      state.unfinished = null;
      if (take) {
        const fits = await kept.restore(page.work, record);
        if (fits) state.seen = record.seen;
        else await page.open(state.id, record.shrink);
        page.act.colours();
        page.say(fits ? "Your work is back as you left it." : "Opened at the resolution of your unsaved work: take it from there.");
      } else {
        await kept.forget(page.work.study).catch(() => {});
      }
      page.draw();
    },
    async next() {
      const { work } = page;
      if (work?.unsaved && work.past.length) {
        await page.keepNow();
        page.say(`Your unsaved work on ${state.id} stays in this browser and is offered when you come back.`);
      }
      try {
        const labelled = ["template", "accepted", "prompted"].some((status) => state.counts[status]);
        const id = await server.next(labelled || state.id ? "oneprompt_next" : "oneprompt_first");
        if (id && id !== state.id) await page.open(id);
        else if (id) page.say("This is the last study without a label.");
        else finish();
      } catch (error) {
        page.fail(error);
        if (!state.id) { state.loading = null; state.error = state.login ? "" : error.message; page.draw(); }
      }
    },
  };

  function finish() {
    state.finished = true;
    state.loading = null;
    page.draw();
  }
}

export function reviewing(page) {
  const { state } = page;

  async function decide(action, done) {
    const { id, seen } = state;
    if (page.work?.unsaved && page.work.past.length && action === "accept") {
      page.say("You changed the mask: Submit saves it as you see it.");
      return;
    }
    try {
      const answer = await board.decide(action, { ids: [id], versions: { [id]: seen.original } });
      const why = answer.refused[id];
      if (why) { page.say(`Not ${done}: ${why}`); await page.refresh(); return; }
      state.last = id;
      page.say(`${id} is ${done}. u takes that back.`);
      await page.act.next();
    } catch (error) {
      page.fail(error);
    }
  }

  return {
    accept: () => reviewable(state) && decide("accept", "accepted"),
    reject: () => reviewable(state) && decide("reject", "rejected"),
    // The structure that is likely wrong, the slice where it is most, and the tool to mend it
    correct() {
      const { work } = page;
      if (!work) return;
      const worst = work.structures.find(({ name }) => name === state.row?.worst) ?? work.current;
      if (worst) { page.act.choose(worst); state.doubted = null; page.act.doubtful(); }
      page.act.tool("click");
      page.say("Click where the mask misses the structure; with the right button where it is too large. Enter submits.");
    },
    async undoDecision() {
      const id = state.last ?? state.id;
      try {
        const answer = await board.decide("undo", { ids: [id] });
        page.say(answer.done.length ? `Taken back for ${id}.` : `${id}: ${answer.refused[id]}`);
        if (answer.done.length) await page.open(id);
        state.last = null;
      } catch (error) {
        page.fail(error);
      }
    },
    async loadMask() {
      state.newMask = false;
      const study = await server.study(state.id, state.study.shrink);
      state.study.labels = study.labels;
      state.seen.original = study.labels.original?.version;
      await page.loadLabel();
      page.work.saved = page.work.changes;
      page.act.colours();
      page.draw();
    },
  };
}

export const reviewable = ({ row, study, loaded }) =>
  Boolean(study && loaded === "original" && ["automatic", "rejected"].includes(row?.status));
