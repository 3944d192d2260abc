// What is drawn over the image: the prompts, what is being drawn, the crosshair, which side is which.

import { PLANES, through } from "./viewer.js";

const FLASH_MS = 1100; // how long an answer's changes stand out

export class Marks {
  constructor(canvas, viewer) {
    this.canvas = canvas;
    this.viewer = viewer;
    this.pen = canvas.getContext("2d");
    this.cursor = null; // {tile, x, y, radius in mm}
    this.rubber = null; // {tile, from, to} of a box that is being drawn, in pixels
    this.line = null; // {tile, points, colour, dashed}
    this.flash = null; // {edit, until}
  }

  show(edit) {
    this.flash = { edit, until: performance.now() + FLASH_MS };
    setTimeout(() => { this.flash = null; this.viewer.draw(); }, FLASH_MS);
  }

  draw(structures, current) {
    const { pen, viewer } = this;
    this.canvas.width = viewer.canvas.width;
    this.canvas.height = viewer.canvas.height;
    this.unit = this.canvas.width / Math.max(1, this.canvas.clientWidth); // of a CSS pixel
    for (const tile of viewer.nv.screenSlices) {
      const [left, top, width, height] = tile.leftTopWidthHeight;
      pen.save();
      pen.beginPath();
      pen.rect(left, top, width, height);
      pen.clip();
      if (this.flash) this.#changes(tile);
      this.#cross(tile);
      for (const structure of structures) if (!structure.hidden) this.#prompts(tile, structure, structure === current);
      this.#own(tile, current);
      this.#letters(tile);
      pen.restore();
    }
  }

