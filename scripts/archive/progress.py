"""A bar with an estimate, what went wrong so far, and what is waited for."""

from __future__ import annotations

from types import TracebackType

from tqdm import tqdm

from scripts.archive.run import Progress


class Bar:
    """Shown on the error output while its context lasts."""

    def __init__(self) -> None:
        self._bar: tqdm[None] | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def follow(self, progress: Progress) -> None:
        """Show how far a run is; what earlier starts did counts as done and not as quick."""
        if self._bar is None:
            self._bar = tqdm(total=progress.total, initial=progress.done, unit=" studies", mininterval=1.0)
        self._bar.update(progress.done - self._bar.n)
        counts = {"failed": progress.failed, "set aside": progress.set_aside, "workers lost": progress.crashes}
        shown = [f"{count} {what}" for what, count in counts.items() if count]
        waiting = f"waits: {progress.away[:80]}" if progress.away else ""
        self._bar.set_postfix_str(", ".join(filter(None, [*shown, waiting])), refresh=False)
