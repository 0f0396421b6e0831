"""Datasets in: an open file of rows, read one batch at a time from any position on.

Each kind of file has one `Reader`: `jsonl.LinesReader` and `parquet.ParquetReader`. A batch ends
after a number of rows, or earlier where rows are large; where groups have to be whole it ends
between two groups. Where batches end depends on the file alone, so a run that resumes after any
batch gives what an uninterrupted run gives.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from grpo_rewards.data.group_ids import SeenGroups, group_digest, group_key
from grpo_rewards.errors import DataError
from grpo_rewards.limits import MAX_BATCH_MB, MAX_GROUP_ROWS

Row = dict[str, Any]


@dataclass(slots=True)
class Position:
    """How far a file has been read.

    `lines` and `bytes` (uncompressed) count what JSON lines hold; `rows` counts the rows of the
    file, of which `taken` went into batches; `skipped` lines could not be read, and
    `duplicate_keys` counts the taken rows that have a key twice. `digest` tells whether a file
    still begins the same.
    """

    lines: int = 0
    bytes: int = 0
    rows: int = 0
    taken: int = 0
    skipped: int = 0
    duplicate_keys: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts of a dataset, `index` from 0: by row number, or by group id."""

    index: int
    count: int

    def has_row(self, number: int) -> bool:
        return number % self.count == self.index

    def has_group(self, digest: bytes) -> bool:
        return int.from_bytes(digest, "little") % self.count == self.index


class Entry(NamedTuple):
    """What a reader reads at once: a row, or something that is passed over.

    `raw` is the row as the file has it, for the writer; `record` holds its fields and is None where
    there is no row, or none that is wanted. `number` is the place that `Reader.place` words, `size`
    the bytes of memory that the row takes.
    """

    raw: Any
    number: int
    record: Row | None
    size: int = 0
    is_row: bool = True
    is_skipped: bool = False
    has_duplicate_keys: bool = False


