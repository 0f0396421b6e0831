"""How a long run survives: the rows that are done, and a journal that says how far they go.

As long as OUT is not whole, a folder `.OUT.run` stands beside it:

    rows           encoded rows, appended batch by batch
    groups         digests of the groups so far, where the ruleset needs whole groups
    journal.json   what is scored with what, how far, and the running sums; replaced atomically

A kill at any moment leaves a journal that is true of the first bytes of `rows`; the bytes behind
them are cut off before the run goes on. OUT itself appears by a rename.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from typing import IO, Any

from grpo_rewards.data.jsonl import metadata_file
from grpo_rewards.errors import OutputError

try:
    import fcntl
except ImportError:  # no locks on this system, so two runs into one file go unnoticed
    fcntl = None  # type: ignore[assignment]

_START_OVER = "start over without --resume"
_SAVE_EVERY_S = 1.0  # the work that a kill can cost; an error or an interrupt costs none


def files_of(target: Path) -> list[Path]:
    """The existing files that a run into `target` may overwrite or remove."""
    found = [target, metadata_file(target)]
    with contextlib.suppress(OSError):  # the run itself reports what cannot be read or written
        found += _folder(target).rglob("*")
    return found


def _folder(target: Path) -> Path:
    return target.parent / f".{target.name}.run"


class Journal:
    """The rows of one unfinished output. `identity` is what scores depend on, by plain names."""

    def __init__(self, target: Path, identity: Mapping[str, Any]) -> None:
        self.target = target
        self.folder = _folder(target)
        self.rows = self.folder / "rows"
        self._groups = self.folder / "groups"
        self._journal = self.folder / "journal.json"
        self._identity = json.loads(json.dumps(identity))
        self._files: list[FileIO] = []
        self._lock: IO[bytes] | None = None
        self._state: dict[str, Any] = {"rows_bytes": 0, "groups_bytes": 0, "rows": 0}
        self._saved = 0.0
        self._is_ours = False

    def open(self, *, resume: bool) -> dict[str, Any] | None:
        """Begin, and return None; or resume, and return the state that was added last. OutputError
        where another run is writing, where the earlier run had other options, or where nothing can
        be written."""
        if self.target.is_dir():
            raise OutputError(f"{self.target}: a folder, not a file")
        with self._one_line_errors():
            self.folder.mkdir(exist_ok=True)
            self._lock = (self.folder / "lock").open("wb")
        self._take_lock()
        self._is_ours = True
        state = self._read() if resume else None
        if state is None:
            self._journal.unlink(missing_ok=True)
        else:
            self._state = state
        if state is None or self.rows.exists():  # else the rows have become OUT already
            with self._one_line_errors():
                self._files = [self._opened(self.rows), self._opened(self._groups)]
        return None if state is None else dict(state["of"])

    def _take_lock(self) -> None:
        if fcntl is None:
            return
        assert self._lock is not None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"{self.target}: another run is writing it") from None
        except OSError:  # a file system without locks
            return

    def _read(self) -> dict[str, Any] | None:
        """The journal; None where nothing was kept."""
        try:
            found = json.loads(self._journal.read_bytes())
            identity = dict(found["identity"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            message = f"{self._journal}: not a journal"
            raise OutputError(message, hint=_START_OVER) from None
        self._compare(identity)
        state: dict[str, Any] = found["state"]
        gone = not self.rows.exists()
        whole = gone and self.target.exists() and state["of"].get("complete")
        if not whole and (gone or self.rows.stat().st_size < state["rows_bytes"]):
            message = f"{self.rows}: shorter than its journal says"
            raise OutputError(message, hint=_START_OVER)
        return state

    def _compare(self, identity: Mapping[str, Any]) -> None:
        for name in self._identity:
            if identity.get(name) != self._identity[name]:
                was, now = _differing(identity.get(name), self._identity[name])
                message = (
                    f"{self.target}: the run that stopped had another {name}: {was}, not {now}"
                )
                raise OutputError(message, hint=f"give what it was begun with, or {_START_OVER}")

    def _opened(self, path: Path) -> FileIO:
        """A file cut off where the journal ends, open for appending."""
        file = path.open("ab", buffering=0)
        file.truncate(self._state[f"{path.name}_bytes"])
        return file

    def groups(self) -> bytes:
        """The digests of the groups that are done."""
        return self._groups.read_bytes()

    @property
    def done(self) -> int:
        """Rows that are kept."""
        return int(self._state["rows"])

    def add(self, rows: int, data: bytes, groups: bytes, state: Mapping[str, Any]) -> None:
        """Append a batch, and `state`, from which a run goes on after it."""
        with self._one_line_errors():
            for file, new in zip(self._files, (data, groups), strict=True):
                _append(file, new)
        self._state = {
            "rows_bytes": self._state["rows_bytes"] + len(data),
            "groups_bytes": self._state["groups_bytes"] + len(groups),
            "rows": self._state["rows"] + rows,
            "of": dict(state),
        }
        if time.monotonic() - self._saved >= _SAVE_EVERY_S:
            with self._one_line_errors():
                self._save()

    def _save(self) -> None:
        for file in self._files:
            os.fsync(file.fileno())
        _replace(self._journal, {"identity": self._identity, "state": self._state})
        self._saved = time.monotonic()

    def keep(self) -> int:
        """Close after an error; returns the number of rows that a later run finds, and leaves no
        trace where there are none."""
        if not self._is_ours:
            self._close()
            return 0
        if not self.done or "of" not in self._state:
            self._close()
            if not self._journal.exists():
                shutil.rmtree(self.folder, ignore_errors=True)
            return 0
        with contextlib.suppress(OSError):  # then the last journal that could be written holds
            for file in self._files:
                file.truncate(self._state[f"{Path(file.name).name}_bytes"])
            self._save()
        self._close()
        return self.done

    def finish(self, write: Callable[[Path, Path], None], metadata: Mapping[str, Any]) -> None:
        """Make OUT of the rows, which are complete: what `write(rows, new)` makes of them or, where
        that makes nothing, the rows as they are, with `metadata` in a file beside."""
        self._state["of"] = {**self._state.get("of", {}), "complete": True}
        with self._one_line_errors():
            self._save()
            new = self.folder / "new"
            if self.rows.exists():  # else a kill came right after the rename below
                self._write(write, new)
                if not new.exists():
                    _replace(metadata_file(self.target), metadata, indent=2)
                os.replace(new if new.exists() else self.rows, self.target)
        self._close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, write: Callable[[Path, Path], None], new: Path) -> None:
        try:
            write(self.rows, new)
        except BaseException:
            new.unlink(missing_ok=True)
            raise

    def _close(self) -> None:
        for file in (*self._files, self._lock):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()

    @contextlib.contextmanager
    def _one_line_errors(self) -> Any:
        """Turns what the system refuses into an OutputError of one line."""
        try:
            yield
        except OSError as error:
            cause = error.strerror or str(error).splitlines()[0]
            raise OutputError(f"{self.target}: cannot be written: {cause}") from None


def _append(file: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _differing(was: Any, now: Any) -> tuple[Any, Any]:
    """The first entries that differ, shortened for a message."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in {**was, **now}:
            if was.get(key) != now.get(key):
                return f"{key} {was.get(key)}", now.get(key)
    return tuple(f"{value!s:.40}" for value in (was, now))  # type: ignore[return-value]


def _replace(path: Path, value: Mapping[str, Any], *, indent: int | None = None) -> None:
    """Write JSON atomically: readers find the old file or the new one."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=indent)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
