"""SIGINT and SIGTERM as requests to stop, so that a run ends between two steps, saved."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from grpo_train import distributed


@dataclass(slots=True)
class Stop:
    """A request to end the run, and whether all its processes have agreed on it.

    A signal may reach one process only, at any moment, so nothing may act on `wish` alone.
    """

    wish: str = ""  # this process's reason to stop
    reason: str = ""  # what was agreed, the same in every process

    def agreed(self) -> bool:
        """Whether any process of the run wants to stop; every process must call."""
        # Decided from what was gathered only: the others do not know a wish that came meanwhile.
        self.reason = next(filter(None, distributed.gather(self.wish)), "")
        return bool(self.reason)

    def because(self, reason: str) -> None:
        """Ask for an end; the first reason stays."""
        self.wish = self.wish or reason


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Within, SIGINT and SIGTERM end the run after the current step; a second one acts as usual."""
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
