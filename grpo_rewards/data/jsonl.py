"""JSON lines: one object a line, plain or compressed, read and written without loss.

A line that gets new fields keeps its own bytes, so numbers of many digits, escapes and the order
of keys stay as they were. Compressed files are written as a row of whole members (gzip) or frames
(zstd), so a file that is cut between two of them can be gone on with.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, cast

import orjson

from grpo_rewards.errors import BatchError
from grpo_rewards.limits import MAX_LINE_MB

_GZIP_LEVEL = 6
_ZSTD_READ = 1 << 16
_BOM = b"\xef\xbb\xbf"
_LONG_INTEGER = b"0" * 19  # orjson makes floats of integers beyond 64 bits
_DIGITS_AS_0 = bytes.maketrans(b"123456789", b"000000000")


class BadLine(ValueError):
    """A line that is no row; `column` counts from 1, 0 where there is no such place."""

    def __init__(self, message: str, column: int = 0) -> None:
        self.column = column
        super().__init__(message)


def open_lines(path: Path) -> IO[bytes]:
    """The uncompressed bytes of a file, by its ending."""
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if path.suffix == ".zst":
        import pyarrow as pa

        # small reads: what one has decompressed before it meets damage is lost with it
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"), _ZSTD_READ)
    return path.open("rb")


def read_lines(file: IO[bytes], path: Path, number: int) -> Iterator[bytes]:
    """The lines from here on; `number` lines went before. BatchError where a compressed file is
    damaged or cut off, or a line is longer than any row."""
    limit = MAX_LINE_MB * 2**20
    while True:
        try:
            line = file.readline(limit)
        except (OSError, EOFError, zlib.error) as error:
            raise _damaged(path, number, error) from None
        if not line:
            return
        number += 1
        if len(line) == limit and not line.endswith(b"\n"):
            raise BatchError(f"{path}:{number}: a line of more than {MAX_LINE_MB} MB")
        yield line


def _damaged(path: Path, number: int, error: Exception) -> BatchError:
    cause = str(error).splitlines()[0] if str(error) else type(error).__name__
    hint = "mend the file; `score --skip-bad-lines` scores the rows before that place"
    return BatchError(f"{path}: damaged or cut off after line {number}: {cause}\n  hint: {hint}")


def parse_line(line: bytes) -> dict[str, Any]:
    """The object of a line. BadLine where it is something else, or no JSON."""
    try:
        row = _loads(line.removeprefix(_BOM))
    except (ValueError, RecursionError) as error:
        if not line.endswith(b"\n"):
            raise BadLine("the last line is cut off", getattr(error, "colno", 0)) from None
        raise BadLine("not JSON", getattr(error, "colno", 1)) from None
    if not isinstance(row, dict):
        raise BadLine(f"a row is an object, not a {type(row).__name__}")
    return row


def _loads(line: bytes) -> Any:
    """orjson, and the standard library for what it refuses (lone surrogates, NaN) or rounds."""
    if _LONG_INTEGER not in line.translate(_DIGITS_AS_0):
        try:
            return orjson.loads(line)
        except orjson.JSONDecodeError:
            pass
    return json.loads(line.decode("utf-8", "surrogatepass"))


def with_fields(line: bytes, row: Mapping[str, Any], fields: bytes) -> bytes:
    """A line with more fields behind its own: `fields` is a JSON object's text. The line's own
    bytes stay, unless only a lenient reader takes them for JSON."""
    text = line.removeprefix(_BOM).strip()
    if not _is_strict(text):
        text = dumps(row)
    if len(row) == 0:
        return fields + b"\n"
    return text[:-1] + b"," + fields[1:] + b"\n"


def _is_strict(text: bytes) -> bool:
    """Whether every reader of JSON takes it."""
    if b"NaN" not in text and b"Infinity" not in text:
        try:
            text.decode("utf-8")
        except UnicodeDecodeError:
            return False
        return True
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def dumps(row: Mapping[str, Any]) -> bytes:
    """A row as one line's text, without its end; null for what is not finite."""
    try:
        return orjson.dumps(row, default=_plain)
    except TypeError:  # lone surrogates, integers beyond 64 bits
        return json.dumps(_finite(row), default=_plain, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    """What JSON has no word for: of Parquet's types, and numpy's."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return str(value)
    if hasattr(value, "total_seconds"):
        return value.total_seconds()
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def compressed(data: bytes, ending: str) -> bytes:
    """A whole member or frame of it for `.gz` or `.zst`, else the data."""
    if ending == ".gz":
        return gzip.compress(data, _GZIP_LEVEL, mtime=0)
    if ending == ".zst":
        import pyarrow as pa

        return bytes(pa.compress(data, codec="zstd", asbytes=True))
    return data
