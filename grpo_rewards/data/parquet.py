"""Parquet in and out: row groups are read one after the other, and written with one schema.

Rows that come from Parquet keep their types. Rows of JSON lines bring none: each batch has the
types that its rows need, and the file gets the narrowest schema that holds all batches. A number
where text stood before fits none; that is an error with the place of the row, not a guess.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from grpo_rewards import json_text
from grpo_rewards.data.reader import Batch, Entry, Position, Reader, Row, changed_file
from grpo_rewards.data.writer import Columns, Output, refuse_clash
from grpo_rewards.errors import DataError
from grpo_rewards.limits import MAX_BATCH_MB, MAX_ROW_GROUP_MB

_HINT = "write JSON lines instead: -o OUT.jsonl"
#: What pyarrow raises for values that have no type in common, and for types that have none.
_MISFITS = (ValueError, TypeError, NotImplementedError, OverflowError)
_METADATA = b"grpo_rewards"  # the key of the file's metadata that says how it was scored
_READ_ROWS = 1024  # at a time, where rows are small
_GROUP_ROWS = 16_384  # of a row group that is written


class Cell(NamedTuple):
    """A row of Parquet by its place: the record batch that it was read with, and its number there.

    Rows stay in Arrow until somebody needs their values, and keep their types on the way out.
    """

    batch: Any
    row: int


class ParquetReader(Reader):
    """A Parquet file. DataError in one line where it is none. It has neither lines that could be
    passed over nor keys that could stand twice."""

    kind = "parquet"

    def __init__(self, path: Path, on_bad_line: str, counts_duplicate_keys: bool) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        try:
            self._source = pa.OSFile(str(path))
            self._file = pq.ParquetFile(self._source)
        except (pa.ArrowInvalid, OSError) as error:
            cause = str(error).splitlines()[0]
            hint = "a file that was cut off has lost its end, without which nothing can be read"
            raise DataError(f"{path}: not a Parquet file: {cause}", hint=hint) from None
        self.schema = self._file.schema_arrow
        self._digest = ""

    def close(self) -> None:
        self._file.close()
        self._source.close()

    def fields(self) -> list[str]:
        return list(self.schema.names)

    def count(self) -> int | None:
        return int(self._file.metadata.num_rows)

    def place(self, number: int) -> str:
        return f"{self.path}: row {number}"

    def entries(
        self, start: Position, is_wanted: Callable[[int], bool], paths: frozenset[str]
    ) -> Iterator[Entry]:
        if start.rows and self.digest() != start.digest:
            raise changed_file(self.path, start)
        names = self.fields()
        columns = sorted({top for path in paths if (top := _top_column(path, names)) is not None})
        for first, batch in self._batches(start.rows):
            size = batch.nbytes // batch.num_rows
            records = batch.select(columns).to_pylist() if columns else [{}] * batch.num_rows
            for i, record in enumerate(records):
                number = first + i
                row = record if is_wanted(number) else None
                yield Entry(Cell(batch, i), number, row, size)

    def _batches(self, start: int) -> Iterator[tuple[int, Any]]:
        """(number of the first row, record batch) from row `start` on; row groups before it are
        not read."""
        import pyarrow as pa

        metadata = self._file.metadata
        first = 0
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            rows, size = group.num_rows, group.total_byte_size
            if first + rows <= start or not rows:
                first += rows
                continue
            at_once = max(1, min(_READ_ROWS, MAX_BATCH_MB * 2**20 * rows // max(1, size)))
            try:
                for batch in self._file.iter_batches(at_once, row_groups=[number]):
                    skipped = min(max(0, start - first), batch.num_rows)
                    if skipped < batch.num_rows:
                        yield first + skipped, batch.slice(skipped)
                    first += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                cause = str(error).splitlines()[0]
                raise DataError(f"{self.path}: damaged near row {first}: {cause}") from None

    def advance(self, position: Position, entry: Entry) -> None:
        pass  # the digest is that of the whole file, and rows are counted by who takes them

    def digest(self) -> str:
        self._digest = self._digest or _footer_digest(self._source)
        return self._digest

    def rows(self, batch: Batch) -> list[Row]:
        found: list[Row] = self.table(batch).to_pylist()
        return found

    def metadata(self) -> dict[str, Any]:
        return json_text.read_object((self.schema.metadata or {}).get(_METADATA, b"{}"))

    def names(self, batch: Batch) -> Sequence[Iterable[str]]:
        return [self.schema.names]

    def texts(self, batch: Batch) -> list[bytes]:
        return [json_text.write_value(row) for row in self.rows(batch)]

    def table(self, batch: Batch) -> Any:
        """The rows in order; runs of neighbours are cut out whole."""
        import pyarrow as pa

        cells: list[Cell] = batch.raws
        slices = []
        begin = 0
        for i in range(1, len(cells) + 1):
            ends = i == len(cells) or cells[i].batch is not cells[i - 1].batch
            if ends or cells[i].row != cells[i - 1].row + 1:
                slices.append(cells[begin].batch.slice(cells[begin].row, i - begin))
                begin = i
        return pa.Table.from_batches(slices)


def _top_column(path: str, names: Sequence[str]) -> str | None:
    """The column that a dotted path begins in."""
    if path in names:
        return path
    top = path.partition(".")[0]
    return top if top in names else None


def _footer_digest(file: Any) -> str:
    """A digest of the file's size and of its footer, which tells places and sizes of all data."""
    size: int = file.size()
    file.seek(max(0, size - 8))
    length = int.from_bytes(file.read(4), "little")  # of the footer, by Parquet's own format
    file.seek(max(0, size - 8 - length))
    return hashlib.blake2b(b"%d" % size + file.read(), digest_size=16).hexdigest()


