"""Every number of a fine-tuning on episodes of a list's own studies."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, get_args

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as validated

from lib.imaging.prompts import PromptType
from lib.learning.adapters import MODES
from lib.learning.episodes import Mix
from lib.learning.optimizers import OptimizerName
from lib.learning.training import TrainingConfig
from lib.parsing import Count, CountOrNone, Number, ParseError, Share, problem


@validated(frozen=True, config=ConfigDict(extra="forbid"))
class FineTuning:
    """Every number of a fine-tuning; docs/finetuning.md has what was measured with them.

    Attributes:
        mode: which weights learn, one of `lib.learning.adapters.MODES`.
        optimizer: see `lib.learning.optimizers`.
        rates: learning rate of each mode.
        epochs, steps: epochs of a phase, steps of an epoch.
        batch, queries: episodes of a step, queries of an episode.
        synthetic: share of synthetic episodes, against forgetting.
        unchanged: share of the list's own episodes that stay as its images lie and look (`lib.learning.episodes.Mix`).
        masks: share of templates whose prompt is their mask, as a saved label's is; the other kinds share the rest.
        alone: how much of the way from the parent's weights is gone where one study was learnt from, because such a
            candidate knows that one too well (averages as in Wortsman et al., "Robust fine-tuning of zero-shot models",
            CVPR 2022).
        folds: times that the studies are divided while there are few.
        few: up to so many studies are cross-validated; of more, `held_out` (a share) are set apart.
        longer: times as many epochs for the one phase of more studies, which costs what cross-validation does.
        most_queries: studies of a phase that are asked about as the product would be, which takes seconds for a volume.
        most_questions: slices that are asked about after each epoch, in all.
        most_slices: slices of all studies that are kept in memory, in each plane.
        least_gain: Dice that a candidate must be better by.
        most_loss: Dice that a structure may lose.
        more_clicks: clicks that a candidate may need more; so many fewer make it better where its Dice is as good.
    """

    mode: Annotated[str, Field(pattern=rf"^({'|'.join(MODES)})$", description=f"one of {', '.join(MODES)}")] = "full"
    optimizer: Annotated[OptimizerName, Field(description=f"one of {', '.join(get_args(OptimizerName))}")] = "adamw"
    rates: Annotated[Mapping[str, float], Field(description="the learning rate of each mode")] = field(
        default_factory=lambda: {"full": 5e-4, "norms": 2e-3, "lora": 2e-3}
    )
    epochs: Count = 4
    steps: Count = 20
    batch: Count = 4
    queries: Count = 2
    synthetic: Share = 0.1
    unchanged: Share = 0.8
    masks: Share = 0.85
    alone: Share = 0.5
    folds: Annotated[int, Field(ge=2, description="a whole number from 2 on")] = 2
    few: CountOrNone = 8
    longer: Count = 3
    held_out: Annotated[float, Field(gt=0, le=0.5, description="a share up to a half")] = 0.25
    most_queries: Count = 4
    most_questions: Count = 48
    most_slices: Count = 1200
    least_gain: Number = 0.005
    most_loss: Number = 0.03
    more_clicks: Number = 0.25

    @property
    def mix(self) -> Mix:
        """Shares of the kinds of episodes where there are several studies."""
        mix = Mix(foreign=0.0, regions=0.05, same_image=0.2, absent=0.06, unions=0.0)
        return dataclasses.replace(mix, synthetic=self.synthetic, unchanged=self.unchanged)

    @property
    def mix_alone(self) -> Mix:
        """The same for one study, which has no partner: its own slices in changed copies."""
        mix = Mix(foreign=0.0, regions=0.1, same_image=0.9 - self.synthetic, absent=0.0, unions=0.0)
        return dataclasses.replace(mix, synthetic=self.synthetic, unchanged=self.unchanged)

    @classmethod
    def parse(cls, text: str) -> FineTuning:
        """The defaults with some changed, as `epochs=2,steps=10`.

        Raises:
            ParseError: a name that is not among the settings, or a value that does not fit.
        """
        given: dict[str, Any] = dict(part.strip().partition("=")[::2] for part in filter(None, text.split(",")))
        if "rate" in given:
            default = cls()
            given["rates"] = {**default.rates, given.get("mode", default.mode): given.pop("rate")}
        try:
            return cls(**given)
        except ValidationError as error:
            known = {"rate": Field(), **cls.__pydantic_fields__}  # type: ignore[attr-defined]
            raise ParseError(problem(error, known, "settings as NAME=VALUE,...")) from error

    def training(self, total: int) -> TrainingConfig:
        """The settings of a step, of `total` ones in a phase."""
        kinds = list(PromptType)
        rest = (1 - self.masks) / (len(kinds) - 1)
        return TrainingConfig(
            optimizer=self.optimizer,
            learning_rate=self.rates[self.mode],
            warmup=max(1, total // 10),
            template_types={kind: self.masks if kind is PromptType.SEGLAB else rest for kind in kinds},
        )
