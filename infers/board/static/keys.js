// The keyboard. Keys act on the study that has the focus, or had it last.

export function keyboard(state, act) {
  const row = () => state.studies.find(({ id }) => id === state.current);
  const final = (found) => ["accepted", "template", "excluded"].includes(found.status);
  const on = {
    a: () => (row().offered ? act.acceptResult([row().id]) : act.accept([row().id])),
    r: () => act.reject([row().id]),
    u: () => act.undo([row().id]),
    t: () => final(row()) && act.template(row()),
    x: () => act.toggle(row().id),
    o: () => state.ohif && window.open(`studies/${encodeURIComponent(row().id)}/ohif`, "_blank", "noopener"),
    e: () => location.assign(`annotate?study=${encodeURIComponent(row().id)}`),
    Enter: () => act.enlarge(row().id),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { target, key } = event;
    if (target.matches("input:not([type=checkbox]), select, textarea")) {
      if (key === "Escape") target.blur();
      return;
    }
    if (document.querySelector("dialog[open]") && !["a", "r", "u", "t"].includes(key)) return; // Escape closes it
    const step = steps(key);
    if (step) move(state, act, step);
    else if (key === "/") document.querySelector("#search").focus();
    else if (key === "?") act.help();
    else if (key === "n" || key === "p") act.turn(key === "n" ? 1 : -1);
    else if (on[key] && row() && !(key === "Enter" && target.matches("button, a"))) on[key]();
    else return;
    event.preventDefault();
  });
}

function steps(key) {
  const columns = getComputedStyle(document.querySelector(".studies")).gridTemplateColumns.split(" ").length;
  return { j: 1, k: -1, ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[key];
}

function move(state, act, step) {
  const ids = state.studies.map(({ id }) => id);
  if (!ids.length) return;
  const here = ids.indexOf(state.current);
  const focused = document.activeElement.closest(".card");
  act.focus(ids[focused ? Math.min(Math.max(0, here + step), ids.length - 1) : Math.max(0, here)]);
}
