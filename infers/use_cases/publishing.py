"""Which weights are served: versions of One-Prompt's, uploads, and the network of this list alone."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from infers.errors import ClientError, NotFound
from infers.serving.model import ServedModel
from infers.serving.promptseg import ServedPromptSeg
from infers.study_list.studies import LIST_UNET, MODEL
from infers.tasks.promptseg import PROMPTSEG
from infers.tasks.uniseg import UNISEG
from lib.finetuning.served_list_unet import ServedListUNet
from lib.finetuning.uniseg.served import ServedUniSeg
from lib.finetuning.versions import Versions
from lib.segmenters.uniseg.model import load_model


class Publishing:
    """Publishing and roll back.

    Args:
        model: the served network.
        versions: its versions.
        list_unet: the network of this list alone.
        promptseg: the PromptSeg that is offered.
        uniseg: the UniSeg that is offered.
        names: of the infer tasks, as clients name what they upload for.
        changed: called after other weights are served.
    """

    def __init__(
        self,
        model: ServedModel,
        versions: Versions,
        list_unet: ServedListUNet,
        promptseg: ServedPromptSeg,
        uniseg: ServedUniSeg,
        names: Collection[str],
        changed: Callable[[], object],
    ) -> None:
        self._model, self._versions = model, versions
        self._list_unet, self._promptseg, self._uniseg = list_unet, promptseg, uniseg
        self._names, self._changed = names, changed

    def upload(self, name: str, path: Path) -> dict[str, Any]:
        """Serve uploaded weights from now on, if they fit. Raises CheckpointError where they do not."""
        self._check(name)
        if name == LIST_UNET:
            raise ClientError(f"{LIST_UNET} is trained on this list, never uploaded: upload weights as {MODEL}", 405)
        if name == PROMPTSEG:
            return {"weights": self._promptseg.publish(path)}
        if name == UNISEG:
            self._uniseg.publish_upload(load_model(path, self._model.device))
            return {"weights": self._uniseg.status()["hash"]}
        self._model.publish(path, self._versions)
        return {"weights": self._model.weights_hash}

    def remove(self, name: str) -> dict[str, Any]:
        """Go back to the configured weights, of One-Prompt or PromptSeg; or withdraw the list's U-Net, or UniSeg."""
        if name == LIST_UNET:
            return self.use_list_unet(False)
        if name == PROMPTSEG:
            if not self._promptseg.withdraw():
                raise NotFound(f"no {PROMPTSEG} was published: train one first, with POST /train/{PROMPTSEG}")
            self._changed()
            return self._promptseg.status()
        if name == UNISEG:
            if not self._uniseg.withdraw():
                raise NotFound(f"no {UNISEG} was published: train one first, with POST /train/{UNISEG}")
            return self._uniseg.status()
        self._check(name)
        if not self._model.published.exists():
            raise NotFound("no weights were published: the configured ones are served and stay")
        return self.serve("base")

    def serve(self, version: str) -> dict[str, Any]:
        """Roll back or forward to a version, or to `base`. Raises VersionError, CheckpointError."""
        self._model.serve(version, self._versions)
        self._changed()
        return {"weights": self._model.weights_hash}

    def use_list_unet(self, use: bool) -> dict[str, Any]:
        """Offer the one that was withdrawn, or withdraw the one that is offered; the list follows. Raises NotFound."""
        done = self._list_unet.use_again() if use else self._list_unet.withdraw()
        if not done and (self._list_unet.current is not None) != use:
            raise NotFound("there is no list-specific U-Net: train one first, with POST /train/" + LIST_UNET)
        self._changed()
        return self._list_unet.status()

    def status(self) -> dict[str, Any]:
        """What is served, and which versions there are."""
        served = self._model.weights_hash
        versions = [{**record, "served": record["hash"] == served} for record in self._versions.all()]
        base = {"hash": self._model.base_hash, "served": served == self._model.base_hash}
        return {"served": served, "base": base, "versions": versions}

    def _check(self, name: str) -> None:
        if name not in self._names:
            raise NotFound(f"model must be one of {', '.join(self._names)}, got {name!r}")
