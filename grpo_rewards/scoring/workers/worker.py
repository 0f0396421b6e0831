"""What a worker process does: take a task, say which item it is at, send what it found.

Before work of doubtful length begins the worker says so, and the program counts that item's
deadline from there. It goes with the results since the last word, so a killed worker loses only
what it was at.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpo_rewards.columns import Status
from grpo_rewards.errors import RewardError, RuleError

#: An item of a task by its place, or work inside an item by the digest of its arguments.
Key = int | bytes


class Watch:
    """The worker's word to the program: at what it is, and what was lost at it before."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.lost: Mapping[Key, Status] = {}

    def at(self, key: Key, found: Sequence[Any] = ()) -> None:
        """The deadline of `key` begins; `found` are results since the last word."""
        self._say("at", key, found)

    def off(self) -> None:
        """No deadline runs."""
        self._say("off")

    def done(self, found: Sequence[Any]) -> None:
        self._say("done", found)

    def failed(self, place: int, error: BaseException) -> None:
        self._say("failed", place, error)

    def _say(self, *message: Any) -> None:
        self._connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


class Watched:
    """In a worker: runs work of doubtful length here, under the program's eyes.

    What was lost before is not tried again: the program sends a part again with what it lost.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def map(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """One result per tuple of arguments; a Status where the work was cut short."""
        results = []
        for args in arguments:
            key = _digest(function, args)
            if key in self._watch.lost:
                results.append(self._watch.lost[key])
                continue
            self._watch.at(key)
            try:
                results.append(function(*args))
            except MemoryError:
                results.append(Status.TOO_LARGE)
            self._watch.off()
        return results


def _digest(function: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    written = pickle.dumps((function.__module__, function.__qualname__, args))
    return hashlib.blake2b(written, digest_size=16).digest()


#: The watch of this process, where it is a worker.
WATCH: Watch | None = None


def serve(connection: Any) -> None:
    """Run tasks until the program closes the connection."""
    global WATCH
    watch = WATCH = Watch(connection)
    try:
        while True:
            kind, *task = pickle.loads(connection.recv_bytes())
            if kind == "path":
                sys.path[:] = task[0]
            else:
                _run(watch, *task)
    except (EOFError, OSError):  # the program is gone, or has let us go
        return


def _run(
    watch: Watch,
    prepare: tuple[Callable[..., Any], tuple[Any, ...]] | None,
    function_and_items: bytes,
    lost: Mapping[Key, Status],
    armed: bool,
) -> None:
    watch.lost = lost
    found: list[Any] = []
    place = 0
    try:
        if prepare is not None:
            prepare[0](*prepare[1])
        function, items = pickle.loads(function_and_items)
        for place, args in items:
            if armed:
                watch.at(place, found)
                found = []
            found.append((place, _tried(function, args)))
        watch.done(found)
    except RewardError as error:
        watch.failed(place, error)
    except (ImportError, AttributeError, pickle.PickleError) as error:  # what cannot travel
        watch.failed(place, RuleError("worker", place, repr(error)))


def _tried(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    try:
        return function(*args)
    except MemoryError:
        return Status.TOO_LARGE
    except RewardError:
        raise
    except Exception as error:
        raise RuleError(function.__name__, 0, repr(error)) from error
