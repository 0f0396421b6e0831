"""SIGINT and SIGTERM as a wish, so that a run ends between two steps with a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from grpo_train import distributed


@dataclass(slots=True)
class Stop:
    """A wish to end the run, and what all its processes have made of it.

    A signal may reach one process only, and at any moment: `wish` is for nobody to act upon.
    """

    wish: str = ""  # of this process
    reason: str = ""  # agreed: the same in every process

    def agreed(self) -> bool:
        """Whether any process of the run wishes to stop; every process must ask."""
        # Of what was gathered alone: a wish that comes meanwhile is not known to the others.
        self.reason = next(filter(None, distributed.gather(self.wish)), "")
        return bool(self.reason)

    def because(self, reason: str) -> None:
        """The first wish stays."""
        self.wish = self.wish or reason


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """SIGINT and SIGTERM ask for a checkpoint after the current step; a second one is as usual."""
    stop = Stop()
    previous: dict[int, Any] = {}

    def note(number: int, _: object) -> None:
        stop.because(signal.Signals(number).name)
        signal.signal(number, previous[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: the caller stops the run some other way
        pass
    try:
        yield stop
    finally:
        for received, handler in previous.items():
            signal.signal(received, handler)
