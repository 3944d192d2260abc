"""One-Prompt itself: prompts, templates, the network, volumes and quality; nothing here knows MONAI Label.

`__init__.py` must exist: MONAI Label creates an empty `lib` folder inside the app, and without this file that folder
and the system's own `/lib` would be merged with this package into one namespace package.
"""

VERSION = "0.1.0"
