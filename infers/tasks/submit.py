"""`oneprompt_submit`: a model whose *Run* saves the study's last results as its label, for clients without such a
button.

OHIF's panel cannot submit a label. It runs every segmentation model, though, and shows what comes back: here the label
that was saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferType

from infers.errors import ClientError
from infers.label_records import FINAL
from infers.tasks.oneprompt import Engine, OnePromptTask
from lib.imaging.images import Image, read_label
from lib.segmenters.contract import Prediction

SUBMIT = "oneprompt_submit"
NOTHING = (
    "there is no result to submit for this study (any more): prompt a structure first, with oneprompt_points in OHIF, "
    "and run this model then"
)
REFUSED = "nothing was saved: the results are empty, or a person submitted a label for this study, which stays"


class SubmitTask(OnePromptTask):
    """Saves what the interactive models answered last for a study, and answers with the label that it has then."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(
            engine, InferType.SEGMENTATION, 3, "Saves the last results for this study as its label: a template at once"
        )

    def predict(self, request: Mapping[str, Any], image: Image) -> Prediction:
        """Save, and answer with the label. Raises ClientError where there is nothing to save, or a label that stays."""
        engine, image_id = self.engine, request.get("image_id")
        if not image_id:
            raise ClientError("oneprompt_submit needs a study of the list, and got an upload: save it there first")
        user = str(request.get("user") or "")
        results = engine.recent.of(image_id)
        for result in results:
            engine.acceptance.put(image_id, result, user)
        if not results and image_id not in engine.acceptance.waiting():
            raise ClientError(NOTHING, 409)
        if not engine.acceptance.accept_now(image_id, user):
            raise ClientError(REFUSED, 409)
        engine.recent.forget(image_id)
        return self._saved(image_id, image)

    def _saved(self, image_id: str, image: Image) -> Prediction:
        """The study's label as the list numbers structures."""
        stored = self.engine.studies.store.label(image_id, FINAL)
        if stored is None:
            raise ClientError("the label was removed as soon as it was saved: look at the study again", 409)
        label, numbers = read_label(stored.path, image), self.engine.labels.names
        values = stored.record.structures or stored.record.statement.label_names or {}
        table = np.zeros(int(label.max()) + 1, label.dtype)
        shown = set(np.unique(label).tolist())  # a label may name structures of the list that it does not show
        labels = {name: numbers[name] for name, value in values.items() if name in numbers and value in shown}
        for name, index in labels.items():
            table[values[name]] = index
        following = self.engine.studies.count_without_final()
        saved = {"saved": sorted(labels), "following_studies": following}
        return Prediction(table[label], labels, {}, saved)
