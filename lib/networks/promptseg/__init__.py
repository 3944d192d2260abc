"""PromptSeg (Zhao, Wang, Shi, An; Entropy 2026, 28(3):342): K visual prompts, filtered by an information bottleneck.

Of the paper only its statement is public: segmentation as the minimisation of a conditional entropy, a few annotated
image-mask pairs as side information, a Transformer, and the information-bottleneck principle that keeps of the prompts
what tells something about the mask. How each of these is built here is our reading, and each file says so.
"""

from lib.networks.promptseg.config import PromptSegConfig
from lib.networks.promptseg.network import Memory, PromptSeg
from lib.networks.promptseg.start import begin_from

__all__ = ["Memory", "PromptSeg", "PromptSegConfig", "begin_from"]
