// Fill between slices: the outlines on painted slices go over into each other by the mean of their signed distances
// (Raya and Udupa, Shape-based interpolation of multidimensional objects, IEEE TMI 1990).

// Fills the slices between those along `axis` that show a structure; returns how many it filled.
export function fillBetween(labels, edit, value, axis, sides) {
  const across = [0, 1, 2].filter((one) => one !== axis);
  const [width, height] = across.map((one) => labels.dims[one]);
  const slice = (place) => {
    const mask = new Uint8Array(width * height);
    let any = false;
    each(labels, across, axis, place, (index, n) => {
      if (labels.values[index] === value) { mask[n] = 1; any = true; }
    });
    return any ? mask : null;
  };
  let filled = 0, last = null;
  for (let place = 0; place < labels.dims[axis]; place += 1) {
    const mask = slice(place);
    if (!mask) continue;
    const distance = signed(mask, width, height, across.map((one) => sides[one]));
    if (last && place - last.place > 1) {
      for (let middle = last.place + 1; middle < place; middle += 1) {
        const share = (middle - last.place) / (place - last.place);
        each(labels, across, axis, middle, (index, n) => {
          const inside = last.distance[n] * (1 - share) + distance[n] * share < 0;
          if (inside && !labels.values[index]) edit.paint(index, value);
        });
        filled += 1;
      }
    }
    last = { place, distance };
  }
  return filled;
}

function each(labels, [u, v], axis, place, visit) {
  const { dims, strides } = labels;
  let n = 0;
  for (let y = 0; y < dims[v]; y += 1) {
    let index = place * strides[axis] + y * strides[v];
    for (let x = 0; x < dims[u]; x += 1, n += 1, index += strides[u]) visit(index, n);
  }
}

// Distance in mm to the outline, negative inside
function signed(mask, width, height, sides) {
  const outside = distances(mask, 1, width, height, sides), inside = distances(mask, 0, width, height, sides);
  return outside.map((far, n) => Math.sqrt(far) - Math.sqrt(inside[n]));
}

// Squared distance in mm of every pixel to the nearest one with `value`
// (Felzenszwalb and Huttenlocher, Distance transforms of sampled functions, 2012)
function distances(mask, value, width, height, [dx, dy]) {
  const far = (width * dx) ** 2 + (height * dy) ** 2;
  const result = Float64Array.from(mask, (one) => (one === value ? 0 : far));
  for (let x = 0; x < width; x += 1) sweep(result, x, width, height, dy);
  for (let y = 0; y < height; y += 1) sweep(result, y * width, 1, width, dx);
  return result;
}

function sweep(values, start, step, count, side) {
  const lowest = new Int32Array(count), from = new Float64Array(count + 1), row = new Float64Array(count);
  for (let n = 0; n < count; n += 1) row[n] = values[start + n * step] / (side * side);
  let top = 0;
  from[0] = -Infinity;
  from[1] = Infinity;
  for (let n = 1; n < count; n += 1) {
    let meet;
    do {
      const other = lowest[top];
      meet = (row[n] + n * n - (row[other] + other * other)) / (2 * (n - other));
    } while (meet <= from[top] && --top >= 0);
    top += 1;
    lowest[top] = n;
    from[top] = meet;
    from[top + 1] = Infinity;
  }
  for (let n = 0, place = 0; n < count; n += 1) {
    while (from[place + 1] < n) place += 1;
    values[start + n * step] = ((n - lowest[place]) ** 2 + row[lowest[place]]) * side * side;
  }
}
