"""What training gave for its hours and queries: `python -m scripts.draw_training --out PNG`.

Draws the held-out Dice of docs/training.jsonl against core hours and against queries, and beside it that of runs of
your own: `--runs RUN ...`, folders of `scripts.pretrain`, under way or ended.

`--rows` prints the rows of these runs in place of a picture, as docs/training.jsonl has them:

    python -m scripts.draw_training --runs RUN --rows >> docs/training.jsonl
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from lib.imaging.files import write_atomically
from lib.networks.checkpoints import CheckpointError
from scripts.command_line import parser_of
from scripts.pretraining.held_out import PER_SET
from scripts.pretraining.points import Point, PointError, points_of_run, read_points

TABLE = Path(__file__).resolve().parents[1] / "docs" / "training.jsonl"
SIZE = 128  # pixels of the scores that are compared
FAINT = 0.35  # opacity of those at other sizes
# Okabe and Ito's palette, which colour-blind readers tell apart, and shapes that tell lines apart without it; one more
# of these, so that a colour that comes again has another
COLOURS = ("#0072B2", "#D55E00", "#000000", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "P", "^", "D", "v", "X", "<")
TICKS = (10, 20, 50, 100, 200, 300)  # thousands of queries


def draw(points: Sequence[Point], own: Sequence[Point] = ()) -> bytes:
    """PNG of two panels: Dice against core hours and against queries.

    Args:
        points: of the table; a colour for each network, number of templates and number of data sets.
        own: of further runs; a colour for each of them and number of templates.
    """
    lines = _grouped(points, _network) | _grouped(own, lambda point: f"{point.run}: {_network(point)}")
    styles = list(zip(cycle(COLOURS), cycle(MARKERS), lines.items(), strict=False))
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    by_hours, by_queries = figure.subplots(1, 2, sharey=True)
    for colour, marker, (_, members) in styles:
        _draw(by_hours, members, lambda point: point.hours, colour, marker)
        _draw(by_queries, members, lambda point: point.queries / 1000, colour, marker)
        _name_runs(by_hours, members, colour)
    by_hours.set(xlabel="core hours", ylabel="held-out Dice, %")
    by_queries.set(xlabel="thousands of queries", xscale="log")
    by_queries.set_xticks(TICKS, map(str, TICKS))
    by_queries.minorticks_off()
    for axes in (by_hours, by_queries):
        axes.grid(alpha=0.3)
        axes.margins(y=0.08)
    handles = [Line2D([], [], color=colour, marker=marker, label=name) for colour, marker, (name, _) in styles]
    handles += [
        Line2D([], [], color="grey", marker="o", alpha=FAINT, label=f"not at {SIZE} px"),
        Line2D(
            [], [], color="grey", marker="o", linestyle="", fillstyle="none", label=f"not of {PER_SET} queries a set"
        ),
        Line2D([], [], color="grey", marker="*", linestyle="", markersize=13, label="ships"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=90)
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the curves, or print rows."""
    parser = parser_of("draw_training", __doc__)
    parser.add_argument("--out", type=Path, default=Path("training.png"), help="picture (%(default)s)")
    parser.add_argument("--table", type=Path, default=TABLE, help="rows to draw (%(default)s)")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], metavar="RUN", help="folders of your own runs")
    parser.add_argument("--rows", action="store_true", help="print the rows of --runs in place of drawing")
    options = parser.parse_args(arguments)
    try:
        own = [point for run in options.runs for point in points_of_run(run)]
        if options.rows:
            sys.stdout.writelines(f"{point.model_dump_json(exclude_defaults=True)}\n" for point in own)
            return 0
        picture = draw(read_points(options.table), own)
    except (CheckpointError, PointError) as error:
        sys.exit(str(error))
    write_atomically(options.out, picture)
    print(options.out)
    return 0


def _network(point: Point) -> str:
    """How the legend calls the line that a point belongs to."""
    templates = f", {point.templates} templates" if point.templates > 1 else ""
    return f"{point.network}{templates}, {point.data_sets} data sets"


def _grouped(points: Iterable[Point], key: Callable[[Point], str]) -> dict[str, list[Point]]:
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(key(point), []).append(point)
    return groups


def _name_runs(axes: Axes, points: Sequence[Point], colour: str) -> None:
    """The names of runs where their last score is; those that end together share a place."""
    runs = _grouped((point for point in points if _compared(point)), lambda point: point.run)
    for last in _grouped((run[-1] for run in runs.values()), lambda point: str(point.hours)).values():
        place = (last[0].hours, max(point.dice for point in last))
        names = ", ".join(point.run for point in last)
        text = axes.annotate(names, place, (0, 8), textcoords="offset points", ha="center", fontsize=9, color=colour)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def _compared(point: Point) -> bool:
    return point.size == SIZE and point.pairs == PER_SET


def _draw(axes: Axes, points: Sequence[Point], cost: Callable[[Point], float], colour: str, marker: str) -> None:
    """A line for each run and resolution, a star for what ships."""
    for one in _grouped(points, lambda point: f"{point.run} {point.size} {point.pairs}").values():
        x, y = [cost(point) for point in one], [point.dice for point in one]
        (line,) = axes.plot(x, y, color=colour, marker=marker, markersize=4)
        line.set_alpha(1 if one[0].size == SIZE else FAINT)
        if one[0].pairs != PER_SET:
            line.set(linestyle="", fillstyle="none")
    for point in points:
        if point.ships:
            axes.plot(cost(point), point.dice, "*", markersize=14, color=colour, markeredgecolor="white", zorder=3)


if __name__ == "__main__":
    raise SystemExit(main())
