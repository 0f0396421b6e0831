"""What comes out: named columns with their status, and the reward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from grpo_rewards.columns import Column, Status
from grpo_rewards.scoring.execution import OpStats

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Summary:
    """One score over many rows. `mean` and `std` (population) are over the rows with a value;
    `hits` rows were answered from memory, `kills` deadlines struck."""

    name: str
    rows: int
    mean: float
    std: float
    null: int
    error: int
    seconds: float
    hits: int = 0
    kills: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The scores of one batch: `columns` in the ruleset's order, the reward last.

    Indexing gives plain arrays: `scores["correct"]` [B] bool, or float64 with NaN for null.
    `ops` says what each op of the plan cost, by its number in the graph.
    """

    columns: Mapping[str, Column]
    hash: str
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    ops: Mapping[int, OpStats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["reward"])

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the scores, without the reward."""
        return tuple(name for name in self.columns if name != "reward")

    @property
    def reward(self) -> npt.NDArray[np.float64]:
        """[B] float64, NaN where the reward is null."""
        return as_floats(self.columns["reward"])

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """The values of one score [B]: bool where all are there, else float64 with NaN."""
        column = self.columns[name]
        if column.values.dtype == np.bool_ and column.present.all():
            return column.values
        return as_floats(column)

    @property
    def status(self) -> dict[str, list[str]]:
        """Why each value is what it is, by score, the reward included: `ok`, `missing`, …"""
        return {name: labels(column) for name, column in self.columns.items()}

    def to_columns(self) -> dict[str, Any]:
        """Columns for a file or a frame: each score under its name, None where null, and
        `<name>_status` beside every score."""
        result: dict[str, Any] = {}
        for name, column in self.columns.items():
            values = column.values.tolist()
            pairs = zip(values, column.present, strict=True)
            result[name] = [value if there else None for value, there in pairs]
        for name, column in self.columns.items():
            result[f"{name}_status"] = labels(column)
        return result

    def to_frame(self, *, status: bool = True) -> pd.DataFrame:
        """A pandas frame: nullable Float64 and boolean columns; `<name>_status` where some value
        is null, failed or has a reason."""
        import pandas as pd

        data: dict[str, Any] = {}
        for name, column in self.columns.items():
            dtype = "boolean" if column.values.dtype == np.bool_ else "Float64"
            values = column.values.astype(object)
            values[~column.present] = None
            data[name] = pd.array(values, dtype=dtype)
        for name, column in self.columns.items():
            if status and column.status.any():
                data[f"{name}_status"] = labels(column)
        return pd.DataFrame(data)

    def summary(self) -> list[Summary]:
        """A row per score, the reward last."""
        return [
            summarise(name, column, self.seconds.get(name, 0.0))
            for name, column in self.columns.items()
        ]

    def __repr__(self) -> str:
        means = ", ".join(f"{row.name}={row.mean:.3g}" for row in self.summary())
        return f"<Scores of {len(self)} rows: {means}>"


def as_floats(column: Column) -> npt.NDArray[np.float64]:
    """[B] float64 with NaN where there is no value."""
    return np.where(column.present, column.values.astype(np.float64), np.nan)


def labels(column: Column) -> list[str]:
    """The status of every row as text; `null` for a null that gives no other reason."""
    names = {int(status): status.label for status in Status}
    present = column.present
    return [
        names[int(code)] if there or code else "null"
        for code, there in zip(column.status, present, strict=True)
    ]


def summarise(name: str, column: Column, seconds: float) -> Summary:
    """Mean, standard deviation and counts of one column; NaN where no row has a value."""
    values = column.values[column.present].astype(np.float64)
    mean, std = (float(values.mean()), float(values.std())) if len(values) else (np.nan, np.nan)
    # The policy has turned errors into nulls by now; their status still tells them apart.
    error = ~column.present & (column.status >= Status.TIMEOUT)
    null = ~column.present & ~error
    return Summary(name, len(column), mean, std, int(null.sum()), int(error.sum()), seconds)
