"""Datasets in: JSON lines and Parquet of any size, a batch at a time, from any place on.

A batch ends after so many rows, or earlier where rows are large; where groups have to be whole it
ends between two groups. Where batches end depends on the file alone, so a run that goes on from
the end of one gives what an uncut run gives.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from grpo_rewards.data import jsonl, parquet
from grpo_rewards.data.group_ids import Seen, digest, group_key
from grpo_rewards.errors import BatchError
from grpo_rewards.limits import MAX_BATCH_MB, MAX_GROUP_ROWS

_KINDS = {".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_PRESSED = (".gz", ".zst")
_FIELD_ROWS = 512  # that are looked at for the names of columns
ENDINGS = ".jsonl, .jsonl.gz, .jsonl.zst or .parquet"

Row = dict[str, Any]


@dataclass(slots=True)
class Position:
    """How far a dataset was read: `lines` and `bytes` (uncompressed, of JSON lines), `rows` of the
    file, of which `taken` went into batches, unreadable ones `skipped`; `digest` of all that."""

    lines: int = 0
    bytes: int = 0
    rows: int = 0
    taken: int = 0
    skipped: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts of a dataset, `index` from 0: by row number, or by group id."""

    index: int
    count: int

    def has_row(self, number: int) -> bool:
        return number % self.count == self.index

    def has_group(self, key: bytes) -> bool:
        return int.from_bytes(key, "little") % self.count == self.index


