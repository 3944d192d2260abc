// What a person can do on the page.

import * as board from "../../static/api.js";
import { answerPrompts, askAgain, spreadPaint } from "./answers.js";
import { fillBetween } from "./between.js";
import { boxAdded, joined, pointAdded } from "./prompts.js";
import { reviewing, saving } from "./saving.js";
import { through } from "./viewer.js";

export const WINDOWS = [["Soft tissue", -160, 240], ["Lung", -1350, 150], ["Bone", -450, 1050], ["Brain", 0, 80],
  ["Liver", -45, 105], ["Mediastinum", -125, 225]];

export function makeDeeds(page) {
  const { state } = page;
  const act = {
    draw: page.draw, say: page.say,
    ...moving(page), ...drawing(page), ...structuring(page), ...saving(page), ...reviewing(page), ...teaching(page),
    async login(event) {
      event.preventDefault();
      try {
        await board.login(event.target);
        state.login = false;
        if (page.work) { page.say("Logged in: go on where you were."); act.askAgain(); page.refresh(); page.attend(); }
        else if (state.id) page.open(state.id);
        else await act.next();
        page.draw();
      } catch (error) {
        page.say(`login failed: ${error.message}`);
      }
    },
    // In a page that is loaded anew, which has all of the browser's memory
    reopen(shrink) {
      location.search = new URLSearchParams({ study: state.id, ...(shrink > 1 ? { shrink } : {}) });
    },
    reopenCoarser: () => act.reopen(page.coarser()),
    escape() {
      if (state.conflict) act.keepMine();
      else if (state.tour) act.tour(4);
      page.hand?.giveUp();
    },
    help: () => document.querySelector("#help").showModal(),
    closeHelp: () => document.querySelector("#help").close(),
    tour(step) {
      state.tour = step > 3 ? 0 : step;
      if (!state.tour) localStorage.setItem("oneprompt-tour-seen", "yes");
      page.draw();
    },
    me(name) {
      state.me = name.trim().slice(0, 64);
      localStorage.setItem("oneprompt-me", state.me);
      page.draw();
    },
  };
  page.act = act;
  return act;
}

// Looking

function moving(page) {
  const { state } = page;
  return {
    nextLayout() {
      const { viewer } = page;
      if (viewer.flat) return;
      if (viewer.layout === "all") viewer.arrange("one");
      else viewer.arrange("all");
      page.draw();
    },
    plane(plane) { page.viewer.arrange(page.viewer.layout, plane); state.main = plane; page.draw(); },
    // {count, at} of the large plane
    slices: () => {
      const { viewer } = page, axis = through(viewer.main);
      return { count: viewer.dims[axis], at: viewer.at[axis] };
    },
    slice(index) {
      const { viewer } = page, axis = through(viewer.main);
      viewer.go(viewer.at.map((here, n) => (n === axis ? index : here)));
    },
    errors: () => (page.work ? page.work.errors(through(page.viewer.main)) : null),
    // Where most is likely wrong; from there to the next such slices
    doubtful() {
      const { work, viewer } = page, errors = work && !viewer.flat ? page.act.errors() : null;
      if (!errors) return;
      const order = [...errors.expected.keys()].filter((index) => errors.expected[index])
        .sort((one, other) => errors.expected[other] - errors.expected[one]);
      const { at } = page.act.slices(), here = state.doubted === at ? order.indexOf(at) : -1;
      state.doubted = order[(here + 1) % order.length];
      page.act.slice(state.doubted);
      page.draw();
    },
    scroll(step) { if (page.viewer.image) page.viewer.scroll(page.viewer.main, step); page.draw(); },
    // Across and up in the large plane, as they are on the screen
    moveCross(right, up) {
      const { viewer } = page;
      if (!viewer?.image) return;
      viewer.move(right, up);
      page.draw();
    },
    nextPlane() { if (page.viewer?.image && !page.viewer.flat) page.act.plane((page.viewer.main + 1) % 3); },
    zoom(factor) { if (page.viewer?.image) page.viewer.zoomAtCross(factor); },
    fit: () => page.viewer.fit(),
    setWindow(low, high) {
      if (!Number.isFinite(low) || !Number.isFinite(high) || !page.viewer.image) return;
      page.viewer.setWindow([low, high]);
      state.window = page.viewer.window;
      page.draw();
    },
    // By shares of the screen: to the right for more contrast in bright things, up for darker
    turnWindow(right, down) {
      const [low, high] = state.window;
      const width = high - low, middle = (low + high) / 2;
      const wider = width * Math.exp(2 * right), centre = middle + width * 1.5 * down;
      page.act.setWindow(centre - wider / 2, centre + wider / 2);
    },
    preset: (number) => number >= 0 && page.act.setWindow(...WINDOWS[number].slice(1)),
    nextWindow() {
      if (!state.study || state.study.colour) return;
      if (!state.study.hounsfield) {
        const first = String(state.window) === String(state.study.window);
        page.act.setWindow(...(first ? state.study.range : state.study.window));
        return;
      }
      const here = WINDOWS.findIndex(([, low, high]) => low === state.window[0] && high === state.window[1]);
      page.act.preset((here + 1) % WINDOWS.length);
    },
    firstWindow: () => page.act.setWindow(...state.study.window),
    hover(voxel) {
      state.hover = voxel && { voxel: page.work?.grid.toFile(voxel), value: page.viewer.value(voxel) };
      document.querySelector("#readout")?.replaceChildren(readout(state));
    },
    opacity(value) { state.opacity = value; page.act.colours(); page.draw(); },
    hideAll() {
      const hide = page.work?.structures.some((one) => !one.hidden);
      for (const one of page.work?.structures ?? []) one.hidden = hide;
      page.act.colours();
      page.draw();
    },
    colours() {
      const { work } = page;
      if (!work) return;
      const hidden = new Set(work.structures.filter((one) => one.hidden).map(({ value }) => value));
      page.viewer.setColours(work.structures, state.opacity, hidden);
    },
  };
}

