// The image on the screen: NiiVue with one slice in each of its cells, and where a voxel of it is.
//
// Voxels here are [r, a, s]: indices that grow to the patient's right, front and head, as NiiVue turns every volume by
// whole axes. grid.js knows what they are called in the study's own file.

import { Niivue, NVImage } from "./vendor/niivue.js";

export const AXIAL = 0, CORONAL = 1, SAGITTAL = 2;
export const PLANES = ["axial", "coronal", "sagittal"];
const ACROSS = [[0, 1], [0, 2], [1, 2]]; // of each plane: the axes that run across and up
const SIDES = [["R", "L", "A", "P"], ["R", "L", "S", "I"], ["A", "P", "S", "I"]]; // left, right, top, bottom
const GAP = 2; // pixels between cells

export const through = (plane) => 2 - plane; // the axis that leads from slice to slice

export function supported() {
  return Boolean(document.createElement("canvas").getContext("webgl2"));
}

export class Viewer {
  constructor(canvas) {
    this.canvas = canvas;
    this.nv = new Niivue({
      backColor: [0, 0, 0, 1], crosshairWidth: 0, interactive: false, dragAndDropEnabled: false, loadingText: "",
      isRadiologicalConvention: true, sagittalNoseLeft: true, isOrientationTextVisible: false, logLevel: "silent",
    });
    this.cells = []; // {plane, left, top, width, height} in shares of the canvas
    this.at = [0, 0, 0];
    this.main = AXIAL;
    this.layout = "all";
    this.zoom = [0, 0, 0, 1];
    this.waiting = 0;
    this.drawn = () => {};
  }

  async attach() {
    this.nv.screenFieldOfViewExtendedVox = fillCells(this.nv, () => this.cells, this.canvas);
    this.nv.calculateWidthHeight = () => [NaN, NaN]; // a slice takes its whole cell, however far it is zoomed
    await this.nv.attachToCanvas(this.canvas, false);
    new ResizeObserver(() => this.arrange()).observe(this.canvas.parentElement);
  }

  // The largest side of a volume that this machine can show
  get largestSide() {
    return this.nv.uiData.max3D || 2048;
  }

  async show(buffer, study) {
    if (this.image) this.nv.removeVolume(this.image);
    const [low, high] = study.colour ? [0, 255] : study.window;
    this.image = await NVImage.new(buffer, "image.nii", "gray", 1, null, low, high, true);
    this.nv.addVolume(this.image);
    this.nv.createEmptyDrawing();
    const { gl } = this.nv;
    if (gl.getError() === gl.OUT_OF_MEMORY) throw new RangeError("the graphics card has too little memory");
    this.nv.drawClearAllUndoBitmaps();
    this.nv.clickToSegmentGrowingBitmap = null; // as large as the image, and of no use here
    this.dims = this.image.dimsRAS.slice(1, 4);
    this.side = this.image.pixDimsRAS.slice(1, 4); // mm
    this.flat = this.dims.includes(1);
    this.at = this.dims.map((size) => Math.floor(size / 2));
    this.zoom = [0, 0, 0, 1];
    this.window = [low, high];
  }

  get labels() {
    return this.nv.drawBitmap;
  }

  // Layout

  arrange(layout = this.layout, main = this.main) {
    this.layout = layout;
    this.main = main;
    if (!this.image) return;
    const others = [AXIAL, CORONAL, SAGITTAL].filter((plane) => plane !== main);
    const { clientWidth: width, clientHeight: height } = this.canvas.parentElement;
    const gap = (long) => GAP / Math.max(1, long);
    const whole = { plane: main, left: 0, top: 0, width: 1, height: 1 };
    if (this.flat || layout === "one") {
      this.cells = [whole];
    } else if (width >= height) {
      const right = 0.66 + gap(width);
      this.cells = [{ ...whole, width: 0.66 },
        { plane: others[0], left: right, top: 0, width: 1 - right, height: 0.5 - gap(height) / 2 },
        { plane: others[1], left: right, top: 0.5 + gap(height) / 2, width: 1 - right, height: 0.5 - gap(height) / 2 }];
    } else {
      const low = 0.62 + gap(height);
      this.cells = [{ ...whole, height: 0.62 },
        { plane: others[0], left: 0, top: low, width: 0.5 - gap(width) / 2, height: 1 - low },
        { plane: others[1], left: 0.5 + gap(width) / 2, top: low, width: 0.5 - gap(width) / 2, height: 1 - low }];
    }
    this.nv.setCustomLayout(this.cells.map(({ plane, left, top, width: w, height: h }) =>
      ({ sliceType: plane, position: [left, top, w, h] })));
    this.draw();
  }

