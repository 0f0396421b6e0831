"""What keyed work found, kept from batch to batch, and on disk where the caller wants it.

Memory holds the latest verdicts of one scorer. A `DiskMemo` holds what slow work came to (SymPy, a
format that may backtrack) for later runs over the same data, under a key of the rule, its
arguments, the versions of all libraries and the code of the rules. Fast work is not stored: to do
it again is cheaper than to read it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import math
import os
import pickle
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpo_rewards.columns import Outcome, Status
from grpo_rewards.errors import OutputError
from grpo_rewards.limits import MAX_MEMO_ENTRIES, MAX_MEMO_MB

FILE = "verdicts.sqlite3"
_PAGE_BYTES = 4096
_WAIT_S = 10.0  # how long to wait for another process that writes
_SETUP = f"""
PRAGMA page_size = {_PAGE_BYTES};
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS verdicts (
  key BLOB NOT NULL UNIQUE, value TEXT NOT NULL, status INTEGER NOT NULL, seal BLOB NOT NULL
);
"""


class Memo:
    """What keyed ops found, across batches. Threads may share it.

    It has two halves: the younger takes what is new or asked for again; when it is full it becomes
    the older one, and what that held is forgotten. So entries that nobody asks for go first, and
    forgetting costs nothing.
    """

    def __init__(self, limit: int = MAX_MEMO_ENTRIES, disk: DiskMemo | None = None) -> None:
        self._young: dict[Any, Outcome] = {}
        self._old: dict[Any, Outcome] = {}
        self._half = limit // 2
        self.disk = disk

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: Any) -> Outcome | None:
        """What was found for a key, or None."""
        found = self._young.get(key)
        if found is None:
            found = self._old.get(key)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: Any, outcome: Outcome) -> None:
        """Remember an outcome; with a limit of 0 nothing is."""
        if self._half <= 0:
            return
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}
        self._young[key] = outcome


def database_files(folder: Path) -> list[Path]:
    """The files of a memo: SQLite's own, which are made anew where they are damaged."""
    return [folder / f"{FILE}{ending}" for ending in ("", "-wal", "-shm")]


class DiskMemo:
    """Outcomes of slow work in a folder that threads and processes may share.

    Entries are plain JSON under a seal: what is damaged, or of another version, counts as not
    there, and no pickle is ever read. At most `limit_mb` are kept; the oldest go first. A memo
    that cannot be read or written costs time, never a score.
    """

    def __init__(
        self, folder: str | Path, *, versions: object = "", limit_mb: float = MAX_MEMO_MB
    ) -> None:
        self.folder = Path(folder)
        self._path = self.folder / FILE
        self._versions = repr((versions, code_digest()))
        self._pages = max(16, int(limit_mb * 2**20 / _PAGE_BYTES))
        self._lock = threading.RLock()
        self._pid = 0
        self._database: sqlite3.Connection | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._open()
        except (OSError, sqlite3.Error) as error:
            cause = getattr(error, "strerror", None) or str(error)
            raise OutputError(f"{folder}: no memo can be kept here: {cause}") from None

    def get(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Outcome | None:
        """What `function(*args)` came to in an earlier run, or None."""
        key = self._key(function, args)
        if key is None:
            return None
        query = "SELECT value, status, seal FROM verdicts WHERE key = ?"
        found = self._ask(lambda database: database.execute(query, (key,)).fetchone())
        return _read(key, *found) if found else None

    def put(self, function: Callable[..., Any], args: tuple[Any, ...], outcome: Outcome) -> None:
        """Store a plain value and its status; others, and what was cut short, are not."""
        value, status = outcome
        if not isinstance(value, bool | int | float | None) or (value is None and status.is_error):
            return
        key = self._key(function, args)
        if key is not None:
            text = json.dumps(value)
            row = (key, text, int(status), _seal(key, text, int(status)))
            self._ask(lambda database: _store(database, row))

    def close(self) -> None:
        """Close the database; the entries stay."""
        with self._lock:
            if self._database is not None and self._pid == os.getpid():
                self._database.close()
            self._database = None

    def _key(self, function: Callable[..., Any], args: tuple[Any, ...]) -> bytes | None:
        written = io.BytesIO()
        pickler = pickle.Pickler(written)
        pickler.fast = True  # equal arguments give equal bytes, whether or not they share objects
        try:
            pickler.dump((self._versions, function.__module__, function.__qualname__, args))
        except (pickle.PicklingError, TypeError, AttributeError, RecursionError):
            return None
        return hashlib.blake2b(written.getvalue(), digest_size=20).digest()

    def _ask(self, do: Callable[[sqlite3.Connection], Any]) -> Any:
        """What `do` gives; None where the database fails, as if nothing were stored."""
        with self._lock, contextlib.suppress(OSError, sqlite3.Error):
            if self._pid != os.getpid():  # a forked copy must not use its parent's connection
                self._database = None
            if self._database is None:
                self._open()
            assert self._database is not None
            return do(self._database)
        return None

    def _open(self) -> None:
        try:
            self._database = self._connect()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:  # no database, or a damaged one: begin anew
            for path in database_files(self.folder):
                path.unlink(missing_ok=True)
            self._database = self._connect()
        self._pid = os.getpid()

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(
            self._path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False
        )
        try:
            database.executescript(_SETUP)
            database.execute(f"PRAGMA max_page_count = {self._pages}")
            _check_shape(database)
        except sqlite3.Error:
            database.close()
            raise
        return database


def _check_shape(database: sqlite3.Connection) -> None:
    try:
        database.execute("SELECT key, value, status, seal FROM verdicts LIMIT 1").fetchone()
    except sqlite3.OperationalError as error:
        raise sqlite3.DatabaseError(f"a table of another shape: {error}") from error


def _store(database: sqlite3.Connection, row: tuple[bytes, str, int, bytes]) -> None:
    insert = "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?)"
    try:
        database.execute(insert, row)
    except sqlite3.OperationalError:  # full
        _make_room(database)
        database.execute(insert, row)


def _make_room(database: sqlite3.Connection) -> None:
    """Drop the oldest quarter."""
    first, last = database.execute("SELECT min(rowid), max(rowid) FROM verdicts").fetchone()
    if first is not None:
        bound = first + max(1, (last - first) // 4)
        database.execute("DELETE FROM verdicts WHERE rowid < ?", (bound,))


def _seal(key: bytes, text: str, status: int) -> bytes:
    return hashlib.blake2b(key + f"{status} {text}".encode(), digest_size=8).digest()


def _read(key: bytes, text: Any, status: Any, seal: Any) -> Outcome | None:
    """The outcome of an entry that is what `put` wrote, else None."""
    if not isinstance(text, str) or not isinstance(status, int):
        return None
    if _seal(key, text, status) != seal:
        return None
    try:
        value, why = json.loads(text), Status(status)
    except ValueError:
        return None
    if not isinstance(value, bool | int | float | None):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return Outcome(value, why)


@functools.cache
def code_digest() -> str:
    """A digest of the code that verdicts come from: all rules and grammars. While a version is in
    development its code changes and its number does not."""
    found = hashlib.blake2b(digest_size=8)
    home = Path(__file__).parent.parent
    for path in sorted((*home.glob("rules/**/*.py"), *home.glob("grammars/*.lark"))):
        found.update(str(path.relative_to(home)).encode() + path.read_bytes())
    return found.hexdigest()
