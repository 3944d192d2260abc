"""Who is measured: One-Prompt, PromptSeg and the baselines, for images and for volumes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from lib.inference.feature_cache import FeatureCache
from lib.inference.slice_network import SliceNetwork
from lib.networks import OnePrompt
from lib.networks.checkpoints import weights_hash
from lib.networks.promptseg import PromptSeg
from scripts.measure.evaluation.baselines.copying import Copying
from scripts.measure.evaluation.baselines.prototypes import PrototypeMatching
from scripts.measure.evaluation.baselines.random_walker import RandomWalker
from scripts.measure.evaluation.baselines.registration import Registration
from scripts.measure.evaluation.baselines.scribbles import Scribbles
from scripts.measure.evaluation.methods import ClickMethod, TemplateMethod
from scripts.measure.evaluation.segmenters import (
    FEATURE_ROOM,
    ONE_PROMPT,
    ONE_WRONG,
    PROMPT_SEG,
    one_prompt,
    prompt_seg,
)

METHODS = (ONE_PROMPT, Copying.name, PrototypeMatching.name, Registration.name, Scribbles.name, RandomWalker.name)
EXTRA = (PROMPT_SEG, ONE_PROMPT + ONE_WRONG, PROMPT_SEG + ONE_WRONG)  # measured where they are named alone
SLOW = frozenset({Registration.name, Scribbles.name, RandomWalker.name})  # asked last: time may run out
BATCH = 32


@dataclass(frozen=True)
class Panel:
    """Methods that segment by templates and methods that segment by clicks."""

    by_template: tuple[TemplateMethod, ...]
    by_clicks: tuple[ClickMethod, ...]


def panels(
    network: OnePrompt,
    device: str,
    seed: int,
    threads: int,
    wanted: Collection[str],
    promptseg: PromptSeg | None = None,
) -> dict[int, Panel]:
    """The panel for images (2) and for volumes (3), with the methods of `METHODS` and `EXTRA` that are wanted."""
    hashed = weights_hash(network)
    cache = FeatureCache(FEATURE_ROOM)  # one for all: a slice is encoded once for all methods with the same encoder
    slices = SliceNetwork(network, device, BATCH, cache=cache)
    ours = one_prompt(network, device, seed, cache=cache)
    others: list[TemplateMethod] = [one_prompt(network, device, seed, one_wrong=True, cache=cache)]
    if promptseg is not None:
        own = partial(prompt_seg, promptseg, ours.segmenter, device, seed, cache=cache)
        others += [own(), own(one_wrong=True)]
    baselines: list[TemplateMethod] = [Copying(), PrototypeMatching(slices, hashed), Registration(threads)]
    clickers: list[ClickMethod] = [Scribbles(), RandomWalker()]
    return {dims: _panel(wanted, [ours, *others, *baselines], [ours, *clickers]) for dims in (2, 3)}


def _panel(wanted: Collection[str], methods: Sequence[TemplateMethod], clickers: Sequence[ClickMethod]) -> Panel:
    return Panel(
        tuple(method for method in methods if method.name in wanted),
        tuple(clicker for clicker in clickers if clicker.name in wanted),
    )
