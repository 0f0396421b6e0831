"""Scored rows out: encoded batch by batch, and put together into the file at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import orjson

from grpo_rewards.compiler.graph import Graph
from grpo_rewards.data import jsonl, parquet
from grpo_rewards.data.reader import ENDINGS, Batch, Dataset, kind_of
from grpo_rewards.errors import BatchError

Columns = Mapping[str, Sequence[Any]]


class Output(Protocol):
    """How rows and their scores become a file of one kind."""

    def encode(self, batch: Batch, columns: Columns) -> bytes:
        """The rows of a batch with new columns behind their own."""
        ...

    def state(self) -> dict[str, Any]:
        """What later batches depend on, as plain values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state."""
        ...

    def write(self, rows: Path, new: Path) -> None:
        """The file `new` out of all encoded rows; nothing where they are the file already."""
        ...


def open_output(path: Path, dataset: Dataset, graph: Graph, metadata: Mapping[str, Any]) -> Output:
    """The output of a kind, by the ending of its path. BatchError where that is none."""
    kind = kind_of(path)
    if kind is None:
        raise BatchError(f"{path}: unknown kind\n  hint: use {ENDINGS}")
    if kind == "jsonl":
        return LinesOutput(path.suffix)
    bools = {name for name, number in graph.columns.items() if graph[number].type.kind == "bool"}
    return ParquetOutput(dataset, list(graph.columns), bools, metadata)


def check_names(batch: Batch, columns: Columns) -> None:
    """BatchError where a row has a column of a score's name already."""
    new = frozenset(columns)
    if batch.dataset.kind == "parquet":
        known: list[Any] = [batch.raws[0].batch.schema.names]
    else:
        known = batch.records
    for i, names in enumerate(known):
        if not new.isdisjoint(names):
            clash = min(new.intersection(names))
            message = f"{batch.place(i)}: the data has a column `{clash}` already"
            raise BatchError(f"{message}\n  hint: rename the score, or drop the column")


class LinesOutput:
    """JSON lines; `ending` says how they are compressed."""

    def __init__(self, ending: str) -> None:
        self._ending = ending

    def encode(self, batch: Batch, columns: Columns) -> bytes:
        check_names(batch, columns)
        names = list(columns)
        fields = [
            orjson.dumps(dict(zip(names, values, strict=True)))
            for values in zip(*columns.values(), strict=True)
        ]
        if batch.dataset.kind == "jsonl":
            rows = zip(batch.raws, batch.records, fields, strict=True)
            found = [jsonl.with_fields(line, record, new) for line, record, new in rows]
        else:
            pairs = zip(batch.rows, fields, strict=True)
            found = [jsonl.with_fields(jsonl.dumps(row), row, new) for row, new in pairs]
        return jsonl.compressed(b"".join(found), self._ending)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass

    def write(self, rows: Path, new: Path) -> None:
        pass


class ParquetOutput:
    """Parquet: tables of Arrow until all rows are there and the schema is known, then one file.

    Scores are bool or double and their status text, whatever the rows of a batch come to.
    """

    def __init__(
        self, dataset: Dataset, names: list[str], bools: set[str], metadata: Mapping[str, Any]
    ) -> None:
        self._schema: Any = None
        if dataset.kind == "parquet":
            self._schema = parquet.open_parquet(dataset.path).schema_arrow
        self._names = names
        self._bools = bools
        self._metadata = metadata  # which may grow until the file is written

    def encode(self, batch: Batch, columns: Columns) -> bytes:
        import pyarrow as pa

        check_names(batch, columns)
        table = batch.table()
        if batch.dataset.kind == "jsonl":
            self._schema = parquet.joined_schema(self._schema, table.schema, batch.place(0))
        for name, values in columns.items():
            table = table.append_column(name, pa.array(values, self._type(name)))
        return parquet.frame(table)

    def _type(self, name: str) -> Any:
        import pyarrow as pa

        if name not in self._names:
            return pa.string()
        return pa.bool_() if name in self._bools else pa.float64()

    def state(self) -> dict[str, Any]:
        return {"schema": None if self._schema is None else parquet.dump_schema(self._schema)}

    def restore(self, state: Mapping[str, Any]) -> None:
        if state["schema"] is not None:
            self._schema = parquet.load_schema(state["schema"])

    def write(self, rows: Path, new: Path) -> None:
        import pyarrow as pa

        known = self._schema if self._schema is not None else pa.schema([])
        names = [*self._names, *(f"{name}_status" for name in self._names)]
        scores = pa.schema([pa.field(name, self._type(name)) for name in names])
        schema = pa.schema([*known, *scores], metadata=known.metadata)
        try:
            metadata = {b"grpo_rewards": json.dumps(self._metadata).encode()}
            parquet.write_parquet(new, parquet.unframed(rows), schema, metadata)
        except pa.ArrowException as error:
            raise BatchError(f"{new}: the rows fit no schema: {error}\n  hint: {_HINT}") from None


_HINT = "write JSON lines instead: -o OUT.jsonl"
