"""The One-Prompt network (Wu et al., CVPR 2024), one file a box of the paper's figure, in two designs (`patch`)."""

from lib.networks.config import NAMES, NetworkConfig
from lib.networks.oneprompt import Features, OnePrompt

__all__ = ["NAMES", "Features", "NetworkConfig", "OnePrompt"]
