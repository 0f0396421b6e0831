"""Group ids: as keys, as digests, and whether one was there before, in little memory."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt

_PENDING = 8192  # digests that wait to be sorted in


class SeenGroups:
    """The digests of the groups so far, at 8 bytes a group.

    Among a million groups, two share a digest with a chance below 1 in 10 million.
    """

    def __init__(self, digests: bytes = b"") -> None:
        self._sorted: npt.NDArray[np.uint64] = np.unique(np.frombuffer(digests, np.uint64))
        self._pending: set[int] = set()

    def add(self, digest: bytes) -> bool:
        """Take in a group; False where it was there before."""
        number = int.from_bytes(digest, "little")
        place = int(np.searchsorted(self._sorted, np.uint64(number)))
        known = place < len(self._sorted) and int(self._sorted[place]) == number
        if known or number in self._pending:
            return False
        self._pending.add(number)
        if len(self._pending) >= max(_PENDING, len(self._sorted) // 8):
            fresh = np.fromiter(self._pending, np.uint64, len(self._pending))
            self._sorted = np.union1d(self._sorted, fresh)
            self._pending.clear()
        return True


def group_key(value: Any) -> Any:
    """A group id that can be hashed: lists and objects by their text."""
    return value if isinstance(value, str | int | float) else json.dumps(value, default=str)


def group_digest(key: Any) -> bytes:
    """8 bytes that stand for a group id in every process; equal numbers (1, 1.0, True) have equal
    ones, as they are equal in Python."""
    if isinstance(key, float) and key.is_integer():
        key = int(key)
    if isinstance(key, bool):
        key = int(key)
    written = f"{type(key).__name__} {key}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(written, digest_size=8).digest()
