"""Work of doubtful length, in processes that can be killed.

No signals are used, so deadlines work from any thread, under asyncio, in notebooks and data
loaders, and inside Ray. The deadline of an item counts from the start of its work. A worker that
outlives it is killed and replaced; only that item is lost, and what else the worker held is done
again. A worker that dies by itself costs its item only when it dies over it again and again.
"""

from __future__ import annotations

import atexit
import os
import pickle
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

from grpo_rewards.columns import Status
from grpo_rewards.errors import RewardError, RuleError
from grpo_rewards.limits import MAX_DEATHS, MAX_WORKER_MB
from grpo_rewards.scoring.workers.fork_server import ForkServer
from grpo_rewards.scoring.workers.worker import Key

CHUNK_ITEMS = 64  # in one message: enough to hide its cost, few enough to share among workers


class Inline:
    """The methods of `Workers` without processes: work runs here, within the counted bounds."""

    kills = 0

    def map(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """`function(*args)` for each tuple of arguments."""
        return [function(*args) for args in arguments]


@dataclass(slots=True, eq=False)
class _Worker:
    """A worker process: its pid and the connection to it; `fresh` until it is prepared."""

    pid: int
    connection: Any
    fresh: bool = True


@dataclass(slots=True)
class _Job:
    """Items that travel together.

    `at` is the key that the worker is working on `since` a moment (None while no deadline runs),
    `lost` what was cut short inside of an item, and `deaths` counts the workers that died by key.
    """

    items: list[tuple[int, tuple[Any, ...]]]
    lost: dict[Key, Status] = field(default_factory=dict)
    deaths: Counter[Key | None] = field(default_factory=Counter)
    at: Key | None = None
    since: float = 0.0


class Workers:
    """Worker processes with a deadline and a memory limit each; started when needed.

    Any number of threads may share them. `prepare`, a function and its arguments, runs once in
    every new worker. `kills` counts the deadlines that struck.

    >>> with Workers(deadline_s=30) as workers:
    ...     workers.map(divmod, [(7, 2), (9, 4)])
    [(3, 1), (2, 1)]
    """

    def __init__(
        self,
        *,
        processes: int = 1,
        deadline_s: float = 2.0,
        memory_mb: int = MAX_WORKER_MB,
        prepare: tuple[Callable[..., Any], tuple[Any, ...]] | None = None,
    ) -> None:
        self.processes = processes
        self.kills = 0
        self._deadline_s = deadline_s
        self._memory_mb = memory_mb
        self._prepare = prepare
        self._reset()

    def _reset(self) -> None:
        self._idle: list[_Worker] = []
        self._live = 0
        self._free = threading.Condition()

    def map(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """One result per tuple of arguments, in order; TIMEOUT, TOO_LARGE (memory) or FAILED (the
        process died, again and again) where there is none. What `function` itself raises is a
        RuleError. Functions are found by their names: of a module, not of `__main__`."""
        size = max(1, min(CHUNK_ITEMS, -(-len(arguments) // (2 * self.processes))))
        items = list(enumerate(arguments))
        jobs = [_Job(items[i : i + size]) for i in range(0, len(items), size)]
        return _MapCall(self, function, jobs, len(items), armed=True).results()

    def map_parts(
        self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """As `map`, for work that may take its time: deadlines count only inside of it, where it
        goes through `worker.Watched`. A part comes back whole; RuleError where none can."""
        jobs = [_Job([item]) for item in enumerate(arguments)]
        return _MapCall(self, function, jobs, len(jobs), armed=False).results()

    # What one call of `map` takes and gives back

    def take(self, *, block: bool) -> _Worker | None:
        """A worker that nobody else holds; None where all are busy and `block` is false."""
        with self._free:
            while not self._idle and self._live >= self.processes:
                if not block:
                    return None
                self._free.wait()
            if self._idle:
                return self._idle.pop()
            self._live += 1
        try:
            return self._start()
        except BaseException:
            self._lost_one()
            raise

    def _start(self) -> _Worker:
        _OPEN.add(self)
        worker = _Worker(*_start_worker(self._memory_mb))
        worker.connection.send_bytes(pickle.dumps(("path", sys.path)))
        return worker

    def give_back(self, worker: _Worker) -> None:
        """Give an idle worker back, for any thread to take."""
        with self._free:
            self._idle.append(worker)
            self._free.notify()

    def kill(self, worker: _Worker) -> None:
        """End a worker that is stuck or dead; the next `take` starts another."""
        worker.connection.close()
        _kill_worker(worker.pid)
        self._lost_one()

    def _lost_one(self) -> None:
        with self._free:
            self._live -= 1
            self._free.notify()

    def task(self, worker: _Worker, job: _Job, function: Callable[..., Any], armed: bool) -> bytes:
        """The message that starts a job."""
        prepare = self._prepare if worker.fresh else None
        worker.fresh = False
        work = pickle.dumps((function, job.items), pickle.HIGHEST_PROTOCOL)
        return pickle.dumps(("task", prepare, work, job.lost, armed), pickle.HIGHEST_PROTOCOL)

    @property
    def deadline_s(self) -> float:
        """Seconds that one item may take."""
        return self._deadline_s

    def close(self) -> None:
        """End the idle processes; the next `map` starts new ones."""
        with self._free:
            idle, self._idle = self._idle, []
        for worker in idle:
            self.kill(worker)
        _OPEN.discard(self)
        close_fork_server(unused=True)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _MapCall:
    """One call of `map`: jobs, the workers that hold one, and the results so far."""

    def __init__(
        self,
        workers: Workers,
        function: Callable[..., Any],
        jobs: Sequence[_Job],
        size: int,
        *,
        armed: bool,
    ) -> None:
        self._workers = workers
        self._function = function
        self._armed = armed
        self._waiting = deque(jobs)
        self._held: dict[Any, tuple[_Worker, _Job]] = {}
        self._found: list[Any] = [None] * size
        self._error: RewardError | None = None

    def results(self) -> list[Any]:
        try:
            while self._waiting or self._held:
                self._share_out()
                self._listen()
                self._strike()
                if self._error is not None:
                    raise self._error
        finally:  # after an error or an interrupt nobody waits for these workers
            for worker, _ in self._held.values():
                self._workers.kill(worker)
        return self._found

    def _share_out(self) -> None:
        while self._waiting:
            worker = self._workers.take(block=not self._held)
            if worker is None:
                return
            job = self._waiting.popleft()
            self._held[worker.connection] = worker, job
            task = self._workers.task(worker, job, self._function, self._armed)
            try:
                worker.connection.send_bytes(task)
            except OSError:
                self._died(worker, job)

    def _listen(self) -> None:
        ready: list[Any] = wait(list(self._held), timeout=self._patience())
        for connection in ready:
            worker, job = self._held[connection]
            try:
                while connection in self._held and connection.poll():
                    self._hear(worker, job, *pickle.loads(connection.recv_bytes()))
            except (EOFError, OSError, pickle.UnpicklingError):
                self._died(worker, job)

    def _patience(self) -> float | None:
        """Seconds until the next deadline."""
        ends = [job.since for _, job in self._held.values() if job.at is not None]
        if not ends:
            return None
        return max(0.0, min(ends) + self._workers.deadline_s - time.monotonic())

    def _hear(self, worker: _Worker, job: _Job, kind: str, *rest: Any) -> None:
        match kind:
            case "at":
                key, found = rest
                self._keep(job, found)
                job.at, job.since = key, time.monotonic()
            case "off":
                job.at = None
            case "done":
                self._keep(job, rest[0])
                self._release(worker)
            case "failed":
                place, error = rest
                known = isinstance(error, RuleError) and self._armed
                self._error = RuleError(error.rule, place, error.cause) if known else error
                self._release(worker)

    def _keep(self, job: _Job, found: Sequence[tuple[int, Any]]) -> None:
        for place, result in found:
            self._found[place] = result
        if found:
            known = {place for place, _ in found}
            job.items = [item for item in job.items if item[0] not in known]

    def _release(self, worker: _Worker) -> None:
        del self._held[worker.connection]
        self._workers.give_back(worker)

    def _strike(self) -> None:
        """Kill the workers whose item outlived its deadline, unless a message of theirs waits."""
        now = time.monotonic()
        for worker, job in list(self._held.values()):
            late = job.at is not None and now - job.since >= self._workers.deadline_s
            if late and not worker.connection.poll():
                self._workers.kills += 1
                self._drop(worker, job, Status.TIMEOUT)

    def _died(self, worker: _Worker, job: _Job) -> None:
        """A worker died by itself: its job is tried again, a few times."""
        job.deaths[job.at] += 1
        if job.deaths[job.at] < MAX_DEATHS:
            self._drop(worker, job, None)
        elif job.at is not None:
            self._drop(worker, job, Status.FAILED)
        else:
            place = job.items[0][0]
            self._drop(worker, job, None)
            cause = f"its worker process died {MAX_DEATHS} times"
            self._error = RuleError(self._function.__name__, place, cause)

    def _drop(self, worker: _Worker, job: _Job, status: Status | None) -> None:
        """End a worker and let its job wait again, without the item that was lost."""
        del self._held[worker.connection]
        self._workers.kill(worker)
        if status is not None and isinstance(job.at, int):
            self._keep(job, [(job.at, status)])
        elif status is not None and job.at is not None:
            job.lost[job.at] = status
        job.at = None
        if job.items:
            self._waiting.appendleft(job)


#: The one fork server of this program, and the pools that have workers of it.
_SERVER: ForkServer | None = None
_OPEN: weakref.WeakSet[Workers] = weakref.WeakSet()
_LOCK = threading.RLock()


def _start_worker(memory_mb: int) -> tuple[int, Any]:
    global _SERVER
    for attempt in range(MAX_DEATHS):
        with _LOCK:
            if _SERVER is None:
                _SERVER = ForkServer()
            server = _SERVER
        try:
            return server.start(memory_mb)
        except OSError as error:  # somebody killed the server; its workers died with it
            with _LOCK:
                if _SERVER is server:
                    close_fork_server()
            if attempt == MAX_DEATHS - 1:
                raise RewardError(f"no worker process can be started: {error}") from error
    raise AssertionError


def _kill_worker(pid: int) -> None:
    with _LOCK:
        server = _SERVER
    if server is not None:
        server.kill(pid)


@atexit.register
def close_fork_server(*, unused: bool = False) -> None:
    """End the fork server with all workers; with `unused` only where no pool may have some."""
    global _SERVER
    with _LOCK:
        if unused and len(_OPEN):
            return
        server, _SERVER = _SERVER, None
    if server is not None:
        server.close()


def _after_fork() -> None:
    """A forked copy of the program starts processes of its own and leaves those of the original."""
    global _SERVER, _LOCK
    _LOCK = threading.RLock()
    if _SERVER is not None:
        _SERVER.forget()
        _SERVER = None
    for workers in list(_OPEN):
        for worker in workers._idle:
            worker.connection.close()
        workers._reset()


os.register_at_fork(after_in_child=_after_fork)
