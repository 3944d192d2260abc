// The work on one study: structures, their prompts, the label, and what can be taken back.

import { expectedErrors } from "./errors.js";
import { Labels } from "./labels.js";
import { isEmpty, none } from "./prompts.js";

const MOST_STEPS = 200; // that can be taken back
const MOST_VOXELS = 2e7; // in all of them together

export class Work {
  #errors = null; // {of, found}: counted once for what is shown

  constructor(study, grid, viewer) {
    this.study = study;
    this.grid = grid;
    this.viewer = viewer;
    this.labels = new Labels(viewer.labels, viewer.dims);
    this.loaded = null; // the label that was there before, on the file's own grid
    this.structures = [];
    this.current = null;
    this.past = [];
    this.future = [];
    this.changes = 0; // counts up with every change, so that what was kept can be told from what is newer
    this.saved = 0;
    this.known = { ...study.structures };
    for (const name of Object.keys(study.structures)) this.add(name);
    this.choose(this.structures[0] ?? null);
  }

  get unsaved() {
    return this.changes !== this.saved;
  }

  // Structures

  // The structure of that name, added where there is none; a name in other capitals is the same one
  add(name) {
    const plain = name.trim().replace(/\s+/g, " ");
    if (!plain) return null;
    const there = this.structures.find((one) => one.name.toLowerCase() === plain.toLowerCase());
    if (there) return there;
    const known = Object.keys(this.known).find((one) => one.toLowerCase() === plain.toLowerCase());
    const value = this.known[known] ?? this.freeValue();
    if (value === null) return null;
    const { colours, palette } = this.study;
    const structure = {
      name: known ?? plain, value, colour: colours[known] ?? palette[(value - 1) % palette.length],
      prompts: none(), hidden: false, grounded: false,
    };
    this.structures.push(structure);
    return structure;
  }

  freeValue() {
    const taken = new Set([...Object.values(this.known), ...this.structures.map(({ value }) => value)]);
    for (let value = 1; value < 256; value += 1) if (!taken.has(value)) return value;
    return null;
  }

  // Give a structure another name; the reason why not, or null
  rename(structure, name) {
    const plain = name.trim().replace(/\s+/g, " ");
    if (!plain || plain === structure.name) return null;
    const other = this.structures.find((one) => one !== structure && one.name.toLowerCase() === plain.toLowerCase());
    if (other) return `there is a structure ${other.name} already`;
    structure.name = Object.keys(this.known).find((one) => one.toLowerCase() === plain.toLowerCase()) ?? plain;
    this.changes += 1;
    return null;
  }

  choose(structure) {
    this.current = structure;
  }

  // Wrong voxels to expect of the chosen structure along a shown axis (errors.js); null where nothing of it is shown
  errors(axis) {
    if (!this.current) return null;
    const of = [this.changes, this.loaded, this.current.value, axis];
    if (this.#errors?.of.some((one, n) => one !== of[n]) ?? true) {
      this.#errors = { of, found: expectedErrors(this.labels, this.current.value, axis) };
    }
    return this.#errors.found;
  }

  // Changes that can be taken back

  // Begin a step; what follows of it (an answer that comes later) is added with `extend`
  step(what, structure = null, prompts = null) {
    const step = { what, structure, edits: [], before: structure && structure.prompts, after: prompts };
    if (structure && prompts) structure.prompts = prompts;
    this.past.push(step);
    this.future = [];
    this.changes += 1;
    this.#forget();
    return step;
  }

  extend(step, edit) {
    if (!edit.size) return;
    step.edits.push(edit);
    this.changes += 1;
    this.redraw(edit);
  }

  // An answer belongs to the step that asked for it. What was done since, `underway` (an edit of the hand) too, is taken
  // back for a moment and done again on top of it, so that undo goes back through these very states.
  answer(step, make, underway = null) {
    const at = this.past.indexOf(step);
    const later = at < 0 ? [] : this.past.slice(at + 1).flatMap(({ edits }) => edits);
    if (underway) later.push(underway);
    for (const edit of later.slice().reverse()) { edit.undo(); this.redraw(edit); }
    const edit = make();
    this.extend(step, edit);
    for (const one of later) { one.redo(); this.redraw(one); }
    return edit;
  }

  undo() {
    const step = this.past.pop();
    if (!step) return null;
    for (const edit of step.edits.slice().reverse()) { edit.undo(); this.redraw(edit); }
    if (step.after) step.structure.prompts = step.before;
    this.future.push(step);
    this.changes += 1;
    return step;
  }

  redo() {
    const step = this.future.pop();
    if (!step) return null;
    for (const edit of step.edits) { edit.redo(); this.redraw(edit); }
    if (step.after) step.structure.prompts = step.after;
    this.past.push(step);
    this.changes += 1;
    return step;
  }

