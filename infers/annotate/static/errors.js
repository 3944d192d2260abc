// Where a structure is most likely wrong: the wrong voxels to expect on each slice. Counted as lib/quality/slice_errors.py
// counts what an answer's `slice_errors` tells, but in what is shown now, after paint and undo, and in any plane.

const PER_VOXEL = 0.44; // wrong voxels for each voxel that is counted

// {expected: of each slice along the shown axis, worst: index of the slice with most}; null where the structure is nowhere
export function expectedErrors(labels, value, axis) {
  const corners = labels.bounds(value);
  if (!corners) return null;
  const { values, dims, strides } = labels;
  const [low, high] = corners;
  const [u, v] = [0, 1, 2].filter((one) => one !== axis);
  const expected = new Array(dims[axis]).fill(0);
  for (let place = low[axis]; place <= high[axis]; place += 1) {
    let counted = 0;
    const [first, last] = [place === low[axis], place === high[axis]];
    for (let y = low[v]; y <= high[v]; y += 1) {
      for (let x = low[u], n = place * strides[axis] + y * strides[v] + x * strides[u]; x <= high[u]; x += 1, n += strides[u]) {
        const own = values[n] === value;
        if (own && (x === low[u] || x === high[u] || y === low[v] || y === high[v]
          || values[n - strides[u]] !== value || values[n + strides[u]] !== value
          || values[n - strides[v]] !== value || values[n + strides[v]] !== value)) counted += 1;
        const before = own !== (!first && values[n - strides[axis]] === value);
        const after = own !== (!last && values[n + strides[axis]] === value);
        counted += before + after + (before && after);
      }
    }
    expected[place] = PER_VOXEL * counted;
  }
  return { expected, worst: expected.indexOf(Math.max(...expected)) };
}
