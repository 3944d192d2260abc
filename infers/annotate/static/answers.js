// Prompts go to the server, answers come back onto the label. Where a volume takes long, the slice that was prompted
// answers first.

import { onSlice, saysWhere, told } from "./prompts.js";
import * as server from "./server.js";

const AT_ONCE_MS = 700; // a volume that was answered faster needs no slice before it
const SMALL = 2e6; // voxels of a volume that is taken for fast until one answer was timed

let measured = null; // {id, ms} of the last answer for a whole volume

// Ask for one structure after `step` changed its prompts; `near` is the file's voxel that was prompted last
export function answerPrompts(page, structure, step, near) {
  if (!saysWhere(structure.prompts) && !structure.grounded) return;
  asking(page, structure, step, async (signal, current) => {
    const { work } = page;
    const { study } = work;
    const label = structure.grounded ? await labelOf(work, structure, false) : null;
    const params = { label: structure.name, ...(label ? { label_info: [{ name: structure.name, idx: 1 }] } : {}) };
    const ask = (model, prompts, more = {}) => server.infer(model, study.id,
      { ...params, prompts: { [structure.name]: told(prompts, study.flat) }, ...more }, signal, label);
    const began = performance.now();
    const axis = study.slice_axis;
    const slow = measured?.id === study.id ? measured.ms > AT_ONCE_MS : study.shape.reduce((all, one) => all * one) > SMALL;
    const part = axis !== null && slow ? onSlice(structure.prompts, axis, near[axis]) : null;
    if (part) {
      const { mask } = await ask("oneprompt_slice", part, { slice_axis: axis });
      if (!current()) return;
      show(page, step, structure, () => work.take(mask, structure, axis, near[axis]), began, "slice");
    }
    const asked = performance.now();
    const { mask } = await ask("oneprompt_click", structure.prompts);
    if (!current()) return;
    measured = { id: study.id, ms: performance.now() - asked };
    show(page, step, structure, () => work.take(mask, structure), began, part ? "volume" : "all");
  });
}

// The paint of a structure as a prompt: where it corrects a mask, what it changed is carried to the slices around;
// where there was none, the slices between and beyond are answered by the network
export function spreadPaint(page, structure) {
  const { work } = page;
  if (!work.labels.painted.some((one, n) => one && work.labels.values[n] === structure.value)) {
    page.say("Paint the structure on one or more slices first; then this carries it through the volume.");
    return;
  }
  const painted = work.paintedSlices(structure, work.study.slice_axis);
  const step = work.step("spread", structure);
  asking(page, structure, step, async (signal, current) => {
    if (painted) {
      const began = performance.now();
      const prompts = { [structure.name]: { painted: { axis: work.study.slice_axis, slices: painted.slices } } };
      const params = { label: structure.name, label_info: [{ name: structure.name, idx: 1 }], prompts };
      const { mask } = await server.infer("oneprompt_click", work.study.id, params, signal, await fileOf(work, painted.before));
      if (current()) show(page, step, structure, () => work.take(mask, structure), began, "spread");
      return;
    }
    const label = await labelOf(work, structure, true);
    const params = { label_info: [{ name: structure.name, idx: 1 }], selected_label_name: structure.name };
    const began = performance.now();
    const { mask } = await server.infer("oneprompt_scribbles", work.study.id, params, signal, label);
    if (current()) show(page, step, structure, () => work.take(mask, structure), began, "spread");
  });
}

// Ask again for what was never answered: a later step was taken back, or the server was away
export function askAgain(page, structure) {
  const step = page.work.unanswered(structure);
  if (step && (!step.request || step.request.signal.aborted || step.failed)) step.ask();
}

// One question at a time about a structure: a newer one takes the place of the one before
async function asking(page, structure, step, ask) {
  const { state, work } = page;
  step.ask = () => asking(page, structure, step, ask);
  step.failed = false;
  structure.request?.abort();
  const request = step.request = structure.request = new AbortController();
  const current = () => page.work === work && !request.signal.aborted;
  state.busy += 1;
  page.draw();
  try {
    await ask(request.signal, current);
    step.answered = current();
  } catch (error) {
    step.failed = true;
    if (current()) page.fail(error, "No answer: ", "It is asked again as soon as the server answers.");
  } finally {
    state.busy -= 1;
    page.keepSoon();
  }
}

function show(page, step, structure, make, began, what) {
  const { state, work, viewer, marks } = page;
  const edit = work.answer(step, make, page.hand.drag?.edit);
  const { won, lost } = edit.balance(structure.value);
  if (edit.size) marks.show(edit);
  viewer.draw();
  state.times.push({ what, ms: performance.now() - began });
  const volume = viewer.side.reduce((product, side) => product * side) / 1000;
  const amount = (voxels) => (viewer.flat ? `${voxels} pixels` : `${(voxels * volume).toFixed(voxels * volume < 10 ? 2 : 0)} ml`);
  page.say(won || lost ? `${structure.name}: ${[won && `+${amount(won)}`, lost && `−${amount(lost)}`].filter(Boolean).join(", ")}`
    : `${structure.name}: nothing changed. Click where it is wrong, or paint it.`);
}

// The mask of one structure as a file, value 1; only what was painted, where that is asked for. Null where there is none
async function labelOf(work, structure, onlyPainted) {
  const { values, painted } = work.labels;
  const own = new Uint8Array(values.length);
  let any = false;
  for (let n = 0; n < values.length; n += 1) {
    if (values[n] === structure.value && (!onlyPainted || painted[n])) { own[n] = 1; any = true; }
  }
  if (!any) return null;
  return fileOf(work, work.grid.file(own, Uint8Array.from({ length: 256 }, (_, value) => value)));
}

// A mask in the file's order as a file
async function fileOf(work, bytes) {
  return { file: await server.labelFile(work.study.label, bytes), suffix: work.study.label.suffix };
}