  // Drawing happens once a frame, however often it is asked for.
  draw() {
    if (this.waiting || !this.image) return;
    this.waiting = requestAnimationFrame(() => this.drawNow());
  }

  drawNow() {
    this.waiting = 0;
    const { nv } = this;
    nv.scene.crosshairPos = this.at.map((index, axis) => (index + 0.5) / this.dims[axis]);
    nv.scene.pan2Dxyzmm = this.zoom;
    nv.drawScene();
    this.drawn();
  }

  // Where things are, in pixels of the canvas

  tile(x, y) {
    return this.nv.screenSlices.find(({ leftTopWidthHeight: [left, top, width, height] }) =>
      x >= left && y >= top && x < left + width && y < top + height);
  }

  tileOf(plane) {
    return this.nv.screenSlices.find(({ axCorSag }) => axCorSag === plane);
  }

  // [r, a, s] of a point in a tile, with fractions: voxel n reaches from n to n + 1
  place(tile, x, y) {
    const { leftTopWidthHeight: [left, top, width, height], leftTopMM, fovMM, axCorSag } = tile;
    const mm = [leftTopMM[0] + ((x - left) / width) * fovMM[0], leftTopMM[1] + (1 - (y - top) / height) * fovMM[1]];
    const found = this.at.map((index) => index + 0.5);
    ACROSS[axCorSag].forEach((axis, n) => {
      const { origin, scale } = this.ruler(axis);
      found[axis] = ((mm[n] - origin) / scale) * this.dims[axis];
    });
    return found;
  }

  voxel(tile, x, y) {
    const found = this.place(tile, x, y).map(Math.floor);
    return found.every((index, axis) => index >= 0 && index < this.dims[axis]) ? found : null;
  }

  // The pixel of a place in a tile; the inverse of `place`
  pixel(tile, place) {
    const { leftTopWidthHeight: [left, top, width, height], leftTopMM, fovMM, axCorSag } = tile;
    const [u, v] = ACROSS[axCorSag].map((axis, n) => {
      const { origin, scale } = this.ruler(axis);
      return (origin + (place[axis] / this.dims[axis]) * scale - leftTopMM[n]) / fovMM[n];
    });
    return [left + u * width, top + (1 - v) * height];
  }

  perMM({ leftTopWidthHeight, fovMM }) {
    return leftTopWidthHeight[2] / Math.abs(fovMM[0]);
  }

  axesOf(tile) {
    return ACROSS[tile.axCorSag];
  }

  sidesOf(tile) {
    return this.flat ? ["", "", "", ""] : SIDES[tile.axCorSag];
  }

  ruler(axis) {
    const matrix = this.image.frac2mmOrtho;
    return { origin: matrix[12 + axis], scale: matrix[5 * axis] };
  }

  // Moving

  go(voxel) {
    this.at = voxel.map((index, axis) => Math.min(Math.max(0, Math.round(index)), this.dims[axis] - 1));
    this.draw();
  }

  scroll(plane, step) {
    const there = this.at.slice();
    there[through(plane)] += step;
    this.go(there);
  }

  // One voxel across or up on the screen in the large plane
  move(right, up) {
    const tile = this.tileOf(this.main);
    if (!tile) return;
    const there = this.at.slice(), middle = this.at.map((index) => index + 0.5);
    ACROSS[this.main].forEach((axis, n) => {
      const ahead = middle.map((index, one) => index + (one === axis ? 1 : 0));
      const way = this.pixel(tile, ahead)[n] - this.pixel(tile, middle)[n];
      there[axis] += n === 0 ? right * Math.sign(way) : -up * Math.sign(way);
    });
    this.go(there);
  }

  zoomAtCross(factor) {
    const tile = this.tileOf(this.main);
    if (tile) this.zoomAt(tile, ...this.pixel(tile, this.at.map((index) => index + 0.5)), factor);
  }

