"""What keyed work found, kept across batches; on disk too, where the caller wants it.

Memory holds the latest verdicts of one scorer. A `DiskMemo` holds what slow work came to (SymPy, a
format that may backtrack) for later runs over the same data, under a key of the rule, its
arguments and the versions of all engines. Fast work is not stored: to do it again is cheaper than
to read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpo_rewards.columns import Outcome, Status
from grpo_rewards.errors import BatchError
from grpo_rewards.limits import MAX_MEMO_ENTRIES, MAX_MEMO_MB


class Memo:
    """What keyed ops found, across batches; the oldest entries go first. Threads may share it."""

    def __init__(self, limit: int = MAX_MEMO_ENTRIES, disk: DiskMemo | None = None) -> None:
        self._found: dict[Any, Outcome] = {}
        self._limit = limit
        self.disk = disk

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: Any) -> Outcome | None:
        """What was found for a key, or None."""
        return self._found.get(key)

    def put(self, key: Any, outcome: Outcome) -> None:
        """Remember an outcome; with a limit of 0 nothing is."""
        if self._limit <= 0:
            return
        if len(self._found) >= self._limit:
            with contextlib.suppress(StopIteration, RuntimeError):  # another thread was faster
                self._found.pop(next(iter(self._found)), None)
        self._found[key] = outcome


class DiskMemo:
    """Outcomes of slow work in a folder that processes may share; needs `diskcache`.

    Values are JSON (no pickles are read), bounded in size; the least recently stored go first.
    """

    def __init__(self, folder: str | Path, *, versions: object = "") -> None:
        try:
            import diskcache
        except ImportError:
            hint = 'hint: pip install "grpo-rewards[memo]"'
            raise BatchError(f"a memo on disk needs diskcache\n  {hint}") from None
        try:
            self._cache = diskcache.Cache(
                str(folder),
                disk=diskcache.JSONDisk,
                disk_compress_level=0,
                size_limit=MAX_MEMO_MB * 2**20,
            )
        except OSError as error:
            raise BatchError(f"{folder}: no memo can be kept here: {error.strerror}") from None
        self._versions = repr(versions)

    def get(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Outcome | None:
        """What `function(*args)` came to in an earlier run, or None."""
        found = self._cache.get(self._key(function, args))
        return None if found is None else Outcome(found[0], Status(found[1]))

    def put(self, function: Callable[..., Any], args: tuple[Any, ...], outcome: Outcome) -> None:
        """Store a plain value and its status; others, and what the clock cut short, are not."""
        value, status = outcome
        if isinstance(value, bool | int | float | None) and status != Status.TIMEOUT:
            self._cache.set(self._key(function, args), [value, int(status)])

    def _key(self, function: Callable[..., Any], args: tuple[Any, ...]) -> str:
        written = pickle.dumps((self._versions, function.__module__, function.__qualname__, args))
        return hashlib.blake2b(written, digest_size=20).hexdigest()

    def close(self) -> None:
        """Close the database; the entries stay."""
        self._cache.close()
