"""How things stand, as GET /oneprompt/status and GET /oneprompt/training answer it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from infers.board.board import Board
from infers.jobs.propagation import Propagation
from infers.jobs.training import Trainings
from infers.serving.model import ServedModel
from infers.serving.promptseg import ServedPromptSeg
from infers.study_list.studies import LIST_UNET, Studies
from infers.tasks.promptseg import PROMPTSEG
from infers.tasks.uniseg import UNISEG
from infers.use_cases.publishing import Publishing
from lib.finetuning.served_list_unet import ServedListUNet
from lib.finetuning.uniseg.served import ServedUniSeg

SHOWN = 100  # studies of a long list, unless all are asked for


class Status:
    """The state of one study list.

    Args:
        studies, job, board, trainings, publishing, model, list_unet, promptseg, uniseg: what is reported on.
        from_labels: labelled studies from which on a network of the list alone is trained; 0: only when asked for.
        held: bytes that are kept in memory, by what they hold.
    """

    def __init__(
        self,
        studies: Studies,
        job: Propagation,
        board: Board,
        trainings: Trainings,
        publishing: Publishing,
        model: ServedModel,
        list_unet: ServedListUNet,
        promptseg: ServedPromptSeg,
        uniseg: ServedUniSeg,
        from_labels: int,
        held: Callable[[], dict[str, int]],
    ) -> None:
        self._studies, self._job, self._board = studies, job, board
        self._trainings, self._publishing = trainings, publishing
        self._model, self._list_unet, self._uniseg, self._from_labels = model, list_unet, uniseg, from_labels
        self._promptseg, self._held = promptseg, held

    def of_list(self, all_studies: bool = False) -> dict[str, Any]:
        """Weights, structures, templates, the job, how many studies of each status there are, and the first of them.

        Args:
            all_studies: tell of every study, which is much on a long list: who polls should do without.
        """
        rows = self._board.rows()
        return {
            "weights": self._model.weights_hash,
            "labels": self._studies.labels.names,
            "templates": sorted(self._studies.templates()),
            "job": self._job.status().to_dict(),
            "counts": Counter(row.status for row in rows),
            "studies": {row.id: row.brief() for row in (rows if all_studies else rows[:SHOWN])},
            "unreadable": self._board.unreadable(),
            "memory": self._held(),
            "warnings": self._board.warnings(),
            **self._board.quality(),
        }

    def of_training(self) -> dict[str, Any]:
        """The newest training, the versions of the weights; and the list's own network, PromptSeg and UniSeg."""
        list_unet = {
            **self._trainings.status(LIST_UNET),
            "offered": self._list_unet.status(),
            "from_labels": self._from_labels,
            "labelled": len(self._studies.painted()),
        }
        uniseg = {**self._trainings.status(UNISEG), "offered": self._uniseg.status()}
        promptseg = {**self._trainings.status(PROMPTSEG), "offered": self._promptseg.status()}
        beside = {"specialist": list_unet, "promptseg": promptseg, "uniseg": uniseg}
        return {**self._trainings.status(), **self._publishing.status(), **beside}
