// What a person says about one structure without painting it: clicks, a box, strokes. In the file's own voxels [i, j, k].

export const none = () => ({ foreground: [], background: [], roi: null, strokes: [], background_strokes: [] });

export const isEmpty = (prompts) => !count(prompts);

// Clicks, box and strokes that say where a structure is; background alone says nothing
export const saysWhere = ({ foreground, roi, strokes }) => Boolean(foreground.length || roi || strokes.length);

export const count = ({ foreground, background, roi, strokes, background_strokes: others }) =>
  foreground.length + background.length + (roi ? 1 : 0) + strokes.length + others.length;

// As the server takes them: a flat image has two indices a point
export function told(prompts, flat) {
  const point = (voxel) => (flat ? voxel.slice(0, 2) : voxel);
  const points = (list) => list.map(point);
  const found = {
    foreground: points(prompts.foreground), background: points(prompts.background),
    roi: prompts.roi && (flat ? prompts.roi.slice(0, 4) : prompts.roi),
    foreground_scribbles: points(prompts.strokes.flat()), background_scribbles: points(prompts.background_strokes.flat()),
  };
  return Object.fromEntries(Object.entries(found).filter(([, value]) => value?.length));
}

// And back
export function heard({ foreground = [], background = [], roi = null, foreground_scribbles: strokes = [],
  background_scribbles: others = [] }) {
  const points = (list) => list.map((point) => [...point, 0].slice(0, 3));
  return {
    foreground: points(foreground), background: points(background), roi: roi && [...roi, 0, 0].slice(0, 6),
    strokes: strokes.length ? [points(strokes)] : [], background_strokes: others.length ? [points(others)] : [],
  };
}

// Only what lies on one slice along an axis; null where nothing there says where the structure is
export function onSlice(prompts, axis, index) {
  const there = (list) => list.filter((voxel) => voxel[axis] === index);
  const { roi } = prompts;
  const flat = roi && roi[2 * axis] <= index && index <= roi[2 * axis + 1] ? roi.slice() : null;
  if (flat) flat[2 * axis] = flat[2 * axis + 1] = index;
  const found = {
    foreground: there(prompts.foreground), background: there(prompts.background), roi: flat,
    strokes: prompts.strokes.map(there).filter((stroke) => stroke.length),
    background_strokes: prompts.background_strokes.map(there).filter((stroke) => stroke.length),
  };
  return saysWhere(found) ? found : null;
}

// The box that two boxes say together: one drawn in a second plane adds its depth to the first
export function joined(old, box) {
  if (!old) return box;
  const thin = (roi) => [0, 1, 2].filter((axis) => roi[2 * axis] === roi[2 * axis + 1]);
  const [before, now] = [thin(old), thin(box)];
  if (before.length !== 1 || now.length !== 1 || before[0] === now[0]) return box;
  const result = box.slice();
  result.splice(2 * now[0], 2, ...old.slice(2 * now[0], 2 * now[0] + 2));
  return result;
}

const inside = (roi, voxel) => voxel.every((index, axis) => roi[2 * axis] <= index && index <= roi[2 * axis + 1]);
const beside = (roi, voxel) => voxel.some((index, axis) => roi[2 * axis] !== roi[2 * axis + 1]
  && (index < roi[2 * axis] || index > roi[2 * axis + 1]));

// A click or stroke inside the structure, but outside its box, takes the box away; a box takes away what it leaves out on
// its slices. The newest is meant.
export function pointAdded(prompts, voxels) {
  if (prompts.roi && voxels.some((voxel) => beside(prompts.roi, voxel))) prompts.roi = null;
}

export function boxAdded(prompts) {
  const { roi } = prompts;
  const stays = (voxel) => inside(roi, voxel) || !beside(roi, voxel)
    || [0, 1, 2].some((axis) => roi[2 * axis] === roi[2 * axis + 1] && voxel[axis] !== roi[2 * axis]);
  prompts.foreground = prompts.foreground.filter(stays);
  prompts.strokes = prompts.strokes.filter((stroke) => stroke.every(stays));
}
