"""Parquet: row groups in, row groups out, and one schema for all rows.

Rows that come from Parquet keep their types. Rows from JSON lines have none: each batch has its
own, and the file gets the narrowest schema that holds all of them. A number where text was before
fits none; that is an error at the batch where it happens, not a guess.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from grpo_rewards.data.jsonl import dumps
from grpo_rewards.errors import BatchError
from grpo_rewards.limits import MAX_BATCH_MB, MAX_ROW_GROUP_MB

_READ_ROWS = 1024  # at a time, where rows are small
_GROUP_ROWS = 16_384  # of a row group that is written
_HINT = "\n  hint: write JSON lines instead: -o OUT.jsonl"


class Cell(NamedTuple):
    """A row of Parquet by its place: the batch that it was read with, and its number there."""

    batch: Any
    row: int


def open_parquet(path: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`. BatchError in one line where it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        cause = str(error).splitlines()[0]
        hint = "a file that was cut off has lost its end, without which nothing can be read"
        raise BatchError(f"{path}: not a Parquet file: {cause}\n  hint: {hint}") from None


def footer_digest(path: Path) -> str:
    """A digest of the file's size and of its footer, which tells places and sizes of all data."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size - 8 - length))
        return hashlib.blake2b(b"%d" % size + file.read(), digest_size=16).hexdigest()


def read_batches(path: Path, start: int) -> Iterator[tuple[int, Any]]:
    """(number of the first row, record batch) from row `start` on; whole row groups are passed
    over unread."""
    import pyarrow as pa

    file = open_parquet(path)
    first = 0
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        rows, size = group.num_rows, group.total_byte_size
        if first + rows <= start or not rows:
            first += rows
            continue
        at_once = max(1, min(_READ_ROWS, MAX_BATCH_MB * 2**20 * rows // max(1, size)))
        try:
            for batch in file.iter_batches(at_once, row_groups=[number]):
                skipped = min(max(0, start - first), batch.num_rows)
                if skipped < batch.num_rows:
                    yield first + skipped, batch.slice(skipped)
                first += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            cause = str(error).splitlines()[0]
            raise BatchError(f"{path}: damaged near row {first}: {cause}") from None


def table_of(cells: Sequence[Cell]) -> Any:
    """The table of some rows, in order; runs of neighbours are cut out whole."""
    import pyarrow as pa

    slices = []
    begin = 0
    for i in range(1, len(cells) + 1):
        ends = i == len(cells) or cells[i].batch is not cells[i - 1].batch
        if ends or cells[i].row != cells[i - 1].row + 1:
            slices.append(cells[begin].batch.slice(cells[begin].row, i - begin))
            begin = i
    return pa.Table.from_batches(slices)


# Rows of JSON lines


def infer_table(rows: Sequence[Mapping[str, Any]], where: str) -> Any:
    """A table of plain rows with the types that these rows need."""
    import pyarrow as pa

    names = list(dict.fromkeys(name for row in rows for name in row))
    arrays = []
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            arrays.append(_array(values))
        except (pa.ArrowException, TypeError, OverflowError) as error:
            cause = str(error).splitlines()[0]
            message = f"{where}: column `{name}` fits no one type: {cause}"
            raise BatchError(message + _HINT) from None
    return pa.table(dict(zip(map(_text, names), arrays, strict=True)))


def _array(values: list[Any]) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values)
    except UnicodeEncodeError:
        return pa.array([_encodable(value) for value in values])


def _encodable(value: Any) -> Any:
    """Parquet's text is UTF-8, which has no lone surrogates: the replacement character."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return {_text(key): _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list) else value


def _text(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def joined_schema(known: Any, found: Any, where: str) -> Any:
    """The narrowest schema for the rows of both. BatchError where there is none."""
    import pyarrow as pa

    if known is None or known.equals(found):
        return found
    try:
        return pa.unify_schemas([known, found], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        for field in found:
            before = known.field(field.name).type if field.name in known.names else field.type
            if not _join(before, field.type):
                message = f"{where}: column `{field.name}` is {field.type}, before it was {before}"
                raise BatchError(message + _HINT) from None
        raise


def _join(a: Any, b: Any) -> bool:
    import pyarrow as pa

    try:
        schemas = [pa.schema([("x", type_)]) for type_ in (a, b)]
        pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return False
    return True


def dump_schema(schema: Any) -> str:
    """A schema as text; see `load_schema`."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def load_schema(text: str) -> Any:
    import pyarrow as pa

    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


# Writing


def frame(table: Any) -> bytes:
    """A table as bytes that `unframed` finds the end of."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
        stream.write_table(table)
    data = sink.getvalue()
    return len(data).to_bytes(8, "little") + bytes(data.to_pybytes())


def unframed(path: Path) -> Iterator[Any]:
    """The tables of a file of frames."""
    import pyarrow as pa

    with path.open("rb") as file:
        while head := file.read(8):
            data = file.read(int.from_bytes(head, "little"))
            with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
                yield stream.read_all()


def write_parquet(
    target: Path, tables: Iterable[Any], schema: Any, metadata: Mapping[bytes, bytes]
) -> None:
    """Tables of any size → a file of even row groups, with one schema for all."""
    import pyarrow.parquet as pq

    fields = [_writable(field) for field in schema]
    final = schema.empty_table().schema.with_metadata({**(schema.metadata or {}), **metadata})
    for i, field in enumerate(fields):
        final = final.set(i, field)
    with pq.ParquetWriter(target, final) as writer:
        for group in _row_groups(tables):
            writer.write_table(_fitted(group, schema, final))


def _row_groups(tables: Iterable[Any]) -> Iterator[Any]:
    """Neighbours joined until they are large enough."""
    import pyarrow as pa

    held: list[Any] = []
    rows = size = 0
    for table in tables:
        held.append(table)
        rows += table.num_rows
        size += table.nbytes
        if rows >= _GROUP_ROWS or size >= MAX_ROW_GROUP_MB * 2**20:
            yield pa.concat_tables(held, promote_options="permissive")
            held, rows, size = [], 0, 0
    if held:
        yield pa.concat_tables(held, promote_options="permissive")


def _fitted(table: Any, schema: Any, final: Any) -> Any:
    """The table in the schema of the whole file."""
    import pyarrow as pa

    whole = pa.concat_tables([schema.empty_table(), table], promote_options="permissive")
    columns = [
        whole.column(i) if field.type == schema.field(i).type else _as_json(whole.column(i))
        for i, field in enumerate(final)
    ]
    return pa.Table.from_arrays(columns, schema=final)


def _writable(field: Any) -> Any:
    """Parquet has no struct without fields: a column that holds one is written as JSON text."""
    import pyarrow as pa

    return pa.field(field.name, pa.string()) if _has_empty_struct(field.type) else field


def _has_empty_struct(type_: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(type_) and type_.num_fields == 0:
        return True
    return any(_has_empty_struct(type_.field(i).type) for i in range(type_.num_fields))


def _as_json(column: Any) -> Any:
    import pyarrow as pa

    texts = [None if value is None else dumps(value).decode() for value in column.to_pylist()]
    return pa.array(texts, pa.string())
