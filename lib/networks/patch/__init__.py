"""The second design of One-Prompt's parts: patches of four pixels, few keys, maps that stay channels-last.

The same paper and the same contract as the first design (`lib/networks`), laid out for processors whose convolutions
and products are fast and whose memory is slow: nothing but a light border branch above stride 4, convolutions of 32
channels and more, normalisation and activation in the precision of the products, templates read through at most 256
keys each, and any number of templates in one pass.
"""

from lib.networks.patch.decoder import PatchMaskDecoder
from lib.networks.patch.encoder import PatchEncoder
from lib.networks.patch.former import PatchFormerBlock
from lib.networks.patch.prompts import PatchPromptEncoder
from lib.networks.patch.support import Support, map_pyramid, support_level

__all__ = [
    "PatchEncoder",
    "PatchFormerBlock",
    "PatchMaskDecoder",
    "PatchPromptEncoder",
    "Support",
    "map_pyramid",
    "support_level",
]
