"""UniSeg (Ye et al., MICCAI 2023): one 3-D network for many tasks, which a learnable universal prompt tells apart."""

from lib.networks.uniseg.config import UniSegConfig
from lib.networks.uniseg.network import Features, UniSeg

__all__ = ["Features", "UniSeg", "UniSegConfig"]
