// The study's own voxels and those that are shown: NiiVue turns volumes by whole axes, and a large one is shown coarser.

export class Grid {
  constructor(study, image) {
    this.shape = study.shape; // of the file, its first axis the fastest
    this.steps = study.steps; // voxels along each of its axes that are shown as one
    this.small = study.shape.map((size, axis) => Math.ceil(size / study.steps[axis]));
    this.dims = image.dimsRAS.slice(1, 4); // as shown
    this.step = image.img2RASstep; // how far apart neighbours along each shown axis lie in the file
    this.start = image.img2RASstart[0] + image.img2RASstart[1] + image.img2RASstart[2];
    this.whole = Math.max(...this.steps) === 1;
    const strides = [1, this.small[0], this.small[0] * this.small[1]];
    this.axes = this.step.map((step) => strides.indexOf(Math.abs(step))); // shown axis: the file's axis
    this.strides = strides;
  }

  // The file's [i, j, k] of a shown voxel: of the middle one where it stands for several
  toFile([r, a, s]) {
    let rest = this.start + r * this.step[0] + a * this.step[1] + s * this.step[2];
    const found = [0, 0, 0];
    for (const axis of [2, 1, 0]) {
      found[axis] = Math.floor(rest / this.strides[axis]);
      rest -= found[axis] * this.strides[axis];
    }
    return found.map((index, axis) =>
      Math.min(index * this.steps[axis] + ((this.steps[axis] - 1) >> 1), this.shape[axis] - 1));
  }

  // The shown voxel that holds the file's [i, j, k]
  fromFile(voxel) {
    const found = [0, 0, 0];
    this.axes.forEach((axis, shown) => {
      const index = Math.floor(voxel[axis] / this.steps[axis]);
      found[shown] = this.step[shown] > 0 ? index : this.dims[shown] - 1 - index;
    });
    return found;
  }

  // The shown axis along which the file's axis runs
  shownAxis(axis) {
    return this.axes.indexOf(axis);
  }

  // A label of the file as it is shown; `bytes` without a header
  shown(bytes) {
    const small = this.whole ? bytes : this.coarser(bytes);
    const [width, height, depth] = this.dims;
    const [right, front, up] = this.step;
    const result = new Uint8Array(small.length);
    let place = 0;
    for (let s = 0; s < depth; s += 1) {
      for (let a = 0; a < height; a += 1) {
        let index = this.start + a * front + s * up;
        for (let r = 0; r < width; r += 1, index += right) result[place++] = small[index];
      }
    }
    return result;
  }

  // What is shown as a label of the file, each value exchanged by `table`. `loaded` is the label of the file that was
  // there before: where the image is shown coarser, voxels that show what they showed then keep their own values.
  file(shown, table, loaded = null) {
    const [width, height, depth] = this.dims;
    const [right, front, up] = this.step;
    const small = new Uint8Array(shown.length);
    let place = 0;
    for (let s = 0; s < depth; s += 1) {
      for (let a = 0; a < height; a += 1) {
        let index = this.start + a * front + s * up;
        for (let r = 0; r < width; r += 1, index += right) small[index] = shown[place++];
      }
    }
    return this.whole ? small.map((value) => table[value]) : this.finer(small, table, loaded);
  }

  coarser(bytes) {
    const [si, sj, sk] = this.steps;
    const [width, height, depth] = this.small;
    const middle = (index, step, size) => Math.min(index * step + ((step - 1) >> 1), size - 1);
    const result = new Uint8Array(width * height * depth);
    let place = 0;
    for (let k = 0; k < depth; k += 1) {
      for (let j = 0; j < height; j += 1) {
        const row = this.shape[0] * (middle(j, sj, this.shape[1]) + this.shape[1] * middle(k, sk, this.shape[2]));
        for (let i = 0; i < width; i += 1) result[place++] = bytes[row + middle(i, si, this.shape[0])];
      }
    }
    return result;
  }

  finer(small, table, loaded) {
    const before = loaded && this.coarser(loaded);
    const [si, sj, sk] = this.steps;
    const [width, height, depth] = this.shape;
    const result = new Uint8Array(width * height * depth);
    let place = 0;
    for (let k = 0; k < depth; k += 1) {
      for (let j = 0; j < height; j += 1) {
        const row = this.small[0] * (Math.floor(j / sj) + this.small[1] * Math.floor(k / sk));
        for (let i = 0; i < width; i += 1, place += 1) {
          const index = row + Math.floor(i / si), value = small[index];
          result[place] = table[before && before[index] === value ? loaded[place] : value];
        }
      }
    }
    return result;
  }
}
