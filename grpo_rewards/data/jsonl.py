"""JSON lines in and out, plain or compressed.

A line that is written with more fields keeps its own bytes, so numbers of many digits, escapes and
the order of keys stay as they were. Compressed files are written as a row of whole members (gzip)
or frames (zstd), so a file that was cut off between two of them can be resumed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import orjson

from grpo_rewards import json_text
from grpo_rewards.data.parquet import infer_table
from grpo_rewards.data.reader import Batch, Entry, Position, Reader, Row, changed_file
from grpo_rewards.data.writer import Columns, Output, refuse_clash
from grpo_rewards.errors import DataError
from grpo_rewards.limits import MAX_LINE_MB

COMPRESSED = (".gz", ".zst")
_GZIP_LEVEL = 6
_ZSTD_READ = 1 << 16  # small reads: what one has decompressed before it meets damage is lost
_COPY_BYTES = 1 << 20
_FIELD_ROWS = 512  # that are looked at for the names of columns
_BOM = b"\xef\xbb\xbf"


class LinesReader(Reader):
    """A file of JSON lines. With `on_bad_line="skip"` unreadable lines are counted and passed over,
    otherwise the first one is a DataError. With `counts_duplicate_keys` each row is looked through
    for a key that stands twice, which makes reading up to half as slow again."""

    kind = "jsonl"

    def __init__(self, path: Path, on_bad_line: str, counts_duplicate_keys: bool) -> None:
        self.path = path
        self._skips = on_bad_line == "skip"
        self._counts_duplicate_keys = counts_duplicate_keys
        self._hash = hashlib.blake2b(digest_size=16)
        self._fields: list[str] = []
        self._file = path.open("rb")
        if path.suffix not in COMPRESSED and b"\0" in self._file.peek(4096)[:4096]:
            self.close()
            raise DataError(f"{path}: a binary file, not JSON lines")

    def close(self) -> None:
        self._file.close()

    def fields(self) -> list[str]:
        self._fields = self._fields or self._first_fields()
        return self._fields

    def _first_fields(self) -> list[str]:
        found: dict[str, None] = {}
        rows = 0
        try:
            for entry in self.entries(Position(), lambda row: True, frozenset()):
                if entry.record is not None:
                    found.update(dict.fromkeys(entry.record))
                    rows += 1
                if rows == _FIELD_ROWS:
                    break
        except DataError:  # the reading of the rows meets it again, if it comes so far
            if not rows:
                raise
        if not rows:
            raise DataError(f"{self.path}: no rows")
        return list(found)

    def count(self) -> int | None:
        if self.path.suffix in COMPRESSED:
            return None
        self._file.seek(0)
        chunks = iter(lambda: self._file.read(_COPY_BYTES), b"")
        return sum(chunk.count(b"\n") for chunk in chunks)

    def place(self, number: int) -> str:
        return f"{self.path}:{number}"

    def entries(
        self, start: Position, is_wanted: Callable[[int], bool], paths: frozenset[str]
    ) -> Iterator[Entry]:
        self.skipped = 0
        self._file.seek(0)
        stream = uncompressed(self._file, self.path.suffix)
        self._pass_over(stream, start)
        row, number = start.rows, start.lines
        try:
            for line in _lines(stream, self.path, number):
                number += 1
                entry = self._entry(line, number, is_wanted(row))
                row += entry.is_row
                yield entry
        except DataError:
            if not self._skips:
                raise
            self.skipped += 1

    def _entry(self, line: bytes, number: int, is_wanted: bool) -> Entry:
        if not line.strip():
            return Entry(line, number, None, is_row=False)
        if not is_wanted:
            return Entry(line, number, None)
        try:
            record = parse_line(line)
        except BadLine as error:
            if self._skips:
                self.skipped += 1
                return Entry(line, number, None, is_skipped=True)
            place = self.place(number) + (f":{error.column}" if error.column else "")
            hint = (
                error.hint or "mend the line; `score` passes over such lines with --skip-bad-lines"
            )
            raise DataError(f"{place}: {error}", hint=hint) from None
        has_duplicates = self._counts_duplicate_keys and _has_duplicate_keys(line, record)
        return Entry(line, number, record, len(line), has_duplicate_keys=has_duplicates)

    def _pass_over(self, stream: IO[bytes], start: Position) -> None:
        """Read up to a position again, to know that it is the same file."""
        self._hash = hashlib.blake2b(digest_size=16)
        left = start.bytes
        while left and (chunk := stream.read(min(left, _COPY_BYTES))):
            self._hash.update(chunk)
            left -= len(chunk)
        if start.bytes and (left or self._hash.hexdigest() != start.digest):
            raise changed_file(self.path, start)

    def advance(self, position: Position, entry: Entry) -> None:
        self._hash.update(entry.raw)
        position.lines += 1
        position.bytes += len(entry.raw)

    def digest(self) -> str:
        return self._hash.hexdigest()

    def rows(self, batch: Batch) -> list[Row]:
        return batch.records

    def names(self, batch: Batch) -> Sequence[Iterable[str]]:
        return batch.records

    def texts(self, batch: Batch) -> list[bytes]:
        return [_text(line, row) for line, row in zip(batch.raws, batch.records, strict=True)]

    def table(self, batch: Batch) -> Any:
        return infer_table(batch.records, batch.place)

    def metadata(self) -> dict[str, Any]:
        beside = metadata_file(self.path)
        return json_text.read_object(beside.read_bytes()) if beside.is_file() else {}


def metadata_file(path: Path) -> Path:
    """The file beside JSON lines that says with what they were scored."""
    return Path(f"{path}.meta.json")


def uncompressed(file: IO[bytes], ending: str) -> IO[bytes]:
    """The uncompressed bytes of an open file from here on, by the ending of its name."""
    if ending == ".gz":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file, mode="rb"))
    if ending == ".zst":
        import pyarrow as pa

        # Arrow closes what it reads from, so it gets a descriptor of its own.
        copy = pa.PythonFile(os.fdopen(os.dup(file.fileno()), "rb"), mode="r")
        return io.BufferedReader(pa.CompressedInputStream(copy, "zstd"), _ZSTD_READ)
    return file


def compressed(data: bytes, ending: str) -> bytes:
    """A whole member or frame of it for `.gz` or `.zst`, else the data."""
    if ending == ".gz":
        return gzip.compress(data, _GZIP_LEVEL, mtime=0)
    if ending == ".zst":
        import pyarrow as pa

        return bytes(pa.compress(data, codec="zstd", asbytes=True))
    return data


def _lines(stream: IO[bytes], path: Path, number: int) -> Iterator[bytes]:
    """The lines from here on; `number` lines went before. DataError where a compressed file is
    damaged or cut off, or a line is longer than any row."""
    limit = MAX_LINE_MB * 2**20
    while True:
        try:
            line = stream.readline(limit)
        except (OSError, EOFError, zlib.error) as error:
            raise _damaged(path, number, error) from None
        if not line:
            return
        number += 1
        if len(line) == limit and not line.endswith(b"\n"):
            raise DataError(f"{path}:{number}: a line of more than {MAX_LINE_MB} MB")
        yield line


def _damaged(path: Path, number: int, error: Exception) -> DataError:
    cause = str(error).splitlines()[0] if str(error) else type(error).__name__
    hint = "mend the file; `score --skip-bad-lines` scores the rows before that place"
    return DataError(f"{path}: damaged or cut off after line {number}: {cause}", hint=hint)


class BadLine(ValueError):
    """A line that is no row. `column` counts characters from 1, 0 where no column is to blame."""

    def __init__(self, message: str, column: int = 0, hint: str = "") -> None:
        self.column = column
        self.hint = hint
        super().__init__(message)


def parse_line(line: bytes) -> Row:
    """The object of a line. BadLine where it is something else, or no JSON."""
    try:
        row = json_text.read_value(line.removeprefix(_BOM))
    except (ValueError, RecursionError) as error:
        raise _bad_line(line, error) from None
    if not isinstance(row, dict):
        raise BadLine(f"a row is an object, not a {type(row).__name__}")
    return row


def _bad_line(line: bytes, error: ValueError | RecursionError) -> BadLine:
    is_whole = line.endswith(b"\n")
    column = 0
    if isinstance(error, json.JSONDecodeError):
        # What is missing at the end of a line is missing before its line break, not after it.
        column = min(error.pos, len(error.doc.rstrip("\r\n"))) + 1
    if isinstance(error, UnicodeDecodeError):
        before = error.object[: error.start].decode("utf-8", "surrogatepass")
        column = len(before) + 1
        if is_whole or error.reason != "unexpected end of data":
            found = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
            return BadLine(found, column, "convert the file, as in `iconv -f latin1 -t utf-8`")
    return BadLine("not JSON" if is_whole else "the last line is cut off", column)


def _has_duplicate_keys(line: bytes, record: Row) -> bool:
    """Whether an object of the line has one key twice; parsers keep the last of its values.

    Keys are counted where a quote and a colon meet, which is cheap. Only where their number differs
    from that of the record's keys is the line read again, by a parser that tells.
    """
    written = line.count(b'":') + line.count(b'" :')
    return written != _count_keys(record) and _finds_duplicate_keys(line)


def _count_keys(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(_count_keys(item) for item in value.values())
    return sum(map(_count_keys, value)) if isinstance(value, list) else 0


def _finds_duplicate_keys(line: bytes) -> bool:
    found_one = False

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found_one
        found = dict(pairs)
        found_one |= len(found) < len(pairs)
        return found

    json.loads(line.removeprefix(_BOM).decode("utf-8", "surrogatepass"), object_pairs_hook=build)
    return found_one


def _text(line: bytes, row: Row) -> bytes:
    """A line's own bytes, unless only a lenient reader takes them for JSON."""
    text = line.removeprefix(_BOM).strip()
    if not row:
        return b"{}"
    return text if json_text.is_strict(text) else json_text.write_value(row)


class LinesWriter:
    """Writes rows as JSON lines; the ending of `path` says how they are compressed."""

    def __init__(self, path: Path, output: Output) -> None:
        self._ending = path.suffix

    def encode(self, batch: Batch, columns: Columns) -> bytes:
        refuse_clash(batch, columns)
        names = list(columns)
        lines = []
        for text, *values in zip(batch.reader.texts(batch), *columns.values(), strict=True):
            fields = orjson.dumps(dict(zip(names, values, strict=True)))
            lines.append(fields if text == b"{}" else text[:-1] + b"," + fields[1:])
        lines.append(b"")  # so that the last line ends, too
        return compressed(b"\n".join(lines), self._ending)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass

    def write(self, rows: Path, new: Path) -> None:
        pass
