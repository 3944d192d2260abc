"""Interactive baseline: MONAI Label's scribbles method, histogram likelihood and graph cut, outside its server.

The one module here that imports monailabel, and only when it is used. Settings are those of MONAI Label's
`HistogramBasedGraphCut`; its CT window gives way to robust scaling, since the images are of any modality.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lib.imaging.prompts import Prompt
from scripts.measure.evaluation.baselines.seeds import BACKGROUND, FOREGROUND, dabs, enlarged, shrunk
from scripts.measure.evaluation.cases import Case

SMOOTHNESS, SIGMA = 1.0, 0.1
KEYS = {"scribbles_bg_label": BACKGROUND, "scribbles_fg_label": FOREGROUND}


class Scribbles:
    """A `ClickMethod`; it looks at all clicks and starts anew each time."""

    name = "MONAI Label scribbles"
    fingerprint = "1"

    def masks(self, cases: Sequence[Case], prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """See `ClickMethod`."""
        return [_cut(case, prompt) for case, prompt in zip(cases, prompts, strict=True)]


def _cut(case: Case, prompt: Prompt) -> np.ndarray:
    import numpymaxflow
    from monailabel.scribbles.transforms import MakeISegUnaryd, MakeLikelihoodFromScribblesHistogramd

    image = shrunk(case)[None]
    seeds = dabs(prompt, case.image.array.shape, image.shape[1:])[None]
    data = MakeLikelihoodFromScribblesHistogramd("image", "seeds", **KEYS)({"image": image, "seeds": seeds})
    unary = MakeISegUnaryd("image", "prob", "seeds", **KEYS)(data)["unary"]
    # what its ApplyGraphCutOptimisationd calls, with the default connectivity named, which is else warned of each time
    inside = numpymaxflow.maxflow(image, unary, SMOOTHNESS, SIGMA, 4 if image.ndim == 3 else 6)[0]
    return enlarged(inside, case.image.array.shape)
