"""The kinds of files that hold datasets, by their endings: the one table that tells them apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from grpo_rewards.data.jsonl import COMPRESSED, LinesReader, LinesWriter
from grpo_rewards.data.parquet import ParquetReader, ParquetWriter
from grpo_rewards.data.reader import Reader
from grpo_rewards.data.writer import Output, Writer
from grpo_rewards.errors import DataError, MissingFileError

ENDINGS = ".jsonl, .jsonl.gz, .jsonl.zst or .parquet"


class Kind(NamedTuple):
    """How files of one kind are read and written, and whether they may be compressed as a whole."""

    reader: Callable[[Path, str, bool], Reader]
    writer: Callable[[Path, Output], Writer]
    may_be_compressed: bool


_LINES = Kind(LinesReader, LinesWriter, may_be_compressed=True)
_KINDS = {
    ".jsonl": _LINES,
    ".json": _LINES,
    ".ndjson": _LINES,
    ".parquet": Kind(ParquetReader, ParquetWriter, may_be_compressed=False),
}


def _kind_of(path: Path) -> Kind:
    is_compressed = path.suffix in COMPRESSED
    ending = Path(path.stem).suffix if is_compressed else path.suffix
    kind = _KINDS.get(ending.lower())
    if kind is None or (is_compressed and not kind.may_be_compressed):
        raise DataError(f"{path}: unknown kind", hint=f"use {ENDINGS}")
    return kind


def open_dataset(
    path: str | Path, *, on_bad_line: str = "error", counts_duplicate_keys: bool = False
) -> Reader:
    """An open dataset; the options are those of `jsonl.LinesReader`.

    DataError in one line where there is no such file (MissingFileError), it is empty, or it is
    something else than its name says.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"{path}: no such file")
    if path.is_dir():
        raise DataError(f"{path}: a folder", hint=f"name one file: {ENDINGS}")
    kind = _kind_of(path)
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    return kind.reader(path, on_bad_line, counts_duplicate_keys)


def open_writer(path: Path, output: Output) -> Writer:
    """The writer of a file, by the ending of its path. DataError where no kind has that ending."""
    return _kind_of(path).writer(path, output)
