"""Work of doubtful length, in processes that can be killed.

No signals: deadlines work from any thread, under asyncio, and wherever processes can be started.
The deadline of an item counts from the start of its work. A worker that outlives it is killed and
replaced, and only its own item is lost.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from grpo_rewards.columns import Status
from grpo_rewards.errors import RuleError


class Inline:
    """The same face without processes: work runs here, within the counted bounds alone."""

    def map(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """`function(*args)` for each tuple of arguments."""
        return [function(*args) for args in arguments]


class Workers:
    """Spawned worker processes with a deadline and a memory limit each; started when needed.

    >>> with Workers(deadline_s=30) as workers:
    ...     workers.map(divmod, [(7, 2), (9, 4)])
    [(3, 1), (2, 1)]
    """

    def __init__(
        self, *, processes: int = 1, deadline_s: float = 2.0, memory_mb: int = 1024
    ) -> None:
        self._processes = processes
        self._deadline_s = deadline_s
        self._memory_mb = memory_mb
        self._pool: Any = None
        self._lock = threading.Lock()

    def map(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """One result per tuple of arguments, in order; TIMEOUT, TOO_LARGE (memory) or FAILED (the
        process died) where there is none. What `function` itself raises is a RuleError."""
        from pebble import ProcessExpired

        pool = self._started()
        futures = [
            pool.schedule(function, args=args, timeout=self._deadline_s) for args in arguments
        ]
        results: list[Any] = []
        for row, future in enumerate(futures):
            try:
                results.append(future.result())
            except FutureTimeout:
                results.append(Status.TIMEOUT)
            except MemoryError:
                results.append(Status.TOO_LARGE)
            except ProcessExpired:
                results.append(Status.FAILED)
            except Exception as error:
                raise RuleError(function.__name__, row, repr(error)) from error
        return results

    def _started(self) -> Any:
        from pebble import ProcessPool

        with self._lock:
            if self._pool is None:
                self._pool = ProcessPool(
                    max_workers=self._processes,
                    context=multiprocessing.get_context("spawn"),
                    initializer=_prepare,
                    initargs=[self._memory_mb],
                )
                _OPEN.add(self)
            return self._pool

    def close(self) -> None:
        """Kill the processes; the next `map` starts new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()
            pool.join()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


#: Pools that the interpreter's end has to close.
_OPEN: weakref.WeakSet[Workers] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for workers in list(_OPEN):
        workers.close()


def _prepare(memory_mb: int) -> None:
    """In a new worker: limit its memory, and pay for SymPy's import before the first deadline."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt ends
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        limit = memory_mb * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    import sympy  # noqa: F401