class Entry(NamedTuple):
    """What was read at once: a row, or something that is passed over. `raw` is the line or the
    cell, `record` the fields that are known, None where it is no row of ours."""

    raw: Any
    record: Row | None
    size: int
    is_row: bool = True
    skipped: bool = False

    @property
    def is_line(self) -> bool:
        return isinstance(self.raw, bytes)


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows: how they were read, the columns that were asked for, and the position after the
    last one. `groups` holds the digests of its groups, where they have to be whole."""

    dataset: Dataset
    raws: list[Any]
    records: list[Row]
    numbers: list[int]
    columns: dict[str, list[Any]]
    end: Position
    groups: bytes = b""

    def __len__(self) -> int:
        return len(self.raws)

    @property
    def rows(self) -> list[Row]:
        """The rows with all of their columns."""
        return self.table().to_pylist() if self.dataset.kind == "parquet" else self.records

    def table(self) -> Any:
        """The rows as a `pyarrow.Table`."""
        if self.dataset.kind == "parquet":
            return parquet.table_of(self.raws)
        return parquet.infer_table(self.records, self.place(0))

    def place(self, i: int) -> str:
        """Where row `i` of the batch stands: `data.jsonl:12`, or `data.parquet: row 11`."""
        return self.dataset.place(self.numbers[i])


@dataclass(slots=True)
class Dataset:
    """A file of rows. `skipped` counts unreadable lines that were passed over."""

    path: Path
    kind: str
    on_bad_line: str = "error"
    skipped: int = 0
    _hash: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))
    _footer_digest: str = ""

    def fields(self) -> list[str]:
        """The names of the columns, from the schema or the first rows."""
        if self.kind == "parquet":
            return list(parquet.open_parquet(self.path).schema_arrow.names)
        found: dict[str, None] = {}
        rows = 0
        look = Dataset(self.path, self.kind, self.on_bad_line)  # a reading of its own
        try:
            for entry in look.entries(Position(), lambda row: True, frozenset()):
                if entry.record is not None:
                    found.update(dict.fromkeys(entry.record))
                    rows += 1
                if rows == _FIELD_ROWS:
                    break
        except BatchError:
            if not rows:
                raise
        if not rows:
            raise BatchError(f"{self.path}: no rows")
        return list(found)

    def count(self) -> int | None:
        """The number of rows where that is cheap to know."""
        if self.kind == "parquet":
            return int(parquet.open_parquet(self.path).metadata.num_rows)
        if self.path.suffix in _PRESSED:
            return None
        with self.path.open("rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))

    def place(self, number: int) -> str:
        """A row's place in words: lines count from 1, rows of Parquet from 0."""
        return f"{self.path}:{number}" if self.kind == "jsonl" else f"{self.path}: row {number}"

    def batches(
        self,
        size: int,
        *,
        columns: Mapping[str, str],
        group: str | None = None,
        limit: int | None = None,
        shard: Shard | None = None,
        start: Position | None = None,
        seen: bytes = b"",
    ) -> Iterator[Batch]:
        """Batches of `size` rows (the last may have fewer; large rows come in smaller ones).
        `columns` maps names to dotted paths into the records.

        With `group`, the path of group ids, groups are whole: then batches have at least `size`
        rows, a `limit` is met at the end of a group, and a group whose rows are not adjacent is a
        BatchError. `start` and `seen` (the `groups` of all earlier batches) go on after a batch.
        """
        return _Cutter(self, size, columns, group, limit, shard, start, Seen(seen)).batches()

    def entries(
        self, start: Position, wanted: Callable[[int], bool], paths: frozenset[str]
    ) -> Iterator[Entry]:
        """All that stands in the file after `start`; rows that are not `wanted` by their number
        are not parsed. `paths` are those that records have to answer."""
        entries = self._cell_entries if self.kind == "parquet" else self._line_entries
        return entries(start, wanted, paths)

    def advance(self, position: Position, entry: Entry) -> None:
        """Move a position over an entry."""
        position.rows += entry.is_row
        position.skipped += entry.skipped
        if self.kind == "jsonl":
            self._hash.update(entry.raw)
            position.lines += 1
            position.bytes += len(entry.raw)

    def stamped(self, position: Position) -> Position:
        """A copy of a position with the digest of what was read up to it."""
        found = self._footer() if self.kind == "parquet" else self._hash.hexdigest()
        return Position(**{**asdict(position), "digest": found})

    def _footer(self) -> str:
        if not self._footer_digest:
            self._footer_digest = parquet.footer_digest(self.path)
        return self._footer_digest

    def _line_entries(
        self, start: Position, wanted: Callable[[int], bool], paths: frozenset[str]
    ) -> Iterator[Entry]:
        row, number = start.rows, start.lines
        with jsonl.open_lines(self.path) as file:
            self._pass_over(file, start)
            try:
                for line in jsonl.read_lines(file, self.path, number):
                    number += 1
                    entry = self._line_entry(line, number, wanted(row))
                    row += entry.is_row
                    yield entry
            except BatchError:
                if self.on_bad_line != "skip":
                    raise
                self.skipped += 1

    def _line_entry(self, line: bytes, number: int, wanted: bool) -> Entry:
        if not line.strip():
            return Entry(line, None, 0, is_row=False)
        if not wanted:
            return Entry(line, None, len(line))
        try:
            return Entry(line, jsonl.parse_line(line), len(line))
        except jsonl.BadLine as error:
            if self.on_bad_line == "skip":
                self.skipped += 1
                return Entry(line, None, 0, skipped=True)
            place = f"{self.path}:{number}" + (f":{error.column}" if error.column else "")
            hint = "mend the line; `score` passes over such lines with --skip-bad-lines"
            raise BatchError(f"{place}: {error}\n  hint: {hint}") from None

    def _pass_over(self, file: Any, start: Position) -> None:
        """Read up to a position again, to know that it is the same file."""
        self._hash = hashlib.blake2b(digest_size=16)
        left = start.bytes
        while left:
            chunk = file.read(min(left, 1 << 20))
            if not chunk:
                break
            self._hash.update(chunk)
            left -= len(chunk)
        if start.bytes and (left or self._hash.hexdigest() != start.digest):
            raise self._changed(start)

    def _changed(self, start: Position) -> BatchError:
        hint = "score the same file, or start over without --resume"
        message = f"{self.path}: its first {start.rows:,} rows are not those that were scored"
        return BatchError(f"{message}\n  hint: {hint}")

    def _cell_entries(
        self, start: Position, wanted: Callable[[int], bool], paths: frozenset[str]
    ) -> Iterator[Entry]:
        if start.rows and self._footer() != start.digest:
            raise self._changed(start)
        names = list(parquet.open_parquet(self.path).schema_arrow.names)
        tops = sorted({top for path in paths if (top := _top(path, names)) is not None})
        for first, batch in parquet.read_batches(self.path, start.rows):
            size = batch.nbytes // batch.num_rows
            records = batch.select(tops).to_pylist() if tops else [{}] * batch.num_rows
            for i, record in enumerate(records):
                row = record if wanted(first + i) else None
                yield Entry(parquet.Cell(batch, i), row, size)