// Whether a question stands over the image, which comes first
export const asked = ({ unfinished, conflict, login, gone }) => Boolean(unfinished || conflict || login || gone);

export function readout({ hover, study }) {
  if (!hover?.voxel || !study) return "";
  const place = (study.shape[2] === 1 ? hover.voxel.slice(0, 2) : hover.voxel).join(", ");
  return hover.value === null ? place : `${place}   ${Math.round(hover.value * 100) / 100}${study.hounsfield ? " HU" : ""}`;
}

// Prompts and paint

function drawing(page) {
  const { state } = page;
  const prompted = (what, structure, change) => {
    const { work } = page;
    const prompts = structuredClone(structure.prompts);
    change(prompts);
    const step = work.step(what, structure, prompts);
    page.viewer.draw();
    page.keepSoon();
    return step;
  };
  return {
    tool(name) { state.tool = name; page.marks.cursor = null; page.viewer.draw(); page.draw(); },
    turnOutside() { state.outside = !state.outside; page.draw(); },
    size(value) { state.size = Math.min(Math.max(0.5, value), 200); page.viewer.draw(); page.draw(); },
    ready(kind) {
      if (!page.work || asked(state)) return false;
      if (page.work.current || kind === "eraser") return true;
      page.act.askName();
      return false;
    },
    askName() {
      page.say("Give the structure a name: what do you want to segment?");
      document.querySelector("#new-structure")?.focus();
    },
    atCross: () => page.hand?.atCross(),
    labels: () => page.work.labels,
    value: () => page.work.current.value,
    colour: () => page.work.current?.colour ?? "#fff",
    redraw: (edit) => page.work.redraw(edit),
    click(voxel, outside) {
      const { work, viewer } = page;
      if (!page.act.ready("click")) return;
      const structure = work.current;
      if (outside && !structure.prompts.foreground.length && !structure.prompts.roi && !structure.grounded
        && !structure.prompts.strokes.length) {
        page.say("Click inside the structure first; clicks outside then correct the answer.");
        return;
      }
      const there = work.grid.toFile(voxel);
      const step = prompted("click", structure, (prompts) => {
        prompts[outside ? "background" : "foreground"].push(there);
        if (!outside) pointAdded(prompts, [there]);
      });
      viewer.go(voxel);
      answerPrompts(page, structure, step, there);
    },
    box(low, high) {
      const { work } = page;
      if (!page.act.ready("box")) return;
      const [one, other] = [work.grid.toFile(low), work.grid.toFile(high)];
      const roi = [0, 1, 2].flatMap((axis) => [Math.min(one[axis], other[axis]), Math.max(one[axis], other[axis])]);
      const step = prompted("box", work.current, (prompts) => {
        prompts.roi = joined(prompts.roi, roi);
        boxAdded(prompts);
      });
      answerPrompts(page, work.current, step, one.map((index, axis) => (index + other[axis]) >> 1));
    },
    stroke(voxels, outside) {
      const { work } = page;
      if (!voxels.length) return;
      if (outside && !work.current.prompts.strokes.length && !work.current.prompts.foreground.length && !work.current.grounded
        && !work.current.prompts.roi) {
        page.say("Draw inside the structure first; strokes outside then correct the answer.");
        return;
      }
      const inFile = voxels.filter((voxel) => voxel.every((index, axis) => index >= 0 && index < page.viewer.dims[axis]))
        .map((voxel) => work.grid.toFile(voxel));
      const step = prompted("stroke", work.current, (prompts) => {
        prompts[outside ? "background_strokes" : "strokes"].push(inFile);
        if (!outside) pointAdded(prompts, inFile);
      });
      answerPrompts(page, work.current, step, inFile[inFile.length >> 1]);
    },
    painted(edit) {
      if (!edit.size) return;
      const step = page.work.step("paint");
      step.edits.push(edit);
      if (page.work.current) page.work.current.grounded = true;
      page.keepSoon();
    },
    fillBetween() {
      const { work, viewer } = page;
      if (!work?.current || viewer.flat) return;
      const edit = work.labels.edit();
      const filled = fillBetween(work.labels, edit, work.current.value, through(viewer.main), viewer.side);
      if (!edit.size) { page.say("Paint the structure on two slices that are not neighbours, then the slices between are filled."); return; }
      work.extend(work.step("fill"), edit);
      work.current.grounded = true;
      page.say(`Filled ${filled} ${filled === 1 ? "slice" : "slices"} between.`);
      page.keepSoon();
    },
    spread() {
      if (page.work?.current && !page.viewer.flat) spreadPaint(page, page.work.current);
    },
    // What was never answered, because the login had expired or the server was away
    askAgain() {
      for (const structure of page.work.structures) askAgain(page, structure);
    },
    undo() {
      const step = page.work?.undo();
      if (!step) return;
      step.request?.abort();
      page.say(`Took back: ${step.what}.`);
      if (step.structure) askAgain(page, step.structure);
      page.act.colours();
      page.keepSoon();
    },
    redo() {
      const step = page.work?.redo();
      if (!step) return;
      page.say(`Did again: ${step.what}.`);
      if (step.structure) askAgain(page, step.structure);
      page.act.colours();
      page.keepSoon();
    },
  };
}

