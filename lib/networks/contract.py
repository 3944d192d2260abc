"""What every two-dimensional in-context network offers, so that nothing above it asks which one it is.

The network is shown K template images with prompts on one structure, and segments that structure in a query image:
K is 1 for One-Prompt and more for others. `encode` is apart from `decode`, because a slice is encoded once and decoded
for every structure, template and click.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

Features = tuple[Tensor, ...]  # levels fine to coarse, each (B, C, h, w)


class SliceConfig(Protocol):
    """What is known of such a network without asking it."""

    @property
    def name(self) -> str:
        """Short name that appears in every mask's provenance."""

    @property
    def image_size(self) -> int:
        """Side S in pixels of the square images that the network sees."""

    @property
    def most_templates(self) -> int:
        """The most templates that one `decode` reads, K."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""


class SliceModel(Protocol):
    """A two-dimensional in-context network; a `torch.nn.Module`."""

    @property
    def config(self) -> SliceConfig:
        """Its sizes."""

    def encode(self, images: Tensor) -> Features:
        """Normalised grey images (B, 1, S, S) to features."""

    def decode(
        self, query: Features, template: Features, template_prompts: Tensor, query_prompts: Tensor | None = None
    ) -> Tensor:
        """Segment queries by prompted templates.

        Args:
            query: features of B queries.
            template: features of one template for each query, (B or 1, C, h, w), or of K, (B or 1, K, C, h, w).
            template_prompts: prompt maps on the templates (`lib.imaging.prompts.rasterise`), (B or 1, 2, 5, S, S), of
                K templates (B or 1, K, 2, 5, S, S).
            query_prompts: (B or 1, 2, 5, S, S) prompt maps on the queries themselves, None for none. A query that is
                its own template has the same features and maps on both sides.

        Returns:
            Logits (B, 1, S, S).
        """

    def eval(self) -> Any:
        """Evaluation mode, as of any module."""

    def state_dict(self) -> Mapping[str, Any]:
        """Weights by name, as of any module."""


class TaskMemory(Protocol):
    """What queries of a task read of its templates; a dataclass of tensors."""

    @property
    def weights(self) -> Tensor:
        """(B, K) how much each template counts; the sum over K is 1."""


@runtime_checkable
class RememberingModel(SliceModel, Protocol):
    """One whose `decode` is in two: what does not depend on the query is computed once for a task."""

    def remember(self, templates: Features, maps: Tensor) -> TaskMemory:
        """Of features (B, K, C, h, w) and prompt maps (B, K, 2, 5, S, S) of K templates."""

    def read(self, query: Features, memory: Any, query_prompts: Tensor | None = None) -> Tensor:
        """Logits (B, 1, S, S) of B queries by the memory of B tasks, or of one for all of them; see `decode`."""