class Reader(ABC):
    """An open dataset. Close it, or use it as a context manager; one reading runs at a time.

    `skipped` counts the unreadable lines that the latest reading passed over. `schema` is the Arrow
    schema of all rows, None where only reading them all could tell.
    """

    kind: ClassVar[str]
    path: Path
    schema: Any = None
    skipped: int = 0

    @abstractmethod
    def fields(self) -> list[str]:
        """The names of the columns, from the schema or the first rows."""

    @abstractmethod
    def count(self) -> int | None:
        """The number of rows, None where counting would mean to decompress the file."""

    @abstractmethod
    def entries(
        self, start: Position, is_wanted: Callable[[int], bool], paths: frozenset[str]
    ) -> Iterator[Entry]:
        """All that stands in the file after `start`. Rows whose number is not wanted are not
        parsed; the records of the others answer at least the dotted `paths`. DataError where the
        file up to `start` is not what it was."""

    @abstractmethod
    def advance(self, position: Position, entry: Entry) -> None:
        """Move a position over the entry that follows it."""

    @abstractmethod
    def digest(self) -> str:
        """A digest of what `advance` has moved over, or of what stands for all of the file."""

    @abstractmethod
    def place(self, number: int) -> str:
        """The place of an entry in words: `data.jsonl:12`, or `data.parquet: row 11`."""

    @abstractmethod
    def rows(self, batch: Batch) -> list[Row]:
        """The rows of a batch with all of their columns."""

    @abstractmethod
    def texts(self, batch: Batch) -> list[bytes]:
        """The rows of a batch as JSON objects in UTF-8; a row without fields is `{}`."""

    @abstractmethod
    def table(self, batch: Batch) -> Any:
        """The rows of a batch as a `pyarrow.Table`."""

    @abstractmethod
    def names(self, batch: Batch) -> Sequence[Iterable[str]]:
        """The column names of each row of a batch; one entry where all rows have the same."""

    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """What `score` wrote down about the rows of this file; empty where it wrote nothing."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        DataError. `start` and `seen` (the `groups` of all earlier batches) resume after a batch.
        """
        position = replace(start) if start else Position()
        cutter = _Cutter(
            self, size, columns, group, limit, shard, position, SeenGroups(seen),
            is_first=position.taken == 0,
        )  # fmt: skip
        return cutter.batches()


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of a dataset: as they were read, the columns that were asked for, and the position
    after the last one. `groups` holds the digests of its groups, where they have to be whole."""

    reader: Reader
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
        return self.reader.rows(self)

    def place(self, i: int) -> str:
        """Where row `i` of the batch stands in the file, in words."""
        return self.reader.place(self.numbers[i])


@dataclass(slots=True)
class _Cutter:
    """One reading of a dataset: entries in, batches out."""

    reader: Reader
    size: int
    columns: Mapping[str, str]
    group: str | None
    limit: int | None
    shard: Shard | None
    position: Position
    seen: SeenGroups
    is_first: bool  # no batch has been cut yet, of this run or of those that it resumes
    raws: list[Any] = field(default_factory=list)
    records: list[Row] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    batch_bytes: int = 0
    group_digests: list[bytes] = field(default_factory=list)
    group_rows: int = 0

    def batches(self) -> Iterator[Batch]:
        by_row = self.shard is not None and self.group is None
        is_wanted = self.shard.has_row if self.shard and by_row else lambda number: True
        paths = frozenset(self.columns.values()) | ({self.group} if self.group else set())
        previous: bytes | None = None
        for entry in self.reader.entries(self.position, is_wanted, paths):
            digest = self._group_digest(entry)
            if entry.record is None or self._is_of_another_shard(digest):
                self.reader.advance(self.position, entry)
                self._count(entry)
                continue
            is_between = digest is None or digest != previous
            if is_between and self._is_full():
                yield self._batch()
            if is_between and self._is_limit_reached():
                return
            self._take(entry, digest, new_group=is_between)
            previous = digest
        if self.raws:
            yield self._batch()

    def _is_of_another_shard(self, digest: bytes | None) -> bool:
        return self.shard is not None and digest is not None and not self.shard.has_group(digest)

    def _count(self, entry: Entry) -> None:
        self.position.rows += entry.is_row
        self.position.skipped += entry.is_skipped

    def _is_limit_reached(self) -> bool:
        return self.limit is not None and self.position.taken >= self.limit

    def _is_full(self) -> bool:
        """Whether a batch ends where one may."""
        is_large = self.batch_bytes >= MAX_BATCH_MB * 2**20
        enough = len(self.raws) >= self.size or is_large or self._is_limit_reached()
        return bool(self.raws) and enough

    def _take(self, entry: Entry, digest: bytes | None, *, new_group: bool) -> None:
        assert entry.record is not None
        self.reader.advance(self.position, entry)
        self._count(entry)
        self.position.taken += 1
        self.position.duplicate_keys += entry.has_duplicate_keys
        self.raws.append(entry.raw)
        self.records.append(entry.record)
        self.numbers.append(entry.number)
        self.batch_bytes += entry.size
        if digest is not None:
            self._take_group(digest, new_group)

    def _take_group(self, digest: bytes, new_group: bool) -> None:
        place = self.reader.place(self.numbers[-1])
        self.group_rows = 1 if new_group else self.group_rows + 1
        if self.group_rows > MAX_GROUP_ROWS:
            hint = f"is `{self.group}` the id of a prompt?"
            message = f"{place}: a group of more than {MAX_GROUP_ROWS:,} rows"
            raise DataError(message, hint=hint)
        if not new_group:
            return
        if not self.seen.add(digest):
            group = lookup(self.records[-1], self.group)
            message = f"{place}: group {group!r:.60} was there before, and other rows between"
            hint = f"the rows of a group stand together: sort the file by `{self.group}`"
            raise DataError(message, hint=hint)
        self.group_digests.append(digest)

    def _group_digest(self, entry: Entry) -> bytes | None:
        """The digest of a row's group id, None where groups do not matter. DataError where the
        row has no id."""
        if self.group is None or entry.record is None:
            return None
        value = lookup(entry.record, self.group)
        if value is NOWHERE or value is None or value != value:
            place = self.reader.place(entry.number)
            raise DataError(f"{place}: no group id (`{self.group}`), and the ruleset needs one")
        return group_digest(group_key(value))

    def _batch(self) -> Batch:
        columns = {name: self._column(name, path) for name, path in self.columns.items()}
        if self.group:
            columns["group"] = [group_key(value) for value in self._column("group", self.group)]
        end = replace(self.position, digest=self.reader.digest())
        groups = b"".join(self.group_digests)
        batch = Batch(self.reader, self.raws, self.records, self.numbers, columns, end, groups)
        self.is_first = False
        self.raws, self.records, self.numbers, self.group_digests = [], [], [], []
        self.batch_bytes = self.group_rows = 0
        return batch

    def _column(self, name: str, path: str) -> list[Any]:
        values = [lookup(record, path) for record in self.records]
        if self.is_first and all(value is NOWHERE for value in values):
            raise self._missing(name, path)
        return [None if value is NOWHERE else value for value in values]

    def _missing(self, name: str, path: str) -> DataError:
        """A column that no row of the first batch has is misspelled; later, rows may lack it."""
        fields = self.reader.fields()
        close = difflib.get_close_matches(path, [*_dotted_paths(self.records[0]), *fields], n=1)
        return DataError(
            f"{self.reader.path}: no column `{path}`; the file has {', '.join(fields)}",
            hint=f"did you mean `{close[0]}`?" if close else "",
            missing=name,
            remedy=f'bind it with mapping={{"{name}": "COLUMN"}}',
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


def _dotted_paths(row: Mapping[str, Any], prefix: str = "") -> list[str]:
    """All dotted paths of a record, two levels deep."""
    found: list[str] = []
    for name, value in row.items():
        found.append(prefix + name)
        if isinstance(value, dict) and not prefix:
            found += _dotted_paths(value, f"{name}.")
    return found


def changed_file(path: Path, start: Position) -> DataError:
    """The error of a run that resumes over another file than the one it began with."""
    message = f"{path}: its first {start.rows:,} rows are not those that were scored"
    return DataError(message, hint="score the same file, or start over without --resume")
