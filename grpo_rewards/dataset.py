"""Datasets in and out: JSON lines and Parquet, a batch at a time, written atomically."""

from __future__ import annotations

import difflib
import gzip
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from grpo_rewards.errors import BatchError

_KINDS = {".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows: the records as they were read, and the columns that were asked for."""

    rows: list[dict[str, Any]]
    columns: dict[str, list[Any]]
    start: int

    def head(self, count: int) -> Batch:
        """The first rows only."""
        columns = {name: values[:count] for name, values in self.columns.items()}
        return Batch(self.rows[:count], columns, self.start)


@dataclass(slots=True)
class Dataset:
    """A file of rows. `skipped` counts unreadable lines that were passed over."""

    path: Path
    kind: str
    on_bad_line: str = "error"
    skipped: int = 0

    def fields(self) -> list[str]:
        """The names of the columns, from the first row or the schema."""
        if self.kind == "parquet":
            return list(_parquet(self.path).schema_arrow.names)
        for row in self._records():
            return list(row)
        raise BatchError(f"{self.path}: no rows")

    def count(self) -> int | None:
        """The number of rows where that is cheap to know."""
        if self.kind == "parquet":
            return int(_parquet(self.path).metadata.num_rows)
        if self.path.suffix == ".gz":
            return None
        with self.path.open("rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))

    def batches(
        self, size: int, *, columns: Mapping[str, str], group: str | None = None
    ) -> Iterator[Batch]:
        """Batches of at least `size` rows (the last may have fewer); adjacent rows of one group
        stay together. `columns` maps names to dotted paths into the records."""
        rows: list[dict[str, Any]] = []
        start = 0
        previous: Any = None
        for row in self._records():
            key = _lookup(row, group) if group else None
            if len(rows) >= size and (not group or key != previous):
                yield self._batch(rows, columns, start)
                start += len(rows)
                rows = []
            rows.append(row)
            previous = key
        if rows:
            yield self._batch(rows, columns, start)

    def _batch(self, rows: list[dict[str, Any]], columns: Mapping[str, str], start: int) -> Batch:
        found: dict[str, list[Any]] = {}
        for name, path in columns.items():
            values = [_lookup(row, path) for row in rows]
            if all(value is _NOWHERE for value in values):
                raise self._missing(path, rows[0])
            found[name] = [None if value is _NOWHERE else value for value in values]
        return Batch(rows, found, start)

    def _missing(self, path: str, row: Mapping[str, Any]) -> BatchError:
        close = difflib.get_close_matches(path, _paths(row), n=1)
        hint = f"did you mean `{close[0]}`? " if close else ""
        known = ", ".join(row)
        return BatchError(
            f"{self.path}: no column `{path}`; the file has {known}"
            f"\n  hint: {hint}bind it with --map INPUT=COLUMN"
        )

    def _records(self) -> Iterator[dict[str, Any]]:
        if self.kind == "parquet":
            for batch in _parquet(self.path).iter_batches(1024):
                yield from batch.to_pylist()
            return
        with _open_text(self.path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    record = self._record(line, number)
                    if record is not None:
                        yield record

    def _record(self, line: bytes, number: int) -> dict[str, Any] | None:
        try:
            row = _loads(line.removeprefix(b"\xef\xbb\xbf"))
        except ValueError as error:
            if self.on_bad_line == "skip":
                self.skipped += 1
                return None
            column = getattr(error, "colno", 1)
            hint = "mend the line, or pass over such lines with --skip-bad-lines"
            raise BatchError(f"{self.path}:{number}:{column}: not JSON\n  hint: {hint}") from None
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise BatchError(f"{self.path}:{number}: a row is an object, not a {kind}")
        return row


def _loads(line: bytes) -> Any:
    """orjson, and the standard library for what it refuses (lone surrogates, NaN)."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return json.loads(line.decode("utf-8", "surrogatepass"))


def _open_text(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise BatchError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from None


_NOWHERE: Any = object()


def _lookup(row: Any, path: str | None) -> Any:
    """The value at a dotted path; a column whose own name has dots comes first."""
    if path is None:
        return None
    if isinstance(row, dict) and path in row:
        return row[path]
    value = row
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.lstrip("-").isdigit():
            index = int(part)
            if not -len(value) <= index < len(value):
                return _NOWHERE
            value = value[index]
        else:
            return _NOWHERE
    return value


def _paths(row: Mapping[str, Any], prefix: str = "") -> list[str]:
    """All dotted paths of a record, two levels deep."""
    found: list[str] = []
    for name, value in row.items():
        found.append(prefix + name)
        if isinstance(value, dict) and not prefix:
            found += _paths(value, f"{name}.")
    return found


def _kind(path: Path) -> str | None:
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    return _KINDS.get(suffix.lower())


def open_dataset(path: str | Path, *, on_bad_line: str = "error") -> Dataset:
    """A dataset by its path: .jsonl, .jsonl.gz or .parquet. BatchError in one line where there is
    no such file, it is empty, or it is something else than its name says."""
    path = Path(path)
    kind = _kind(path)
    if not path.exists():
        raise BatchError(f"{path}: no such file")
    if path.is_dir():
        raise BatchError(f"{path}: a folder\n  hint: name one file: .jsonl, .jsonl.gz or .parquet")
    if kind is None:
        raise BatchError(f"{path}: unknown kind\n  hint: use .jsonl, .jsonl.gz or .parquet")
    if path.stat().st_size == 0:
        raise BatchError(f"{path}: the file is empty")
    if kind == "jsonl" and path.suffix != ".gz":
        with path.open("rb") as file:
            if b"\0" in file.read(4096):
                raise BatchError(f"{path}: a binary file, not JSON lines")
    return Dataset(path, kind, on_bad_line)


class Writer:
    """Writes rows with new columns, atomically: the file appears when all of it is there.

    Use it as a context manager; an exception inside leaves nothing behind.
    """

    def __init__(self, path: str | Path, *, metadata: Mapping[str, str]) -> None:
        self.path = Path(path)
        kind = _kind(self.path)
        if kind is None:
            raise BatchError(f"{path}: unknown kind\n  hint: use .jsonl, .jsonl.gz or .parquet")
        self._kind = kind
        self._metadata = dict(metadata)
        self._file: Any = None
        self._parquet: Any = None
        self._part = ""

    def __enter__(self) -> Writer:
        folder = self.path.parent
        try:
            handle, self._part = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=folder)
        except OSError as error:
            raise BatchError(f"{self.path}: {error.strerror}") from None
        os.close(handle)
        if self._kind == "jsonl":
            gz = self.path.suffix == ".gz"
            self._file = gzip.open(self._part, "wb") if gz else Path(self._part).open("wb")
        return self

    def write(self, rows: Sequence[Mapping[str, Any]], new: Mapping[str, Sequence[Any]]) -> None:
        """Some rows and their new columns, which stand after the input's own."""
        clash = [name for name in new if rows and name in rows[0]]
        if clash:
            message = f"the data has a column `{clash[0]}` already"
            raise BatchError(f"{message}\n  hint: rename the score, or drop the column")
        full = [
            {**row, **{name: values[i] for name, values in new.items()}}
            for i, row in enumerate(rows)
        ]
        if self._kind == "jsonl":
            for row in full:
                self._file.write(_dumps(row))
        else:
            self._write_parquet(full, new)

    def _write_parquet(self, full: list[dict[str, Any]], new: Mapping[str, Sequence[Any]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {name: _arrow_type(name, values) for name, values in new.items()}
        try:
            if self._parquet is None:
                inferred = pa.Table.from_pylist(full).schema
                names = list(dict.fromkeys(name for row in full for name in row))
                fields = [pa.field(n, types.get(n) or inferred.field(n).type) for n in names]
                schema = pa.schema(fields, metadata={"grpo_rewards": json.dumps(self._metadata)})
                self._parquet = pq.ParquetWriter(self._part, schema)
            table = pa.Table.from_pylist(full, schema=self._parquet.schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            hint = "write JSON lines instead: -o OUT.jsonl"
            raise BatchError(
                f"{self.path}: the rows fit no schema: {error}\n  hint: {hint}"
            ) from None
        self._parquet.write_table(table)

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        for handle in (self._file, self._parquet):
            if handle is not None:
                handle.close()
        if kind is not None:
            Path(self._part).unlink(missing_ok=True)
            return
        if self._kind == "jsonl":
            meta = Path(f"{self.path}.meta.json")
            meta.write_text(json.dumps(self._metadata, indent=2) + "\n", encoding="utf-8")
        os.chmod(self._part, 0o644)
        os.replace(self._part, self.path)


def _arrow_type(name: str, values: Sequence[Any]) -> Any:
    """Status columns are text and scores numbers, whatever the first batch holds."""
    import pyarrow as pa

    if name.endswith("_status"):
        return pa.string()
    return pa.bool_() if any(isinstance(v, bool) for v in values) else pa.float64()


def _dumps(row: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # lone surrogates
        return (json.dumps(_finite(row)) + "\n").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value
