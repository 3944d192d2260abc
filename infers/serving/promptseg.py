"""The PromptSeg that a server offers beside One-Prompt, or none: what the list's training published, or the configured
weights that it descends from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from lib.finetuning.list_promptseg import ListPromptSeg, decided
from lib.finetuning.served_promptseg import BASE, TunedPromptSeg
from lib.inference.feature_cache import FeatureCache
from lib.networks.architectures import PROMPTSEG
from lib.networks.checkpoints import CheckpointError, load_network, read_architecture, read_provenance, weights_hash
from lib.networks.promptseg import PromptSeg
from lib.quality.estimator import Estimator
from lib.segmenters.contract import Segmenter
from lib.segmenters.promptseg import (
    SHIPPED_PROMPTSEG,
    PromptSegSegmenter,
    better_beside,
    least_templates,
    segmenter_of_list,
)
from lib.segmenters.settings import SegmenterSettings


class ServedPromptSeg:
    """Gives the segmenter of the configured weights, which are read when it is first asked for.

    Args:
        file: the weights; None for those that ship, where the list may be segmented with them, and for none else.
        prompted: gives what answers prompts.
        tuned: where the list's trainings publish; None for nowhere.
        least: templates of a structure from which on it segments the list; 0: never; None: as
            `lib.segmenters.promptseg.BETTER_FROM` has it.
        one_prompt: gives the hash of the configured weights of One-Prompt.
        device, settings, cache: see `PromptSegSegmenter`.

    Raises:
        CheckpointError: the file holds no PromptSeg.
    """

    def __init__(
        self,
        file: Path | None,
        prompted: Callable[[], Segmenter],
        device: str,
        settings: SegmenterSettings,
        cache: FeatureCache | None = None,
        least: int | None = 0,
        tuned: TunedPromptSeg | None = None,
        one_prompt: Callable[[], str] = lambda: "",
    ) -> None:
        if file and (known := read_architecture(file)) is not PROMPTSEG:
            raise CheckpointError(
                f"--conf promptseg must name weights of PromptSeg, {file} holds those of {known.name!r}: serve them "
                "with the key that they are for"
            )
        self._file, self._least, self._tuned, self._one_prompt = file, least, tuned, one_prompt
        self._prompted, self._device, self._settings, self._cache = prompted, device, settings, cache
        self._making = threading.Lock()
        self._base: tuple[PromptSeg, str] | None = None  # the configured network and its hash
        self._made: tuple[Segmenter, PromptSeg, PromptSegSegmenter] | None = None

    @cached_property
    def configured(self) -> Path | None:
        """The file of the configured weights; None where PromptSeg is not offered."""
        if self._file or self._least == 0 or not SHIPPED_PROMPTSEG.exists():
            return self._file
        return SHIPPED_PROMPTSEG if self._least or better_beside(self._one_prompt()) else None

    @property
    def offered(self) -> tuple[Path, str] | None:
        """The file of what is offered, and the hash of the configured weights that it is or was trained from."""
        if self.configured is None:
            return None
        with self._making:
            _, base = self._configured(self.configured)
            published = self._tuned is not None and self._tuned.of(base) is not None
            return (self._tuned.path if self._tuned and published else self.configured), base

    @property
    def file(self) -> Path | None:
        """The same file, None for none."""
        return self.offered[0] if self.offered else None

    @property
    def segmenter(self) -> PromptSegSegmenter | None:
        """One object as long as the weights, and what answers prompts for it, stay the same."""
        if self.configured is None:
            return None
        with self._making:
            own, base = self._configured(self.configured)
            network = (self._tuned.of(base) if self._tuned else None) or own
            prompted = self._prompted()
            if self._made is None or self._made[0] is not prompted or self._made[1] is not network:
                estimator = Estimator.valid_for(base, self.configured)
                made = PromptSegSegmenter(network, prompted, self._device, self._settings, estimator, self._cache)
                self._made = (prompted, network, made)
            return self._made[2]

    def beside(self, other: Segmenter, weights: str, record: Mapping[str, Any] = {}) -> Segmenter:
        """What segments the list: another segmenter, and PromptSeg for structures that enough templates show.

        Args:
            other: One-Prompt.
            weights: hash of its weights.
            record: of the version that they are, in which their training decided who segments the list; {} for none.
        """
        own = None if self._least == 0 else self.segmenter
        if own is None or self._base is None:
            return other
        base = self._base[1]
        return segmenter_of_list(other, own, (base, weights), self._decided(record, base))

    def of_list(
        self, weights: str, record: Mapping[str, Any], known: frozenset[str] | None, most_one_prompt: int
    ) -> ListPromptSeg | None:
        """What `beside` has PromptSeg do, for a training to ask it too; None where it segments nothing of the list, or
        what `--conf model` says, whatever is measured.

        Args:
            weights, record: of One-Prompt, as `beside`.
            known, most_one_prompt: see `ListPromptSeg`.
        """
        if self._least is not None or (offered := self.offered) is None:
            return None
        file, base = offered
        least = least_templates((base, weights), self._decided(record, base))
        most = self._settings.templates_per_query
        return ListPromptSeg(file, base, least, most, most_one_prompt, known) if least else None

    def publish(self, path: Path) -> str:
        """Offer uploaded weights from now on; their hash.

        Raises:
            CheckpointError: they do not fit the configured ones, or there are none.
        """
        network = load_network(path, self._device, PromptSeg)
        if self._tuned is None or self.configured is None:
            raise CheckpointError("PromptSeg is not offered: start the server with --conf promptseg FILE to serve it")
        with self._making:
            own, base = self._configured(self.configured)
        if network.config != own.config:
            raise CheckpointError(
                f"weights must be of the configuration {own.config.name!r} that is served, got {network.config.name!r} "
                "with other sizes: start the server with --conf promptseg FILE to serve those"
            )
        return self._tuned.publish(network, {**read_provenance(path), BASE: base}, uploaded=True)

    def withdraw(self) -> bool:
        """Go back to the configured weights; whether others were published."""
        return self._tuned is not None and self._tuned.withdraw()

    def status(self) -> dict[str, Any]:
        """JSON-able: `hash` of what is offered, None for nothing; and the record of what was published."""
        published = self._tuned.status() if self._tuned else {"withdrawn": False}
        offered = self.segmenter
        return {**published, "hash": offered.weights_hash if offered else None}

    def _decided(self, record: Mapping[str, Any], base: str) -> int | None:
        """What the settings say, else what was decided when One-Prompt was trained."""
        return decided(record, base) if self._least is None else self._least

    def _configured(self, file: Path) -> tuple[PromptSeg, str]:
        """The configured network and its hash, read when first needed."""
        if self._base is None:
            network = load_network(file, self._device, PromptSeg)
            self._base = (network, weights_hash(network))
        return self._base
