"""The PromptSeg that a server offers beside One-Prompt, or none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from lib.inference.feature_cache import FeatureCache
from lib.networks.architectures import PROMPTSEG
from lib.networks.checkpoints import CheckpointError, load_network, read_architecture, weights_hash
from lib.networks.promptseg import PromptSeg
from lib.quality.estimator import Estimator
from lib.segmenters.contract import Segmenter
from lib.segmenters.promptseg import PromptSegSegmenter
from lib.segmenters.settings import SegmenterSettings


class ServedPromptSeg:
    """Gives the segmenter of the configured weights, which are read when it is first asked for.

    Args:
        file: the weights; None for none.
        prompted: gives what answers prompts.
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
    ) -> None:
        if file and (known := read_architecture(file)) is not PROMPTSEG:
            raise CheckpointError(
                f"--conf promptseg must name weights of PromptSeg, {file} holds those of {known.name!r}: serve them "
                "with the key that they are for"
            )
        self.file = file
        self._prompted, self._device, self._settings, self._cache = prompted, device, settings, cache
        self._making = threading.Lock()
        self._network: PromptSeg | None = None
        self._made: tuple[Segmenter, PromptSegSegmenter] | None = None

    @property
    def segmenter(self) -> PromptSegSegmenter | None:
        """One object as long as what answers prompts for it stays the same."""
        if self.file is None:
            return None
        with self._making:
            prompted = self._prompted()
            if self._made is None or self._made[0] is not prompted:
                if self._network is None:
                    self._network = load_network(self.file, self._device, PromptSeg)
                estimator = Estimator.valid_for(weights_hash(self._network), self.file)
                own = PromptSegSegmenter(self._network, prompted, self._device, self._settings, estimator, self._cache)
                self._made = (prompted, own)
            return self._made[1]