class _Cutter:
    """One reading of a dataset: entries in, batches out."""

    def __init__(
        self,
        dataset: Dataset,
        size: int,
        columns: Mapping[str, str],
        group: str | None,
        limit: int | None,
        shard: Shard | None,
        start: Position | None,
        seen: Seen,
    ) -> None:
        self._dataset = dataset
        self._size = size
        self._columns = columns
        self._group = group
        self._limit = limit
        self._shard = shard
        self._position = Position(**asdict(start)) if start else Position()
        self._seen = seen
        self._first = start is None or start.taken == 0
        self._clear()

    def _clear(self) -> None:
        self._raws: list[Any] = []
        self._records: list[Row] = []
        self._numbers: list[int] = []
        self._bytes = 0
        self._group_digests: list[bytes] = []
        self._group_rows = 0

    def batches(self) -> Iterator[Batch]:
        wanted = self._shard.has_row if self._shard and not self._group else lambda row: True
        paths = frozenset(self._columns.values()) | ({self._group} if self._group else set())
        previous: bytes | None = None
        for entry in self._dataset.entries(self._position, wanted, paths):
            if entry.record is None:
                self._dataset.advance(self._position, entry)
                continue
            key = self._key(entry) if self._group else None
            if self._shard and key is not None and not self._shard.has_group(key):
                self._dataset.advance(self._position, entry)
                continue
            between = key is None or key != previous
            if between and self._is_full():
                yield self._batch()
            if between and self._limit is not None and self._position.taken >= self._limit:
                return
            self._take(entry, key, new_group=between)
            previous = key
        if self._raws:
            yield self._batch()

    def _is_full(self) -> bool:
        """Whether a batch ends where one may."""
        reached = self._limit is not None and self._position.taken >= self._limit
        large = self._bytes >= MAX_BATCH_MB * 2**20
        return bool(self._raws) and (len(self._raws) >= self._size or large or reached)

    def _take(self, entry: Entry, key: bytes | None, *, new_group: bool) -> None:
        assert entry.record is not None
        self._dataset.advance(self._position, entry)
        self._position.taken += 1
        self._raws.append(entry.raw)
        self._records.append(entry.record)
        counts_lines = self._dataset.kind == "jsonl"
        self._numbers.append(self._position.lines if counts_lines else self._position.rows - 1)
        self._bytes += entry.size
        if key is not None:
            self._take_group(key, new_group)

    def _take_group(self, key: bytes, new_group: bool) -> None:
        place = self._dataset.place(self._numbers[-1])
        self._group_rows = 1 if new_group else self._group_rows + 1
        if self._group_rows > MAX_GROUP_ROWS:
            hint = f"is `{self._group}` the id of a prompt?"
            message = f"{place}: a group of more than {MAX_GROUP_ROWS:,} rows"
            raise BatchError(f"{message}\n  hint: {hint}")
        if new_group:
            if not self._seen.add(key):
                group = lookup(self._records[-1], self._group)
                message = f"{place}: group {group!r:.60} was there before, and other rows between"
                hint = f"the rows of a group stand together: sort the file by `{self._group}`"
                raise BatchError(f"{message}\n  hint: {hint}")
            self._group_digests.append(key)

    def _key(self, entry: Entry) -> bytes:
        """The digest of a row's group id. BatchError where it has none."""
        assert entry.record is not None
        value = lookup(entry.record, self._group)
        if value is NOWHERE or value is None or value != value:
            number = self._position.lines + 1 if entry.is_line else self._position.rows
            place = self._dataset.place(number)
            raise BatchError(f"{place}: no group id (`{self._group}`), and the ruleset needs one")
        return digest(group_key(value))

    def _batch(self) -> Batch:
        columns = {name: self._column(path) for name, path in self._columns.items()}
        if self._group:
            columns["group"] = [group_key(value) for value in self._column(self._group)]
        end = self._dataset.stamped(self._position)
        groups = b"".join(self._group_digests)
        batch = Batch(self._dataset, self._raws, self._records, self._numbers, columns, end, groups)
        self._first = False
        self._clear()
        return batch

    def _column(self, path: str) -> list[Any]:
        values = [lookup(record, path) for record in self._records]
        if self._first and all(value is NOWHERE for value in values):
            raise self._missing(path)
        return [None if value is NOWHERE else value for value in values]

    def _missing(self, path: str) -> BatchError:
        """A column that no row of the first batch has is misspelled; later, rows may lack it."""
        names = self._dataset.fields()
        close = difflib.get_close_matches(path, [*_paths(self._records[0]), *names], n=1)
        hint = f"did you mean `{close[0]}`? " if close else ""
        return BatchError(
            f"{self._dataset.path}: no column `{path}`; the file has {', '.join(names)}"
            f"\n  hint: {hint}bind it with --map INPUT=COLUMN"
        )


