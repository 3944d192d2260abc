// The keyboard. The board's keys mean here what they mean there.

import { asked } from "./deeds.js";

export const KEYS = [
  ["c", "click: inside with the left button, outside with the right one or with Alt"],
  ["b", "box: drag it around the structure; a second one in another plane adds its depth"],
  ["s", "stroke: draw along the structure"],
  ["p, e", "brush, eraser"],
  ["[ , ]", "smaller, larger brush"],
  ["i", "the tool at the cross; twice for a box or a stroke"],
  ["← →, Shift + ↑ ↓", "move the cross"],
  ["x", "inside or outside: what the next click or stroke means"],
  ["f", "fill between painted slices"],
  ["g", "carry what is painted through the volume"],
  ["z, y", "undo, redo (also Ctrl+Z, Ctrl+Y)"],
  ["1 … 9", "choose the structure"],
  ["t, F2, Delete", "a new structure; another name for the chosen one; clear it"],
  ["d", "the slice where the structure is most likely wrong; again: the next one"],
  ["o", "the slice where the structure is largest"],
  ["↑ ↓, wheel", "slice by slice; Page Up and Down by five"],
  ["Ctrl + wheel, + −", "zoom; Space and drag, or the middle button, moves the image; 0 fits it"],
  ["v", "look around: planes follow the pointer"],
  ["l, m", "three planes, or one; another plane large"],
  ["w", "next window"],
  ["h", "hide or show the label"],
  ["Enter", "submit the label; with Shift the prompts alone"],
  ["n", "next study"],
  ["a, r, k", "accept, reject, correct the mask"],
  ["u", "take an acceptance or rejection back"],
  ["?", "this help; Escape closes what lies over the image"],
];

const ANYWAY = ["Escape", "n", "u", "?"]; // which leave the question as it is

export function keyboard(page, act) {
  const { state } = page;
  const tools = { c: "click", b: "box", s: "stroke", p: "brush", e: "eraser", v: "look" };
  const on = {
    x: act.turnOutside, f: act.fillBetween, g: act.spread, z: act.undo, y: act.redo, h: act.hideAll, l: act.nextLayout,
    w: act.nextWindow, n: act.next, a: act.accept, r: act.reject, k: act.correct, u: act.undoDecision, "?": act.help,
    0: act.fit, Enter: act.submit, t: act.askName, i: act.atCross, d: act.doubtful, m: act.nextPlane,
    "+": () => act.zoom(1.25), "=": () => act.zoom(1.25),
    "-": () => act.zoom(0.8), o: () => page.work?.current && act.find(page.work.current),
    F2: () => page.work?.current && act.rename(page.work.current),
    Delete: () => page.work?.current && act.clear(page.work.current), Escape: act.escape,
    ArrowLeft: () => act.moveCross(-1, 0), ArrowRight: () => act.moveCross(1, 0),
    "[": () => act.size(state.size / 1.25), "]": () => act.size(state.size * 1.25),
    ArrowUp: () => act.scroll(1), ArrowDown: () => act.scroll(-1), PageUp: () => act.scroll(5), PageDown: () => act.scroll(-5),
  };

  const shifted = {
    Enter: act.submitPrompts, ArrowUp: () => act.moveCross(0, 1), ArrowDown: () => act.moveCross(0, -1),
  };

  document.addEventListener("keydown", (event) => {
    const { target, key } = event;
    if (target.matches?.("input:not([type=range]):not([type=checkbox]), select, textarea")) {
      if (key === "Escape") target.blur();
      return;
    }
    if ((event.ctrlKey || event.metaKey) && !event.altKey) {
      const what = { z: event.shiftKey ? act.redo : act.undo, Z: act.redo, y: act.redo }[key];
      if (what) { event.preventDefault(); what(); }
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (["Enter", " "].includes(key) && target.matches?.("button, a, summary")) return;
    if (key === " ") { page.hand.space = true; event.preventDefault(); return; }
    if (asked(state) && !ANYWAY.includes(key)) return; // a question stands over the image
    if (event.shiftKey && key in shifted) shifted[key]();
    else if (tools[key]) act.tool(tools[key]);
    else if (/^[1-9]$/.test(key)) act.chooseNumber(Number(key));
    else if (on[key]) on[key]();
    else return;
    event.preventDefault();
  });
  // Of a button that was clicked with the mouse Enter is not the key any more
  document.addEventListener("click", (event) => event.detail && event.target.closest?.("button")?.blur());
  document.addEventListener("keyup", (event) => { if (event.key === " ") page.hand.space = false; });
}
