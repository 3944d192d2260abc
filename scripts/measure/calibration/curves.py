"""The picture of docs/quality.md: predicted against true Dice, and what intervals and accepting do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from scripts.measure.calibration.measures import BAD, GOOD, PredictedMask, summary


def draw(answers: Mapping[int, Sequence[PredictedMask]], path: Path) -> None:
    """Three panels, from what was said after each number of corrections."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    points, coverage, accepting = figure.subplots(1, 3)
    first = answers[min(answers)]
    for number, name in enumerate(sorted({one.list for one in first})):
        own = [one for one in first if one.list == name]
        points.plot([o.dice for o in own], [o.truth for o in own], ".", ms=3, color=f"C{number}", label=name)
    points.plot([0, 1], [0, 1], color="grey", lw=1)
    points.set(xlabel="predicted Dice, no correction", ylabel="true Dice", xlim=(0, 1), ylim=(0, 1))
    points.legend(fontsize=6, markerscale=2)
    counts = [count for count in answers if answers[count]]
    summaries = [summary(answers[count]) for count in counts]
    places = np.arange(len(counts))
    for key, text in (("coverage", "truth in the interval"), ("width", "its width"), ("error", "absolute error")):
        coverage.plot(places, [one[key] for one in summaries], "o-", label=text)
    coverage.axhspan(0.85, 0.95, color="C0", alpha=0.15)
    coverage.set(xlabel="corrected studies of the list", xticks=places, xticklabels=counts, ylim=(0, 1))
    coverage.legend(fontsize=7)
    bounds = np.linspace(0.6, 0.98, 39)
    for count in (counts[0], counts[-1]):
        taken = [[one for one in answers[count] if one.dice >= bound and not one.alarming] for bound in bounds]
        good = sum(one.truth >= GOOD for one in answers[count])
        line = accepting.plot(bounds, [sum(one.truth >= GOOD for one in own) / max(1, good) for own in taken],
                              label=f"of those at {GOOD} or better accepted, {count} corrections")[0]  # fmt: skip
        accepting.plot(bounds, [np.mean([one.truth < BAD for one in own]) if own else np.nan for own in taken], "--",
                       color=line.get_color(), label=f"of the accepted below {BAD}")  # fmt: skip
    accepting.set(xlabel="accepted from a predicted Dice of", ylim=(0, 1))
    accepting.legend(fontsize=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
