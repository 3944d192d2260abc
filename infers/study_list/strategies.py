"""MONAI Label's active learning strategies: which study a client is given next.

`oneprompt_first` and `oneprompt_next` rank the studies without a label (`lib/inference/ranking.py` does the
arithmetic); beside them stay MONAI Label's `random` and `first`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.activelearning.first import First

from infers.errors import NotFound
from infers.label_records import AUTOMATIC, PROMPTED, LabelRecord
from infers.patches.random_strategy import AnyStudy
from infers.study_list.predicted_quality import PredictedQuality
from lib.inference.ranking import representativeness, worth

HANDED_OUT = 600.0  # seconds during which a study that somebody was given is given to nobody else, if there are others


class Store(Protocol):
    """What is needed of the datastore."""

    def get_unlabeled_images(self) -> list[str]: ...
    def get_image_info(self, image_id: str) -> dict[str, Any]: ...
    def records(self, image_id: str) -> dict[str, LabelRecord]: ...


class DescriptorSource(Protocol):
    """What is needed of the descriptors (`infers.study_list.descriptors.Descriptors`)."""

    def known(self, ids: Iterable[str]) -> tuple[list[str], np.ndarray]: ...
    def refresh(self) -> None: ...


class RankedStudies(Protocol):
    """What is needed of the study list (`infers.study_list.studies.Studies`)."""

    @property
    def store(self) -> Store: ...
    @property
    def descriptors(self) -> DescriptorSource: ...
    @property
    def models(self) -> Collection[str]: ...
    @property
    def quality(self) -> PredictedQuality: ...
    def templates(self) -> dict[str, str]: ...


class RankedStrategy(Strategy):
    """Gives the highest ranked study without a label that was not handed out just now.

    Studies without a descriptor (`infers/study_list/descriptors.py`) come after all others, in the list's order.
    """

    def __init__(self, studies: RankedStudies, description: str) -> None:
        super().__init__(description)
        self._studies = studies

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any] | None:
        """{"id": study, "score": its rank's value}, or None where every study has a label."""
        ids = self._studies.store.get_unlabeled_images()
        known, descriptors = self._studies.descriptors.known(ids)
        if len(known) < len(ids):
            self._studies.descriptors.refresh()
        scores = self.scores(known, descriptors) if known else np.zeros(0)
        ranked = [known[place] for place in np.argsort(-scores, kind="stable")]
        seen = set(known)
        ranked += [image_id for image_id in ids if image_id not in seen]
        if not ranked:
            return None
        chosen = self._free(ranked)
        score = {"score": round(float(scores[known.index(chosen)]), 4)} if chosen in seen else {}
        return {"id": chosen, **score}

    def scores(self, ids: list[str], descriptors: np.ndarray) -> np.ndarray:
        """The value that ranks each study, the highest first."""
        raise NotImplementedError

    def _free(self, ranked: list[str]) -> str:
        """The first that nobody was given lately, else the one that was given the longest ago."""
        given: dict[str, float] = {}
        for image_id in ranked:
            served = self._studies.store.get_image_info(image_id).get("strategy", {})
            given[image_id] = max((entry.get("ts", 0) for entry in served.values()), default=0)
            if not 0 <= time.time() - given[image_id] < HANDED_OUT:  # in the future: the clock was set back
                return image_id
        return min(ranked, key=given.__getitem__)


class FirstToLabel(RankedStrategy):
    """`oneprompt_first`: the study that is most like all others."""

    def __init__(self, studies: RankedStudies) -> None:
        super().__init__(studies, "The study most like all others: the best one to begin with")

    def scores(self, ids: list[str], descriptors: np.ndarray) -> np.ndarray:
        """Mean similarity to the others."""
        return representativeness(descriptors)


class NextToLabel(RankedStrategy):
    """`oneprompt_next`: the study whose correction promises most for the others."""

    def __init__(self, studies: RankedStudies) -> None:
        super().__init__(studies, "Low predicted quality, far from the templates, and many studies like it")

    def scores(self, ids: list[str], descriptors: np.ndarray) -> np.ndarray:
        """See `lib.inference.ranking.worth`."""
        _, templates = self._studies.descriptors.known(self._studies.templates())
        return worth(descriptors, np.array([self._need(image_id) for image_id in ids], descriptors.dtype), templates)

    def _need(self, image_id: str) -> float:
        try:
            records = self._studies.store.records(image_id)
        except NotFound:  # removed meanwhile
            return 0.0
        if PROMPTED in records:  # a person was there already: the others first
            return 0.0
        mask = records.get(AUTOMATIC)
        made = mask.made_by(self._studies.models) if mask else None
        if mask is None or made is None or mask.rejected:
            return 1.0
        return 1 - (self._studies.quality.lowest(made) or 0.0)


def strategies(studies: RankedStudies) -> dict[str, Strategy]:
    """The strategies by name; clients show the first one first."""
    return {
        "oneprompt_next": NextToLabel(studies),
        "oneprompt_first": FirstToLabel(studies),
        "random": AnyStudy(),
        "first": First(),
    }
