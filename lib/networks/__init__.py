"""The One-Prompt network (Wu et al., CVPR 2024), one file a box of the paper's figure."""

from lib.networks.config import NetworkConfig
from lib.networks.oneprompt import Features, OnePrompt

__all__ = ["Features", "NetworkConfig", "OnePrompt"]
