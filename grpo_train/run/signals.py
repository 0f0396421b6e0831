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
    """True once there is a reason to end the run."""

    reason: str = ""

    def __bool__(self) -> bool:
        return bool(self.reason)

    def agreed(self) -> bool:
        """Whether any process of the run has a reason: then all have it."""
        for reason in distributed.gather(self.reason):
            self.because(reason)
        return bool(self)

    def because(self, reason: str) -> None:
        """The first reason stays."""
        self.reason = self.reason or reason


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
