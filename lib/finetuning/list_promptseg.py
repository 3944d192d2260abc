"""Who segments a study list beside fine-tuned One-Prompt: the PromptSeg that did so beside the weights before, or the
fine-tuned ones alone.

Both are asked about held-out studies, with as many templates as each is served with. Where no such question could be
asked PromptSeg goes on: what a list is served by changes only for what was measured on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.finetuning.examination import Scores, objection
from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.network_course import TemplateExamination
from lib.finetuning.tuning import FineTuning
from lib.networks import OnePrompt
from lib.networks.checkpoints import load_network, weights_hash
from lib.networks.promptseg import PromptSeg

DECISION = "promptseg"  # key in the record of a version of One-Prompt


@dataclass(frozen=True)
class ListPromptSeg:
    """The PromptSeg that segments a list beside the One-Prompt that is served.

    Attributes:
        file: its weights.
        base: hash of the configured weights, which these are or were trained from.
        least: templates of a structure from which on it segments that structure.
        most, most_one_prompt: templates that it is asked for one structure, and that One-Prompt is.
        known: ids of the studies that this One-Prompt learnt from already, which would praise what is trained from it;
            None where that is not known.
    """

    file: Path
    base: str
    least: int
    most: int
    most_one_prompt: int
    known: frozenset[str] | None = frozenset()

    def read(self) -> PromptSeg:
        """The network. Raises CheckpointError where the file is gone, or holds something else."""
        return load_network(self.file, "cpu", PromptSeg)


class ListComparison:
    """PromptSeg and a candidate of One-Prompt, asked about the same held-out studies.

    Args:
        promptseg: segments the list now.
        settings: numbers of the candidate's training.
        device: torch device.

    Attributes:
        scores: of PromptSeg and of the candidate, on the same questions.

    Raises:
        CheckpointError: the file holds no PromptSeg.
    """

    def __init__(self, promptseg: ListPromptSeg, settings: FineTuning, device: str = "cpu") -> None:
        self.promptseg, self.settings, self._device = promptseg, settings, device
        self._network = promptseg.read()
        self.weights = weights_hash(self._network)
        self.scores = (Scores(), Scores())

    def ask(self, candidate: OnePrompt, learnt: Sequence[LabelledStudy], held_out: Sequence[LabelledStudy]) -> None:
        """Ask both about studies that are new to them, with those that the candidate learnt from as templates."""
        promptseg, known = self.promptseg, self.promptseg.known
        new = [study for study in held_out if known is not None and study.id not in known]
        if len(learnt) < promptseg.least:
            return
        own = TemplateExamination(self._network, self._device, learnt, promptseg.most, promptseg.least)
        other = TemplateExamination(candidate, self._device, learnt, promptseg.most_one_prompt)
        for study in new[: self.settings.most_queries]:
            query = study.read()
            [before] = own.dices(query)
            if before:
                [after] = other.dices(query)
                own_scores, other_scores = (
                    scores.joined(Scores({name: (dices[name],) for name in before}))
                    for scores, dices in zip(self.scores, (before, after), strict=True)
                )
                self.scores = (own_scores, other_scores)

    def decision(self) -> dict[str, Any]:
        """JSON-able, for the version's record.

        `least` templates from which on PromptSeg segments beside it (0: it segments alone), the `reason` in words, and
        where something was measured the `dice` of PromptSeg and of the `candidate`.
        """
        before, after = self.scores
        decision = {"base": self.promptseg.base, "weights": self.weights, "least": self.promptseg.least}
        goes_on = f"PromptSeg goes on segmenting what {self.promptseg.least} templates or more show"
        if not before.dice:
            return {**decision, "reason": f"{goes_on}: no held-out study could be asked from so many"}
        decision |= {"dice": round(before.mean_dice, 4), "candidate": round(after.mean_dice, 4)}
        figures = (
            f"on held-out studies {before.mean_dice:.3f} Dice by PromptSeg, {after.mean_dice:.3f} by the new weights"
        )
        against = objection(before, after, self.settings.most_loss)
        if not against and after.mean_dice - before.mean_dice >= self.settings.least_gain:
            return {**decision, "least": 0, "reason": f"One-Prompt segments the list in PromptSeg's place: {figures}"}
        return {**decision, "reason": f"{goes_on}: {figures}" + (f", where {against}" if against else "")}

    def state(self) -> dict[str, Any]:
        """JSON-able, from which `restore` goes on."""
        return {"weights": self.weights, "scores": [dataclasses.asdict(scores) for scores in self.scores]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`; one of another PromptSeg, or {} of an earlier release, has nothing to say."""
        if state.get("weights") == self.weights:
            before, after = map(Scores.restored, state["scores"])
            self.scores = (before, after)


def decided(record: Mapping[str, Any], base: str) -> int | None:
    """Templates from which on PromptSeg segments beside a version of One-Prompt, 0 for never; None: not decided.

    Args:
        record: the version's.
        base: hash of the configured weights of PromptSeg.
    """
    decision = record.get(DECISION)
    if not isinstance(decision, Mapping) or decision.get("base") != base:
        return None
    least = decision.get("least")
    return least if isinstance(least, int) and least >= 0 else None
