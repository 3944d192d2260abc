"""MONAI Label's strategy `random`, also for the last study of a list."""

from __future__ import annotations

from typing import Any

from monailabel.tasks.activelearning.random import Random


class AnyStudy(Random):
    """`random`, also for the last study of a list: MONAI Label's divides by the seconds since it was last given."""

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any] | None:
        """{"id": study, "weight": of its choice}, or None where every study has a label."""
        ids = datastore.get_unlabeled_images()
        return {"id": ids[0], "weight": 1} if len(ids) == 1 else super().__call__(request, datastore)