  zoomAt(tile, x, y, factor) {
    const place = this.place(tile, x, y);
    const before = this.zoom[3];
    const after = Math.min(Math.max(1, before * factor), 40);
    this.zoom = [0, 1, 2].map((axis) => {
      const { origin, scale } = this.ruler(axis);
      return this.zoom[axis] + (origin + (place[axis] / this.dims[axis]) * scale) * (before - after);
    });
    this.zoom = after === 1 ? [0, 0, 0, 1] : [...this.zoom, after];
    this.draw();
  }

  pan(tile, dx, dy) {
    const { leftTopWidthHeight: [, , width, height], fovMM, axCorSag } = tile;
    const moved = [(dx / width) * fovMM[0], -(dy / height) * fovMM[1]];
    ACROSS[axCorSag].forEach((axis, n) => { this.zoom[axis] += moved[n] * this.zoom[3]; });
    this.draw();
  }

  fit() {
    this.zoom = [0, 0, 0, 1];
    this.draw();
  }

  // Grey values and colours

  setWindow([low, high]) {
    this.window = [low, Math.max(high, low + 1e-6)];
    [this.image.cal_min, this.image.cal_max] = this.window;
    this.nv.updateGLVolume();
    this.draw();
  }

  value([r, a, s]) {
    const { img2RASstart: start, img2RASstep: step, hdr, img } = this.image;
    if (img.length !== this.dims[0] * this.dims[1] * this.dims[2]) return null; // colour
    const index = start[0] + start[1] + start[2] + r * step[0] + a * step[1] + s * step[2];
    return img[index] * (hdr.scl_slope || 1) + hdr.scl_inter;
  }

  setColours(structures, opacity, hidden) {
    const lut = new Uint8ClampedArray(256 * 4);
    for (const { value, colour } of structures) {
      if (hidden.has(value)) continue;
      lut.set([1, 3, 5].map((place) => Number.parseInt(colour.slice(place, place + 2), 16)), 4 * value);
      lut[4 * value + 3] = 255;
    }
    this.nv.drawLut = { lut, labels: [] };
    this.nv.drawOpacity = opacity;
    this.nv.drawRimOpacity = opacity > 0 ? Math.min(1, opacity + 0.45) : 0;
    this.nv.refreshColormaps();
    this.draw();
  }

  // Only the part of the labels that changed goes to the graphics card: [low, high] corners, both inside.
  labelsChanged(low = [0, 0, 0], high = this.dims.map((size) => size - 1)) {
    const { gl } = this.nv;
    const [width, height, depth] = high.map((index, axis) => index - low[axis] + 1);
    if (this.nv.opts.is2DSliceShader || width < 1) { this.nv.refreshDrawing(false); this.draw(); return; }
    gl.activeTexture(gl.TEXTURE0 + 7); // NiiVue's unit for drawings
    gl.bindTexture(gl.TEXTURE_3D, this.nv.drawTexture);
    const store = [[gl.UNPACK_ALIGNMENT, 1, 1], [gl.UNPACK_ROW_LENGTH, this.dims[0], 0],
      [gl.UNPACK_IMAGE_HEIGHT, this.dims[1], 0], [gl.UNPACK_SKIP_PIXELS, low[0], 0], [gl.UNPACK_SKIP_ROWS, low[1], 0],
      [gl.UNPACK_SKIP_IMAGES, low[2], 0]];
    for (const [name, value] of store) gl.pixelStorei(name, value);
    gl.texSubImage3D(gl.TEXTURE_3D, 0, ...low, width, height, depth, gl.RED, gl.UNSIGNED_BYTE, this.labels);
    for (const [name, , usual] of store) gl.pixelStorei(name, usual);
    this.draw();
  }
}

// NiiVue fits a slice into its cell; here the slice's surroundings are widened until both have the same proportions.
function fillCells(nv, cells, canvas) {
  const fitted = nv.screenFieldOfViewExtendedVox.bind(nv);
  return (plane) => {
    const screen = fitted(plane);
    const cell = cells().find((one) => one.plane === plane);
    if (!cell) return screen;
    const { mnMM, mxMM, fovMM } = screen;
    const wanted = (cell.width * canvas.width) / (cell.height * canvas.height);
    const axis = fovMM[0] / fovMM[1] < wanted ? 0 : 1;
    const length = axis === 0 ? fovMM[1] * wanted : fovMM[0] / wanted;
    const middle = (mnMM[axis] + mxMM[axis]) / 2;
    mnMM[axis] = middle - length / 2;
    mxMM[axis] = middle + length / 2;
    fovMM[axis] = length;
    return screen;
  };
}
