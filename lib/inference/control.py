"""How a caller follows a long piece of work, and ends it.

An object and no callback that raises: it says whether to stop, and the work ends itself between two batches. So it can
stand for a caller in another process.
"""

from __future__ import annotations


class Cancelled(Exception):
    """Raised by a piece of work that its control stopped; the caller sees it again."""


class Control:
    """Follows nothing and never stops; subclasses do."""

    def report(self, fraction: float) -> None:
        """Take note that this fraction, 0 to 1, is done; called between batches, may block to let others go first."""

    @property
    def stopped(self) -> bool:
        """Whether the work is to end."""
        return False

    def check(self) -> None:
        """End the work where it is to end.

        Raises:
            Cancelled: `stopped` holds.
        """
        if self.stopped:
            raise Cancelled("the work was stopped")

    def advance(self, fraction: float) -> None:
        """End the work where it is to end, else report. Raises Cancelled."""
        self.check()
        self.report(fraction)

    def part(self, low: float, high: float) -> Control:
        """The control of a part of the work, from the fraction `low` to `high` of the whole."""
        return _Part(self, low, high)


class _Part(Control):
    def __init__(self, whole: Control, low: float, high: float) -> None:
        self._whole, self._low, self._high = whole, low, high

    def report(self, fraction: float) -> None:
        self._whole.report(self._low + fraction * (self._high - self._low))

    @property
    def stopped(self) -> bool:
        return self._whole.stopped
