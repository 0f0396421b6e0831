"""What a worker process does: it takes a task, tells which item it begins, and sends results.

Before an item of doubtful length begins the worker says so, and the program counts the deadline of
that item from there. The results so far go with that message, so a worker that is killed loses only
the item that it was working on.
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
    """The worker's line to the program: tells what it is working on. `lost` holds, by their keys,
    what earlier workers lost of the same task."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.lost: Mapping[Key, Status] = {}

    def at(self, key: Key, found: Sequence[Any] = ()) -> None:
        """The deadline of `key` begins; `found` holds the results since the last message."""
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
    """Runs work of doubtful length inside a worker, with the deadlines that the program counts.

    What was lost before is not tried again: the program sends a part a second time together with
    what it lost.
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


#: The line of this process to the program, where it is a worker.
WATCH: Watch | None = None


def serve_tasks(connection: Any) -> None:
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
    except (EOFError, OSError):  # the program has gone, or closed the connection
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