class ParquetWriter:
    """Writes rows as Parquet: tables of Arrow until all rows are there and the schema is known,
    then one file. Scores are bool or double and their status text, whatever the rows come to."""

    def __init__(self, path: Path, output: Output) -> None:
        self._schema = output.schema
        self._is_inferred = output.schema is None
        self._scores = output.scores
        self._metadata = output.metadata

    def encode(self, batch: Batch, columns: Columns) -> bytes:
        import pyarrow as pa

        refuse_clash(batch, columns)
        table = batch.reader.table(batch)
        if self._is_inferred:
            self._schema = joined_schema(self._schema, table, batch.place)
        for name, values in columns.items():
            table = table.append_column(name, pa.array(values, self._type(name)))
        return _framed(table)

    def _type(self, name: str) -> Any:
        import pyarrow as pa

        if name not in self._scores:
            return pa.string()
        return pa.bool_() if self._scores[name] else pa.float64()

    def state(self) -> dict[str, Any]:
        if self._schema is None:
            return {"schema": None}
        return {"schema": base64.b64encode(self._schema.serialize().to_pybytes()).decode()}

    def restore(self, state: Mapping[str, Any]) -> None:
        import pyarrow as pa

        if state["schema"] is not None:
            self._schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(state["schema"])))

    def write(self, rows: Path, new: Path) -> None:
        import pyarrow as pa

        known = self._schema if self._schema is not None else pa.schema([])
        names = [*self._scores, *(f"{name}_status" for name in self._scores)]
        added = [pa.field(name, self._type(name)) for name in names]
        schema = pa.schema([*known, *added], metadata=known.metadata)
        metadata = {_METADATA: json.dumps(self._metadata).encode()}
        try:
            write_parquet(new, _unframed(rows), schema, metadata)
        except pa.ArrowException as error:
            raise DataError(f"{new}: the rows fit no schema: {error}", hint=_HINT) from None


def _framed(table: Any) -> bytes:
    """A table as bytes that `_unframed` finds the end of."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
        stream.write_table(table)
    data = sink.getvalue()
    return len(data).to_bytes(8, "little") + bytes(data.to_pybytes())


def _unframed(path: Path) -> Iterator[Any]:
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

    texts = [
        None if value is None else json_text.write_value(value).decode()
        for value in column.to_pylist()
    ]
    return pa.array(texts, pa.string())


# Tables of rows that bring no types


def infer_table(rows: Sequence[Mapping[str, Any]], place: Callable[[int], str]) -> Any:
    """A `pyarrow.Table` of plain rows. DataError with the `place` of the first row that fits no
    type with those before it."""
    import pyarrow as pa

    names = list(dict.fromkeys(name for row in rows for name in row))
    arrays = []
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            arrays.append(_array(values))
        except _MISFITS as error:
            cause = str(error).splitlines()[0]
            row = _first_misfit(values, _array)
            message = f"{place(row)}: column `{name}` fits no one type: {cause}"
            raise DataError(message, hint=_HINT) from None
    return pa.table(dict(zip(map(_encodable, names), arrays, strict=True)))


def joined_schema(known: Any, table: Any, place: Callable[[int], str]) -> Any:
    """The narrowest schema for the rows before, whose schema is `known` (or None), and those of a
    table. DataError with the `place` of the first row that fits no type with those before."""
    import pyarrow as pa

    found = table.schema
    if known is None or known.equals(found):
        return found
    try:
        return pa.unify_schemas([known, found], promote_options="permissive")
    except _MISFITS:
        for name in set(known.names) & set(found.names):
            before, now = known.field(name).type, found.field(name).type
            try:
                _join(before, now)
            except _MISFITS:
                values = table.column(name).to_pylist()
                row = _first_misfit(values, functools.partial(_join_values, before))
                message = f"{place(row)}: column `{name}` is {now}, before it was {before}"
                raise DataError(message, hint=_HINT) from None
        raise


def _join_values(type_: Any, values: list[Any]) -> None:
    _join(type_, _array(values).type)


def _join(type_: Any, other: Any) -> None:
    """Raises one of the misfits where no type holds the values of both."""
    import pyarrow as pa

    schemas = [pa.schema([("x", one)]) for one in (type_, other)]
    pa.unify_schemas(schemas, promote_options="permissive")


def _first_misfit(values: list[Any], attempt: Callable[[list[Any]], Any]) -> int:
    """The first value with which an attempt on all values up to it fails; it does with all."""
    low, high = 0, len(values)  # the attempt is known to fail on the first `high` values
    while high - low > 1:
        middle = (low + high) // 2
        try:
            attempt(values[:middle])
            low = middle
        except _MISFITS:
            high = middle
    return high - 1


def _array(values: list[Any]) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values)
    except UnicodeEncodeError:
        return pa.array([_encodable(value) for value in values])


def _encodable(value: Any) -> Any:
    """A value with the replacement character for lone surrogates, which UTF-8 does not have."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list) else value
