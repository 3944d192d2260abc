// The hand: mouse, pen and fingers on the image. Each tool says what a press, a drag and a release mean.

import { stampDisc } from "./labels.js";

const MOVED = 4; // CSS pixels beyond which a press is a drag
const RUBBER = 5; // the other end of a pen
const ZOOM = 1.0015; // by a unit of the wheel

export class Hand {
  // `act` does what is decided: click, box, stroke, paint; `state` says which tool is in the hand
  constructor(canvas, viewer, marks, state, act) {
    Object.assign(this, { canvas, viewer, marks, state, act });
    this.fingers = new Map();
    this.drag = null;
    this.pen = false; // seen: from then on fingers only move and zoom
    this.space = false;
    for (const [kind, listener] of Object.entries({
      pointerdown: (event) => this.down(event), pointermove: (event) => this.move(event),
      pointerup: (event) => this.up(event), pointercancel: (event) => this.cancel(event),
      pointerleave: () => this.leave(), contextmenu: (event) => event.preventDefault(),
    })) canvas.addEventListener(kind, listener);
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const unit = this.canvas.width / Math.max(1, box.width);
    return [(event.clientX - box.left) * unit, (event.clientY - box.top) * unit];
  }

  down(event) {
    if (!this.viewer.image) return;
    event.preventDefault();
    document.activeElement?.blur?.();
    this.canvas.setPointerCapture(event.pointerId);
    const [x, y] = this.point(event);
    if (event.pointerType === "pen") this.pen = true;
    if (event.pointerType === "touch") {
      this.fingers.set(event.pointerId, [x, y]);
      if (this.fingers.size === 2) { this.giveUp(); return; }
    }
    const tile = this.viewer.tile(x, y);
    if (!tile || this.drag) return;
    this.drag = { tile, start: [x, y], last: [x, y], moved: false, kind: this.kind(event), id: event.pointerId };
    this.begin(this.drag, event);
  }

  // What this press is the beginning of
  kind(event) {
    if (event.button === 1 || this.space || (event.pointerType === "touch" && this.pen)) return "pan";
    const { tool } = this.state;
    if (event.button === RUBBER) return "eraser";
    if (event.button === 2) return tool === "brush" ? "eraser" : "right";
    return tool;
  }

  outside(event) {
    return this.state.outside !== Boolean(event.altKey);
  }

  begin(drag, event) {
    const [x, y] = drag.start;
    const place = this.viewer.place(drag.tile, x, y);
    drag.place = place;
    drag.outside = this.outside(event);
    if (drag.kind === "brush" || drag.kind === "eraser") {
      if (!this.act.ready(drag.kind)) { this.drag = null; return; }
      drag.edit = this.act.labels().edit();
      this.stamp(drag, place, place);
    } else if (drag.kind === "stroke") {
      if (!this.act.ready(drag.kind)) { this.drag = null; return; }
      drag.voxels = [];
      this.trace(drag, place);
      this.marks.line = { tile: drag.tile, points: [[x, y]], colour: drag.outside ? "#ff6b6b" : this.act.colour() };
    } else if (drag.kind === "look") {
      this.look(drag, x, y);
    }
  }

  move(event) {
    const [x, y] = this.point(event);
    if (this.fingers.has(event.pointerId)) {
      if (this.fingers.size === 2) { this.pinch(event.pointerId, [x, y]); return; }
      this.fingers.set(event.pointerId, [x, y]);
    }
    this.hover(x, y);
    const { drag } = this;
    if (!drag || drag.id !== event.pointerId) return;
    const unit = this.canvas.width / Math.max(1, this.canvas.clientWidth);
    drag.moved ||= Math.hypot(x - drag.start[0], y - drag.start[1]) > MOVED * unit;
    const whole = event.getCoalescedEvents?.() ?? [];
    for (const each of whole.length ? whole : [event]) this.drawTo(drag, ...this.point(each));
  }

  drawTo(drag, x, y) {
    const { viewer, marks } = this;
    const [lastX, lastY] = drag.last;
    if (drag.kind === "pan" && drag.moved) viewer.pan(drag.tile, x - lastX, y - lastY);
    if (drag.kind === "right" && drag.moved) this.act.turnWindow((x - lastX) / this.canvas.width, (y - lastY) / this.canvas.height);
    if (drag.kind === "look") this.look(drag, x, y);
    if (drag.kind === "box" && drag.moved) { marks.rubber = { tile: drag.tile, from: drag.start, to: [x, y] }; viewer.draw(); }
    if (drag.edit || drag.voxels) {
      const place = viewer.place(drag.tile, x, y);
      if (drag.edit) this.stamp(drag, drag.place, place);
      else { this.trace(drag, place); marks.line.points.push([x, y]); viewer.draw(); }
      drag.place = place;
    }
    drag.last = [x, y];
  }

  up(event) {
    this.fingers.delete(event.pointerId);
    const { drag, viewer, marks } = this;
    if (!drag || drag.id !== event.pointerId) return;
    this.drag = null;
    marks.rubber = marks.line = null;
    const [x, y] = this.point(event);
    const voxel = viewer.voxel(drag.tile, ...drag.start);
    if (drag.edit) this.act.painted(drag.edit);
    else if (drag.voxels) this.act.stroke(drag.voxels, drag.outside);
    else if (drag.kind === "box" && drag.moved) this.box(drag, x, y);
    else if (!drag.moved && voxel && drag.kind === "click") this.act.click(voxel, drag.outside);
    else if (!drag.moved && voxel && drag.kind === "right" && this.state.tool === "click") this.act.click(voxel, true);
    viewer.draw();
  }

