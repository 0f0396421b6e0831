"""Batches of a file scored in other processes, with a few of them in flight.

An executor takes the columns of a batch and gives something that will have its scores. Reading,
writing and the journal stay with the program, so a file is the same to the byte whoever scored it.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from grpo_rewards.columns import Status
from grpo_rewards.errors import RewardError
from grpo_rewards.limits import MAX_WORKER_MB
from grpo_rewards.scoring.scorer import Scorer
from grpo_rewards.scoring.scores import Scores
from grpo_rewards.scoring.workers import worker
from grpo_rewards.scoring.workers.pool import Workers

_BATCHES_EACH = 2  # in flight for every process: one that it works on, one that waits for it


class Pending(Protocol):
    """The scores of a batch, sooner or later."""

    def result(self) -> Scores:
        """Wait for them; raises what scoring raised."""
        ...


class BatchExecutor(Protocol):
    """Whatever scores batches elsewhere. It is busy as long as `ahead` batches are in flight."""

    @property
    def ahead(self) -> int: ...

    def submit(self, columns: Mapping[str, Any]) -> Pending:
        """Start to score a batch."""
        ...


class Processes:
    """An executor of `count` worker processes on this machine, each with a scorer of its own.

    Deadlines of slow checks hold inside them: a process that outlives one is replaced, and its
    batch is done again without that check. No process outlives the program. Use it as a context
    manager, or call `close`.
    """

    def __init__(self, scorer: Scorer, count: int) -> None:
        self.ahead = _BATCHES_EACH * count
        self._workers = Workers(
            processes=count,
            deadline_s=scorer.graph.settings.timeout_s,
            memory_mb=2 * MAX_WORKER_MB,  # batches come on top of what one check may take
            prepare=(_begin, (pickle.dumps(scorer),)),
        )
        self._threads = ThreadPoolExecutor(count, "scoring")  # each waits for a process

    def submit(self, columns: Mapping[str, Any]) -> Pending:
        return _Local(self._threads.submit(self._score, dict(columns)))

    def _score(self, columns: Mapping[str, Any]) -> Any:
        return self._workers.map_parts(_score, [(columns,)])[0]

    def close(self) -> None:
        """Wait for what is in flight, and end the processes."""
        self._threads.shutdown(cancel_futures=True)
        self._workers.close()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Local:
    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def result(self) -> Scores:
        found = self._future.result()
        if isinstance(found, Status):
            hint = "score in one process, without --processes"
            raise RewardError("a scoring process ran out of memory", hint=hint)
        scores: Scores = found
        return scores


_SCORER: Scorer | None = None  # that of this process, where it is a worker


def _begin(scorer: bytes) -> None:
    global _SCORER
    _SCORER = pickle.loads(scorer)
    assert _SCORER is not None and worker.WATCH is not None
    _SCORER.do_slow_work_in(worker.Watched(worker.WATCH))


def _score(columns: Mapping[str, Any]) -> Scores:
    assert _SCORER is not None
    return _SCORER(**columns)