// Structures

function structuring(page) {
  const { state } = page;
  return {
    add(event) {
      event?.preventDefault();
      const field = document.querySelector("#new-structure");
      const name = field.value;
      const structure = page.work?.add(name);
      if (!structure) { page.say(name.trim() ? "A study has at most 255 structures." : "Give the structure a name."); return; }
      field.value = "";
      field.blur();
      if (structure.name !== name.trim()) page.say(`${structure.name} is there already, so it is used.`);
      page.act.choose(structure);
    },
    choose(structure) {
      if (!structure) return;
      page.work.choose(structure);
      page.act.colours();
      page.draw();
    },
    chooseNumber: (number) => page.act.choose(page.work?.structures[number - 1]),
    rename(structure) { state.naming = structure; page.draw(); document.querySelector(".rename input")?.focus(); },
    renamed(event) {
      event.preventDefault();
      const name = event.target.querySelector("input").value;
      const why = page.work.rename(state.naming, name);
      state.naming = null;
      if (why) page.say(why);
      page.keepSoon();
    },
    show(structure) { structure.hidden = !structure.hidden; page.act.colours(); page.draw(); },
    find(structure) {
      const { work, viewer } = page;
      const axis = through(viewer.main), best = work.labels.fullest(axis, structure.value);
      if (best !== null) viewer.go(viewer.at.map((index, n) => (n === axis ? best : index)));
    },
    clear(structure) {
      page.work.clear(structure);
      page.say(`${structure.name} is cleared; Undo brings it back.`);
      page.keepSoon();
    },
  };
}

// Training: the board's panel (training.js there) asks for these

function teaching(page) {
  const { state } = page;
  const steer = async (ask, message) => {
    try {
      await ask();
      page.say(message);
    } catch (error) {
      page.fail(error);
    }
    await page.refresh();
  };
  return {
    openTraining(open) { state.trainingOpen = open; },
    train: () => steer(() => board.training("POST"), "training starts; the server answers as before meanwhile"),
    stopTraining: () => steer(() => board.training("DELETE"), "training is stopped; what is served stays"),
    trainSpecialist: () => steer(() => board.trainSpecialist(), "a list-specific U-Net is trained; the server answers as before"),
    useSpecialist: (use) => steer(() => board.decide("specialist", { use }),
      use ? "the list-specific U-Net takes part in the masks from now on" : "One-Prompt makes all masks alone from now on"),
    serve: (version) => steer(() => board.serve(version), `${version} is served from now on`),
    runJob: () => steer(() => board.job("POST"), "the job looks for work"),
    cancelJob: () => steer(() => board.job("DELETE"), "the job stops after the study it is at"),
  };
}