NOWHERE: Any = object()


def lookup(row: Any, path: str | None) -> Any:
    """The value at a dotted path, else NOWHERE; a column whose own name has dots comes first."""
    if path is None:
        return None
    if isinstance(row, dict) and path in row:
        return row[path]
    value = row
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.lstrip("-").isdecimal():
            index = int(part)
            if not -len(value) <= index < len(value):
                return NOWHERE
            value = value[index]
        else:
            return NOWHERE
    return value


def _top(path: str, names: list[str]) -> str | None:
    """The column that a dotted path begins in."""
    if path in names:
        return path
    top = path.partition(".")[0]
    return top if top in names else None


def _paths(row: Mapping[str, Any], prefix: str = "") -> list[str]:
    """All dotted paths of a record, two levels deep."""
    found: list[str] = []
    for name, value in row.items():
        found.append(prefix + name)
        if isinstance(value, dict) and not prefix:
            found += _paths(value, f"{name}.")
    return found


def kind_of(path: Path) -> str | None:
    """`jsonl` or `parquet`, by the ending."""
    suffix = Path(path.stem).suffix if path.suffix in _PRESSED else path.suffix
    kind = _KINDS.get(suffix.lower())
    return None if kind == "parquet" and path.suffix in _PRESSED else kind


def open_dataset(path: str | Path, *, on_bad_line: str = "error") -> Dataset:
    """A dataset by its path. BatchError in one line where there is no such file, it is empty, or
    it is something else than its name says."""
    path = Path(path)
    kind = kind_of(path)
    if not path.exists():
        raise BatchError(f"{path}: no such file")
    if path.is_dir():
        raise BatchError(f"{path}: a folder\n  hint: name one file: {ENDINGS}")
    if kind is None:
        raise BatchError(f"{path}: unknown kind\n  hint: use {ENDINGS}")
    if path.stat().st_size == 0:
        raise BatchError(f"{path}: the file is empty")
    if kind == "jsonl" and path.suffix not in _PRESSED:
        with path.open("rb") as file:
            if b"\0" in file.read(4096):
                raise BatchError(f"{path}: a binary file, not JSON lines")
    return Dataset(path, kind, on_bad_line)
