"""Batches of a file scored in other processes, in order, with a few of them in flight.

An engine is told a batch's columns and gives something that will have its scores. Reading, writing
and the journal stay with the program, so a file is the same to the byte whoever scored it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, Protocol

from grpo_rewards.errors import RewardError
from grpo_rewards.scorer import Scorer
from grpo_rewards.scores import Scores

_BATCHES_EACH = 2  # in flight for every process: one that it works on, one that waits for it


class Pending(Protocol):
    """The scores of a batch, sooner or later."""

    def result(self) -> Scores:
        """Waits for them; raises what scoring raised."""
        ...


class Engine(Protocol):
    """Whatever scores batches elsewhere. `ahead` batches keep it busy."""

    @property
    def ahead(self) -> int: ...

    def submit(self, columns: Mapping[str, Any]) -> Pending:
        """Begin with a batch."""
        ...


class Processes:
    """An engine of `count` processes on this machine, each with a scorer of its own.

    They end with `close`, with the `with` block, or with the program, however that ends. What slow
    checks take counts inside each of them, as it does here.
    """

    def __init__(self, scorer: Scorer, count: int) -> None:
        self.ahead = _BATCHES_EACH * count
        self._pool = ProcessPoolExecutor(
            count,
            mp_context=multiprocessing.get_context("spawn"),  # threads and locks are not copied
            initializer=_begin,
            initargs=(pickle.dumps(scorer),),
        )

    def submit(self, columns: Mapping[str, Any]) -> Pending:
        return _Local(self._pool.submit(_score, dict(columns)))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Local:
    def __init__(self, future: Future[Scores]) -> None:
        self._future = future

    def result(self) -> Scores:
        try:
            return self._future.result()
        except BrokenProcessPool:
            hint = "hint: it may have run out of memory; use fewer --processes"
            raise RewardError(f"a scoring process died\n  {hint}") from None


_SCORER: Scorer | None = None  # of this process, where it is one of `Processes`


def _begin(scorer: bytes) -> None:
    global _SCORER
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's ^C is the program's to handle
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    _SCORER = pickle.loads(scorer)


def _end_with_the_parent() -> None:
    """A killed program takes its processes along: their queue alone would keep them waiting."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _score(columns: Mapping[str, Any]) -> Scores:
    assert _SCORER is not None
    return _SCORER(**columns)