  #cross(tile) {
    if (this.viewer.flat) return;
    const { pen } = this;
    const [left, top, width, height] = tile.leftTopWidthHeight;
    const [x, y] = this.viewer.pixel(tile, this.viewer.at.map((index) => index + 0.5));
    const hole = 14 * this.unit;
    pen.strokeStyle = "rgb(140 200 255 / 45%)";
    pen.lineWidth = this.unit;
    pen.beginPath();
    for (const [x0, y0, x1, y1] of [[left, y, x - hole, y], [x + hole, y, left + width, y],
      [x, top, x, y - hole], [x, y + hole, x, top + height]]) {
      pen.moveTo(x0, y0);
      pen.lineTo(x1, y1);
    }
    pen.stroke();
  }

  #letters(tile) {
    const { pen, unit, viewer } = this;
    const [left, top, width, height] = tile.leftTopWidthHeight;
    const [west, east, north, south] = viewer.sidesOf(tile);
    pen.font = `600 ${12 * unit}px system-ui, sans-serif`;
    pen.fillStyle = "rgb(255 255 255 / 75%)";
    pen.shadowColor = "#000";
    pen.shadowBlur = 3 * unit;
    pen.textBaseline = "middle";
    const write = (text, x, y, align) => { pen.textAlign = align; pen.fillText(text, x, y); };
    write(west, left + 8 * unit, top + height / 2, "left");
    write(east, left + width - 8 * unit, top + height / 2, "right");
    const bar = left === 0 && top === 0 ? 48 : 0; // the controls over the first cell
    write(north, left + width / 2, top + (12 + bar) * unit, "center");
    write(south, left + width / 2, top + height - 12 * unit, "center");
    if (viewer.flat) return;
    const axis = through(tile.axCorSag);
    pen.font = `${11.5 * unit}px system-ui, sans-serif`;
    pen.fillStyle = "rgb(255 255 255 / 65%)";
    write(`${PLANES[tile.axCorSag]}  ${viewer.at[axis] + 1} / ${viewer.dims[axis]}`,
      left + 10 * unit, top + height - 14 * unit, "left");
  }

  #prompts(tile, { prompts, colour }, chosen) {
    if (!prompts) return;
    const { pen, unit } = this;
    pen.globalAlpha = chosen ? 1 : 0.5;
    for (const stroke of prompts.strokes) this.#stroke(tile, stroke, colour);
    for (const stroke of prompts.background_strokes) this.#stroke(tile, stroke, "#ff6b6b");
    if (prompts.roi) this.#box(tile, prompts.roi, colour);
    for (const voxel of prompts.foreground) this.#click(tile, voxel, colour, "+");
    for (const voxel of prompts.background) this.#click(tile, voxel, "#ff6b6b", "−");
    pen.globalAlpha = 1;
    pen.lineWidth = unit;
  }

  #here(tile, shown) {
    const axis = through(tile.axCorSag);
    return shown[axis] === this.viewer.at[axis];
  }

  #click(tile, voxel, colour, sign) {
    const shown = this.grid.fromFile(voxel);
    if (!this.#here(tile, shown)) return;
    const { pen, unit } = this;
    const [x, y] = this.viewer.pixel(tile, shown.map((index) => index + 0.5));
    pen.beginPath();
    pen.arc(x, y, 6.5 * unit, 0, 2 * Math.PI);
    pen.fillStyle = "rgb(10 12 16 / 70%)";
    pen.fill();
    pen.lineWidth = 2 * unit;
    pen.strokeStyle = colour;
    pen.stroke();
    pen.beginPath();
    pen.moveTo(x - 3 * unit, y);
    pen.lineTo(x + 3 * unit, y);
    if (sign === "+") { pen.moveTo(x, y - 3 * unit); pen.lineTo(x, y + 3 * unit); }
    pen.strokeStyle = "#fff";
    pen.stroke();
  }

  #box(tile, roi, colour) {
    const low = this.grid.fromFile([roi[0], roi[2], roi[4]]), high = this.grid.fromFile([roi[1], roi[3], roi[5]]);
    const axis = through(tile.axCorSag), here = this.viewer.at[axis];
    if (here < Math.min(low[axis], high[axis]) || here > Math.max(low[axis], high[axis])) return;
    const from = low.map((index, n) => Math.min(index, high[n])), to = low.map((index, n) => Math.max(index, high[n]) + 1);
    const [x0, y0] = this.viewer.pixel(tile, from), [x1, y1] = this.viewer.pixel(tile, to);
    this.#frame(x0, y0, x1, y1, colour);
  }

  #frame(x0, y0, x1, y1, colour) {
    const { pen, unit } = this;
    pen.setLineDash([6 * unit, 4 * unit]);
    pen.lineWidth = 2 * unit;
    pen.strokeStyle = colour;
    pen.strokeRect(Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0));
    pen.setLineDash([]);
  }

  #stroke(tile, voxels, colour) {
    const { pen, unit, viewer } = this;
    pen.strokeStyle = colour;
    pen.lineWidth = 3 * unit;
    pen.lineJoin = pen.lineCap = "round";
    pen.beginPath();
    let last = null;
    for (const voxel of voxels) {
      const shown = this.grid.fromFile(voxel);
      if (!this.#here(tile, shown)) { last = null; continue; }
      const [x, y] = viewer.pixel(tile, shown.map((index) => index + 0.5));
      const near = last && shown.every((index, axis) => Math.abs(index - last[axis]) <= 2);
      if (near) pen.lineTo(x, y);
      else { pen.moveTo(x, y); pen.lineTo(x + 0.01, y); }
      last = shown;
    }
    pen.stroke();
  }

  #changes(tile) {
    const { edit } = this.flash;
    const { pen, viewer } = this;
    const [, row, slice] = edit.labels.strides;
    const axis = through(tile.axCorSag), here = viewer.at[axis];
    pen.fillStyle = "rgb(255 255 255 / 45%)";
    for (const index of edit.places) {
      const s = Math.floor(index / slice), a = Math.floor((index - s * slice) / row);
      const there = [index - s * slice - a * row, a, s];
      if (there[axis] !== here) continue;
      const [x0, y0] = viewer.pixel(tile, there), [x1, y1] = viewer.pixel(tile, there.map((one) => one + 1));
      pen.fillRect(Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0));
    }
  }

  // What the hand is at
  #own(tile, current) {
    const { pen, unit, viewer, cursor, rubber, line } = this;
    if (rubber?.tile.axCorSag === tile.axCorSag) {
      this.#frame(...rubber.from, ...rubber.to, current?.colour ?? "#fff");
    }
    if (line?.tile.axCorSag === tile.axCorSag) {
      pen.strokeStyle = line.colour;
      pen.lineWidth = 3 * unit;
      pen.lineJoin = pen.lineCap = "round";
      pen.beginPath();
      line.points.forEach(([x, y], n) => (n ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      pen.stroke();
    }
    if (cursor?.radius && cursor.tile.axCorSag === tile.axCorSag) {
      pen.beginPath();
      pen.arc(cursor.x, cursor.y, Math.max(2 * unit, cursor.radius * viewer.perMM(tile)), 0, 2 * Math.PI);
      pen.lineWidth = 1.5 * unit;
      pen.strokeStyle = "#fff";
      pen.stroke();
    }
  }
}
