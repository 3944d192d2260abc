"""What the trainers of the other networks have in common: each is compared with a One-Prompt that is new to the studies
held out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from lib.finetuning.labelled_study import LabelledStudy
from lib.finetuning.network_course import NetworkSettings
from lib.finetuning.phases import held_out_ids
from lib.finetuning.published import Published
from trainers.course import CourseTrainer

Served = TypeVar("Served", bound=Published[Any])


class NetworkTrainer(CourseTrainer, Generic[Served]):
    """Training of a network beside One-Prompt.

    Args:
        served: where it is offered; the folder of runs, statistics and the record is the one that it lies in.
        unlearnt: gives One-Prompt weights that learnt from none of the studies named: those that are served may know
            what is held out.
        description, studies, settings, options: see `CourseTrainer`.
    """

    def __init__(
        self,
        served: Served,
        unlearnt: Callable[[Collection[str]], Path],
        description: str,
        studies: Callable[[], list[LabelledStudy]],
        settings: NetworkSettings,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(served.path.parent, description, studies, settings, options)
        self._served = served
        self._unlearnt: Callable[[Collection[str]], Path] | None = unlearnt

    def __getstate__(self) -> dict[str, Any]:
        """Without the server's parts."""
        return {**super().__getstate__(), "_unlearnt": None}

    def pre_process(self, request: dict[str, Any], datastore: Any) -> list[LabelledStudy]:
        """As in `CourseTrainer`; and which weights of One-Prompt the studies held out are new to."""
        studies = super().pre_process(request, datastore)
        assert self._unlearnt is not None
        request["parent"] = str(self._unlearnt(held_out_ids(studies, request["settings"])))
        return studies