  cancel(event) {
    this.fingers.delete(event.pointerId);
    this.giveUp();
  }

  // What was begun is not meant
  giveUp() {
    const { drag } = this;
    this.drag = this.corner = null;
    this.marks.rubber = this.marks.line = null;
    if (drag?.edit) { drag.edit.undo(); this.act.redraw(drag.edit); }
    this.viewer.draw();
  }

  leave() {
    this.marks.cursor = null;
    this.act.hover(null);
    this.viewer.draw();
  }

  hover(x, y) {
    const tile = this.drag?.tile ?? this.viewer.tile(x, y);
    const radius = ["brush", "eraser"].includes(this.state.tool) ? this.state.size / 2 : 0;
    this.marks.cursor = tile ? { tile, x, y, radius } : null;
    this.act.hover(tile && this.viewer.voxel(tile, x, y));
    if (radius) this.viewer.draw();
  }

  look(drag, x, y) {
    this.viewer.go(this.viewer.place(drag.tile, x, y).map(Math.floor));
  }

  stamp(drag, from, to) {
    const labels = this.act.labels();
    const value = drag.kind === "eraser" ? 0 : this.act.value();
    stampDisc(labels, this.viewer.side, this.viewer.axesOf(drag.tile), from, to, this.state.size / 2,
      (index) => drag.edit.paint(index, value));
    this.act.redraw(drag.edit);
  }

  // The keyboard's hand: the tool at the cross. A box and a stroke are begun there, and ended there the next time.
  atCross() {
    const { viewer, act, state } = this;
    const here = viewer.at.map((index) => index + 0.5);
    const tile = { axCorSag: viewer.main };
    if (!viewer.image || !act.ready(state.tool)) return;
    if (state.tool === "click") { act.click(viewer.at.slice(), state.outside); return; }
    if (state.tool === "brush" || state.tool === "eraser") {
      const drag = { kind: state.tool, tile, edit: act.labels().edit() };
      this.stamp(drag, here, here);
      act.painted(drag.edit);
      return;
    }
    if (state.tool !== "box" && state.tool !== "stroke") return;
    const from = this.corner;
    this.corner = from ? null : here;
    if (!from) { act.say("Move the cross to where it ends, and press i again."); return; }
    if (state.tool === "box") { this.between(from, here); return; }
    const drag = { tile, place: from, voxels: [] };
    this.trace(drag, here);
    act.stroke(drag.voxels, state.outside);
  }

  // A stroke one voxel wide: every voxel on its way, in order
  trace(drag, place) {
    stampDisc(this.act.labels(), this.viewer.side, this.viewer.axesOf(drag.tile), drag.place, place, 0, (index, there) => {
      const last = drag.voxels.at(-1);
      if (!last || last.some((one, axis) => one !== there[axis])) drag.voxels.push(there.slice());
    });
  }

  box({ tile, start }, x, y) {
    this.between(this.viewer.place(tile, ...start), this.viewer.place(tile, x, y));
  }

  between(...ends) {
    const { viewer } = this;
    const low = viewer.dims.map((size, axis) =>
      Math.min(Math.max(0, Math.floor(Math.min(ends[0][axis], ends[1][axis]))), size - 1));
    const high = viewer.dims.map((size, axis) =>
      Math.min(Math.max(0, Math.floor(Math.max(ends[0][axis], ends[1][axis]))), size - 1));
    this.act.box(low, high);
  }

  // Two fingers: what is between them stays between them
  pinch(id, now) {
    const [other] = [...this.fingers].filter(([key]) => key !== id).map(([, there]) => there);
    const before = this.fingers.get(id);
    this.fingers.set(id, now);
    const middle = (point) => [(point[0] + other[0]) / 2, (point[1] + other[1]) / 2];
    const far = (point) => Math.max(1, Math.hypot(point[0] - other[0], point[1] - other[1]));
    const tile = this.viewer.tile(...middle(now));
    if (!tile) return;
    this.viewer.zoomAt(tile, ...middle(now), far(now) / far(before));
    const [from, to] = [middle(before), middle(now)];
    this.viewer.pan(tile, to[0] - from[0], to[1] - from[1]);
  }

  wheel(event) {
    event.preventDefault();
    if (!this.viewer.image) return;
    const [x, y] = this.point(event);
    const tile = this.viewer.tile(x, y);
    if (!tile) return;
    const lines = event.deltaMode === 1 ? event.deltaY * 30 : event.deltaY;
    if (event.ctrlKey || event.metaKey || this.viewer.flat) {
      this.viewer.zoomAt(tile, x, y, ZOOM ** -lines);
      return;
    }
    this.rest = (this.rest ?? 0) + lines;
    const steps = Math.abs(this.rest) >= 40 ? Math.sign(this.rest) * Math.max(1, Math.floor(Math.abs(this.rest) / 120)) : 0;
    if (!steps) return;
    this.rest = 0;
    this.viewer.scroll(tile.axCorSag, -steps);
  }
}
