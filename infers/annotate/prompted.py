"""Studies that are prompted and not painted, and labels that are not to replace what nobody saw.

A study can be submitted with clicks, a box or strokes alone. It is a template of that prompt type then: stored with its
prompts and with the answer to them, which a person can look at and which nobody learns from. A painted label takes its
place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from infers.board.decisions import version_of
from infers.errors import ClientError
from infers.label_records import FINAL, PROMPTED, LabelRecord, Statement
from infers.prompts import parse_prompts
from infers.records import check_record
from infers.store.datastore import StoredLabel
from infers.study_list.labelled_studies import MASK_SUFFIX
from infers.tasks.oneprompt import Engine
from lib.imaging.files import temporary_folder
from lib.imaging.images import write_label

PAINTED = "it has a label already, which says more than prompts: correct it, or DELETE /datastore/label first"


class PromptedStudies:
    """Stores prompts as templates.

    Args:
        engine: the study list and the network.
        changed: called after a template changed.
    """

    def __init__(self, engine: Engine, changed: Callable[[], Any]) -> None:
        self._engine, self._changed = engine, changed

    def save(self, image_id: str, given: Mapping[str, Any], statement: Statement, user: str | None) -> dict[str, Any]:
        """Make a study a template by its prompts; they replace those that it had.

        Args:
            given: {structure: prompts}, as `infers.prompts` says them.
            statement, user: who says so.

        Returns:
            {"image", "template": whether it is one, "structures": {name: index}, "prompt_types": {name: types}}.

        Raises:
            ClientError: unusable prompts, or a study with a final label (409).
            RecordError: more of them than a record may hold.
            NotFound, ImageError: no such study, or one that cannot be read.
        """
        studies = self._engine.studies
        if studies.store.label(image_id, FINAL) is not None:
            raise ClientError(PAINTED, 409)
        check_record(given)  # it is kept, and read with everything else that is recorded
        image = studies.image(image_id)
        spelled = {str(name): self._engine.labels.spelled(str(name)) for name in given}
        if len(set(spelled.values())) < len(spelled):
            raise ClientError(
                f"prompts must name each structure once, whatever its capitals and blanks, got {list(given)}"
            )
        given = {spelled[name]: parts for name, parts in given.items()}
        parsed = parse_prompts(given, image.array.shape)
        structures = self._engine.labels.learn(parsed)
        with self._engine.priority_lock.interactive():
            answer = self._engine.model.segmenter.interact(image, parsed, structures)
        record = LabelRecord(statement, user, structures, prompts={name: given[name] for name in parsed})
        with temporary_folder() as folder:
            path = Path(folder) / f"answer{MASK_SUFFIX}"
            write_label(path, answer.mask, image)
            studies.store.save(image_id, path, PROMPTED, record)
        self._changed()
        types = {name: sorted(kind.value for kind in prompt.types) for name, prompt in parsed.items()}
        return {
            "image": image_id,
            "template": image_id in studies.templates(),
            "structures": dict(structures),
            "prompt_types": types,
        }


def check_seen(final: StoredLabel | None, seen: str) -> None:
    """Refuse to replace a final label that the client has not seen.

    Args:
        final: the study's final label now.
        seen: version of the one that the client began from, empty for none.

    Raises:
        ClientError: 409, whose label it is.
    """
    if version_of(final) == seen:
        return
    if final is None:
        raise ClientError("its label was taken away meanwhile: look at the study again before you submit yours", 409)
    whose = final.record.statement.client_id or final.record.author or "somebody"
    raise ClientError(
        f"{whose} saved a label for this study meanwhile: look at that one, or replace it, which keeps it with tag "
        "`former` where it was another person's",
        409,
    )
