// Prompts go to the server, answers come back onto the label. Where a volume takes long, the slice that was prompted
// answers first.

import { onSlice, saysWhere, told } from "./prompts.js";
import * as server from "./server.js";

const AT_ONCE_MS = 700; // a volume that was answered faster needs no slice before it
const SMALL = 2e6; // voxels of a volume that is taken for fast until one answer was timed

let measured = null; // {id, ms} of the last answer for a whole volume

// Ask for one structure after `step` changed its prompts; `near` is the file's voxel that was prompted last
export async function answerPrompts(page, structure, step, near) {
  const { state, work } = page;
  const { study } = work;
  if (!saysWhere(structure.prompts) && !structure.grounded) return;
  structure.request?.abort();
  const request = step.request = structure.request = new AbortController();
  const current = () => page.work === work && !request.signal.aborted;
  const params = { label: structure.name };
  const ask = (model, prompts, more = {}) => server.infer(model, study.id,
    { ...params, prompts: { [structure.name]: told(prompts, study.flat) }, ...more }, request.signal, label);
  const began = performance.now();
  state.busy += 1;
  page.draw();
  let label = null;
  try {
    if (structure.grounded) {
      label = await labelOf(work, structure, false);
      params.label_info = [{ name: structure.name, idx: 1 }];
    }
    const axis = study.slice_axis;
    const slow = measured?.id === study.id ? measured.ms > AT_ONCE_MS : study.shape.reduce((all, one) => all * one) > SMALL;
    const part = axis !== null && slow ? onSlice(structure.prompts, axis, near[axis]) : null;
    if (part) {
      const { mask } = await ask("oneprompt_slice", part, { slice_axis: axis });
      if (!current()) return;
      show(page, step, structure, work.take(mask, structure, axis, near[axis]), began, "slice");
    }
    const asked = performance.now();
    const { mask } = await ask("oneprompt_click", structure.prompts);
    if (!current()) return;
    measured = { id: study.id, ms: performance.now() - asked };
    show(page, step, structure, work.take(mask, structure), began, part ? "volume" : "all");
  } catch (error) {
    if (current()) page.fail(error, "No answer: ");
  } finally {
    state.busy -= 1;
    page.keepSoon();
  }
}

function show(page, step, structure, edit, began, what) {
  const { state, work, viewer, marks } = page;
  const { won, lost } = edit.balance(structure.value);
  work.extend(step, edit);
  if (edit.size) marks.show(edit);
  viewer.draw();
  state.times.push({ what, ms: performance.now() - began });
  const volume = viewer.side.reduce((product, side) => product * side) / 1000;
  const amount = (voxels) => (viewer.flat ? `${voxels} pixels` : `${(voxels * volume).toFixed(voxels * volume < 10 ? 2 : 0)} ml`);
  page.say(won || lost ? `${structure.name}: ${[won && `+${amount(won)}`, lost && `−${amount(lost)}`].filter(Boolean).join(", ")}`
    : `${structure.name}: nothing changed. Click where it is wrong, or paint it.`);
}

// The paint of a structure as a prompt: the slices between and beyond are answered by the network
export async function spreadPaint(page, structure) {
  const { state, work } = page;
  const { study } = work;
  const label = await labelOf(work, structure, true);
  if (!label) { page.say("Paint the structure on one or more slices first; then this carries it through the volume."); return; }
  structure.request?.abort();
  const request = structure.request = new AbortController();
  const step = work.step("spread");
  step.request = request;
  state.busy += 1;
  page.draw();
  try {
    const params = { label_info: [{ name: structure.name, idx: 1 }], selected_label_name: structure.name };
    const began = performance.now();
    const { mask } = await server.infer("oneprompt_scribbles", study.id, params, request.signal, label);
    if (page.work !== work || request.signal.aborted) return;
    show(page, step, structure, work.take(mask, structure), began, "spread");
  } catch (error) {
    page.fail(error, "No answer: ");
  } finally {
    state.busy -= 1;
    page.keepSoon();
  }
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
  const bytes = work.grid.file(own, Uint8Array.from({ length: 256 }, (_, value) => value));
  return { file: await server.labelFile(work.study.label, bytes), suffix: work.study.label.suffix };
}
