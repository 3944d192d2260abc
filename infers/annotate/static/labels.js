// The label on the screen: which structure each voxel is, and which voxels a person painted or erased. What a person
// painted no answer changes. Every change is an `Edit`, which can be taken back and made again.

export class Labels {
  // `values` is shared with the viewer; `dims` are its [r, a, s]
  constructor(values, dims) {
    this.values = values;
    this.dims = dims;
    this.painted = new Uint8Array(values.length);
    this.strides = [1, dims[0], dims[0] * dims[1]];
  }

  index([r, a, s]) {
    return r + this.strides[1] * a + this.strides[2] * s;
  }

  edit() {
    return new Edit(this);
  }

  // A whole label; `byHand` where a person made it
  load(values, byHand) {
    this.values.set(values);
    if (byHand) for (let n = 0; n < values.length; n += 1) this.painted[n] = values[n] ? 1 : 0;
    else this.painted.fill(0);
  }

  count() {
    const counts = new Float64Array(256);
    for (let n = 0; n < this.values.length; n += 1) counts[this.values[n]] += 1;
    return counts;
  }

  any() {
    return this.values.some((value) => value !== 0);
  }

  // [low, high] corners of a structure; null where it is nowhere
  bounds(value) {
    const low = this.dims.slice(), high = [-1, -1, -1];
    const [width, height] = this.dims;
    for (let n = this.values.indexOf(value); n >= 0; n = this.values.indexOf(value, n + 1)) {
      const there = [n % width, Math.floor(n / width) % height, Math.floor(n / (width * height))];
      for (let axis = 0; axis < 3; axis += 1) {
        low[axis] = Math.min(low[axis], there[axis]);
        high[axis] = Math.max(high[axis], there[axis]);
      }
    }
    return high[0] < 0 ? null : [low, high];
  }

  // The slice along `axis` with the most of a structure (of any, where `value` is 0); null where there is none
  fullest(axis, value = 0) {
    const areas = new Float64Array(this.dims[axis]);
    const [width, height] = this.dims;
    let n = 0;
    for (let s = 0; s < this.dims[2]; s += 1) {
      for (let a = 0; a < height; a += 1) {
        for (let r = 0; r < width; r += 1, n += 1) {
          const here = this.values[n];
          if (value ? here === value : here) areas[axis === 0 ? r : axis === 1 ? a : s] += 1;
        }
      }
    }
    const best = areas.indexOf(Math.max(...areas));
    return areas[best] ? best : null;
  }
}

export class Edit {
  constructor(labels) {
    this.labels = labels;
    this.places = [];
    this.before = [];
    this.after = [];
    this.low = labels.dims.slice();
    this.high = [-1, -1, -1];
    this.fresh = null; // corners of what changed since it was last drawn
  }

  get size() {
    return this.places.length;
  }

  // By hand: whatever was there. Value 0 erases.
  paint(index, value) {
    this.#put(index, value, 1);
  }

  // By an answer: never over what is painted
  answer(index, value) {
    if (!this.labels.painted[index]) this.#put(index, value, 0);
  }

  // Nothing there, and nobody said so
  reset(index) {
    this.#put(index, 0, 0);
  }

  #put(index, value, painted) {
    const { labels } = this;
    const was = labels.values[index], by = labels.painted[index];
    if (was === value && by === painted) return;
    this.places.push(index);
    this.before.push(was | (by << 8));
    this.after.push(value | (painted << 8));
    labels.values[index] = value;
    labels.painted[index] = painted;
    this.#reach(index);
  }

  #reach(index) {
    const [, row, slice] = this.labels.strides;
    const s = Math.floor(index / slice), a = Math.floor((index - s * slice) / row);
    this.#widen([index - s * slice - a * row, a, s]);
  }

  #widen(there) {
    this.fresh ??= [this.labels.dims.slice(), [-1, -1, -1]];
    for (let axis = 0; axis < 3; axis += 1) {
      this.low[axis] = Math.min(this.low[axis], there[axis]);
      this.high[axis] = Math.max(this.high[axis], there[axis]);
      this.fresh[0][axis] = Math.min(this.fresh[0][axis], there[axis]);
      this.fresh[1][axis] = Math.max(this.fresh[1][axis], there[axis]);
    }
  }

  // Corners of what changed since this was last asked; null where nothing did
  drawn() {
    const corners = this.fresh;
    this.fresh = null;
    return corners;
  }

  // Whether a structure won or lost by it
  concerns(value) {
    return [this.before, this.after].some((values) => values.some((one) => (one & 255) === value));
  }

  // What lay below it, in a copy of the values
  below(values) {
    for (let n = this.places.length - 1; n >= 0; n -= 1) values[this.places[n]] = this.before[n] & 255;
  }

  undo() {
    for (let n = this.places.length - 1; n >= 0; n -= 1) this.#set(this.places[n], this.before[n]);
    this.fresh = this.size ? [this.low.slice(), this.high.slice()] : null;
  }

  // On whatever is there by now: that is what an undo brings back
  redo() {
    const { values, painted } = this.labels;
    for (let n = 0; n < this.places.length; n += 1) {
      const index = this.places[n];
      this.before[n] = values[index] | (painted[index] << 8);
      this.#set(index, this.after[n]);
    }
    this.fresh = this.size ? [this.low.slice(), this.high.slice()] : null;
  }

  #set(index, both) {
    this.labels.values[index] = both & 255;
    this.labels.painted[index] = both >> 8;
  }

  // How many voxels a structure won and lost
  balance(value) {
    let won = 0, lost = 0;
    for (let n = 0; n < this.places.length; n += 1) {
      const was = (this.before[n] & 255) === value, is = (this.after[n] & 255) === value;
      if (is && !was) won += 1;
      if (was && !is) lost += 1;
    }
    return { won, lost };
  }
}

// A disc of `radius` mm in one plane around a place with fractions, and along the way from the one before
export function stampDisc(labels, sides, axes, from, to, radius, mark) {
  const [u, v] = axes;
  const steps = Math.max(1, Math.ceil(Math.max(...axes.map((axis) => Math.abs(to[axis] - from[axis]))) * 2));
  const there = to.map(Math.floor);
  for (let step = 0; step <= steps; step += 1) {
    const centre = to.map((end, axis) => from[axis] + ((end - from[axis]) * step) / steps);
    const reach = axes.map((axis) => Math.max(0.5, radius / sides[axis]));
    for (let y = Math.floor(centre[v] - reach[1]); y <= Math.floor(centre[v] + reach[1]); y += 1) {
      if (y < 0 || y >= labels.dims[v]) continue;
      for (let x = Math.floor(centre[u] - reach[0]); x <= Math.floor(centre[u] + reach[0]); x += 1) {
        if (x < 0 || x >= labels.dims[u]) continue;
        const dx = (x + 0.5 - centre[u]) / reach[0], dy = (y + 0.5 - centre[v]) / reach[1];
        const own = x === Math.floor(centre[u]) && y === Math.floor(centre[v]);
        if (dx * dx + dy * dy > 1 && !own) continue;
        there[u] = x;
        there[v] = y;
        mark(labels.index(there), there);
      }
    }
  }
}