  #forget() {
    let voxels = 0;
    const from = this.past.findLastIndex((step) => (voxels += step.edits.reduce((sum, one) => sum + one.size, 0)) > MOST_VOXELS);
    this.past.splice(0, Math.max(from, this.past.length - MOST_STEPS, 0));
  }

  redraw(edit) {
    const corners = edit.drawn();
    if (corners) this.viewer.labelsChanged(...corners);
  }

  // What was painted by hand on slices along the file's axis since the last answer, as the server takes it: `before`, the
  // structure as it was, in the file's order, and `slices`, {index: runs} of all slices that were painted. Null where it
  // cannot be told: nothing of the structure was there before, or the image is shown coarser.
  paintedSlices(structure, axis) {
    if (axis === null || !this.grid.whole) return null;
    const { values, dims } = this.labels, along = this.grid.shownAxis(axis);
    const strokes = this.past.filter(({ what }) => ["paint", "fill"].includes(what));
    const last = this.past.findLastIndex(({ what, edits }) => edits.length && !["paint", "fill"].includes(what));
    const shown = values.slice(), places = new Set();
    for (const { edits } of this.past.slice(last + 1).reverse()) for (const edit of edits.slice().reverse()) edit.below(shown);
    for (const edit of strokes.flatMap(({ edits }) => edits)) {
      if (edit.low[along] === edit.high[along] && edit.concerns(structure.value)) places.add(edit.low[along]);
    }
    const only = Uint8Array.from({ length: 256 }, (_, value) => (value === structure.value ? 1 : 0));
    const [before, now] = [shown, values].map((one) => this.grid.file(one, only));
    const slices = {};
    for (const place of places) {
      const voxel = dims.map((_, n) => (n === along ? place : 0)), index = this.grid.toFile(voxel)[axis];
      slices[index] = runs(now, this.grid.shape, axis, index);
    }
    const own = before.some((one, n) => one && !(coordinate(n, this.grid.shape, axis) in slices));
    return own && places.size ? { before, slices } : null;
  }

  // An answer for one structure, in the file's order; only on the slice `index` along the file's axis, where one is given
  take(mask, structure, axis = null, index = null) {
    const shown = this.grid.shown(mask);
    const edit = this.labels.edit();
    const { values, dims } = this.labels;
    const along = axis === null ? -1 : this.grid.shownAxis(axis);
    const place = axis === null ? -1 : this.#shownIndex(axis, index);
    const visit = (n) => {
      if (shown[n]) { if (values[n] !== structure.value) edit.answer(n, structure.value); }
      else if (values[n] === structure.value) edit.answer(n, 0);
    };
    if (along < 0) for (let n = 0; n < shown.length; n += 1) visit(n);
    else slice(dims, along, place, visit);
    return edit;
  }

  #shownIndex(axis, index) {
    const voxel = [0, 0, 0];
    voxel[axis] = index;
    return this.grid.fromFile(voxel)[this.grid.shownAxis(axis)];
  }

  // Forget a structure's prompts and whatever of it nobody painted
  clear(structure) {
    structure.request?.abort();
    const step = this.step("clear", structure, none());
    const edit = this.labels.edit();
    for (let n = 0; n < this.labels.values.length; n += 1) {
      if (this.labels.values[n] === structure.value) edit.reset(n);
    }
    this.extend(step, edit);
  }

  // Names of structures that the label shows, and the table from shown values to 1, 2, ...
  naming() {
    const counts = this.labels.count();
    const hidden = new Set(this.grid.whole ? [] : this.loaded); // too small to be shown at a smaller resolution
    const shown = this.structures.filter(({ value }) => counts[value] || hidden.has(value));
    const table = new Uint8Array(256);
    shown.forEach(({ value }, n) => { table[value] = n + 1; });
    return { names: shown.map(({ name }) => name), table, counts };
  }

  // The newest step that asked for an answer about a structure, where that never came; null where there is none
  unanswered(structure) {
    const step = this.past.findLast((one) => one.structure === structure && one.ask);
    return step && !step.answered ? step : null;
  }

  // Nobody waits for answers any more
  abort() {
    for (const { request } of this.structures) request?.abort();
  }

  prompted() {
    return this.structures.filter(({ prompts }) => !isEmpty(prompts));
  }
}

const coordinate = (n, shape, axis) => Math.floor(n / [1, shape[0], shape[0] * shape[1]][axis]) % shape[axis];

// [first, count, ...] of the pixels of a slice of a file that are not 0, its first axis the fastest
function runs(bytes, shape, axis, index) {
  const found = [];
  let place = 0, open = -1;
  slice(shape, axis, index, (n) => {
    if (bytes[n] && open < 0) open = place;
    if (!bytes[n] && open >= 0) { found.push(open, place - open); open = -1; }
    place += 1;
  });
  if (open >= 0) found.push(open, place - open);
  return found;
}

function slice(dims, axis, place, visit) {
  const strides = [1, dims[0], dims[0] * dims[1]];
  const [u, v] = [0, 1, 2].filter((one) => one !== axis);
  for (let y = 0; y < dims[v]; y += 1) {
    for (let x = 0, n = place * strides[axis] + y * strides[v]; x < dims[u]; x += 1, n += strides[u]) visit(n);
  }
}
