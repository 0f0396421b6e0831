"""Scored rows out: encoded batch by batch, and put together into the file at the end.

Each kind of file has one `Writer`: `jsonl.LinesWriter` and `parquet.ParquetWriter`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from grpo_rewards.compiler.graph import Graph
from grpo_rewards.data.reader import Batch
from grpo_rewards.errors import DataError

Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Output:
    """What a writer has to know besides the rows.

    `schema` is the Arrow schema of the rows, None where it has to be inferred from all of them;
    `scores` tells of every score, the reward last, whether it is a bool; `metadata` says with what
    the rows were scored.
    """

    schema: Any
    scores: Mapping[str, bool]
    metadata: Mapping[str, Any]


def bool_scores(graph: Graph) -> dict[str, bool]:
    """Whether each score, the reward last, is a bool."""
    return {name: graph[number].type.kind == "bool" for name, number in graph.columns.items()}


class Writer(Protocol):
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
        """Make the file `new` out of all encoded rows; nothing where they are the file already."""
        ...


def refuse_clash(batch: Batch, added: Columns) -> None:
    """DataError where a row has a column of a score's name already."""
    new = frozenset(added)
    for i, names in enumerate(batch.reader.names(batch)):
        if not new.isdisjoint(names):
            raise clash(min(new.intersection(names)), f"{batch.place(i)}: ")


def clash(name: str, place: str = "") -> DataError:
    """The error of data that have a column of a score's name already."""
    hint = "rename the score, or drop the column"
    return DataError(f"{place}the data has a column `{name}` already", hint=hint)
