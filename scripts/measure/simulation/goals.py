"""What the annotator aims at."""

from __future__ import annotations

GOALS = (0.85, 0.9)  # Dice of every structure of every study
MOST_CLICKS = 20  # on one structure of one study; what is still wrong then is drawn by hand
