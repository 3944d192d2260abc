"""One line of JSON a request, with its id and nothing about a patient: the pattern of the route, not the address."""

from __future__ import annotations

import json
import logging

logger = logging.getLogger("oneprompt.requests")

READING = ("GET", "HEAD", "OPTIONS")
SLOW = 1.0  # seconds; quicker reading answers that went well are only counted


def log_request(method: str, route: str, status: int, seconds: float, id: str) -> None:
    """Write down an answer: of what changes something, what failed, and what was slow."""
    if method not in READING or status >= 400 or seconds >= SLOW:
        entry = {"request": id, "method": method, "route": route, "status": status, "seconds": round(seconds, 3)}
        logger.log(logging.WARNING if status >= 500 else logging.INFO, json.dumps(entry))
