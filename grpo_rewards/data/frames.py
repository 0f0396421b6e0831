"""Tables in memory: pandas frames and Arrow tables in, their scores out.

What Dask, Spark and Ray Data map over the parts of a table is made of `score_frame`, `score_table`
and a `Scorer`, all of which pickle. Every part gives the same columns of the same types, whatever
its rows came to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_rewards.columns import Column
from grpo_rewards.data.bindings import column_paths
from grpo_rewards.data.group_ids import group_key
from grpo_rewards.data.reader import NOWHERE, lookup
from grpo_rewards.data.writer import bool_scores, clash
from grpo_rewards.errors import BatchError
from grpo_rewards.scoring.inputs import ambient
from grpo_rewards.scoring.scorer import Scorer, load
from grpo_rewards.scoring.scores import labels

if TYPE_CHECKING:
    import pandas as pd

SLICE_ROWS = 4096  # rows scored at once where groups need not be whole, to bound the memory


@contextmanager
def scorer_of(ruleset: Scorer | str | Path, **options: Any) -> Iterator[Scorer]:
    """A scorer as it is, or the one of a `.reward` file, which is closed at the end."""
    if isinstance(ruleset, Scorer):
        yield ruleset
        return
    with load(ruleset, **options) as scorer:
        yield scorer


def score_frame(
    frame: pd.DataFrame,
    ruleset: Scorer | str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    group: str | None = None,
    step: float | None = None,
    progress: float | None = None,
    status: bool = True,
) -> pd.DataFrame:
    """The scores of a frame's rows under the frame's own index: `boolean` and `Float64` columns
    with NA where null, and with `status` a `<name>_status` (`string`) for each.

    `columns` names frame columns (or dotted paths into their values) by the inputs that they feed;
    `group` is the column of group ids. BatchError where a column is missing or of another type.
    """
    import pandas as pd

    with scorer_of(ruleset) as scorer:
        names = [str(name) for name in frame.columns]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise BatchError(f"the frame has two columns `{twice}`")
        series = {name: frame.iloc[:, i] for i, name in enumerate(names)}
        values = {name: _Lazy(column) for name, column in series.items()}
        found = _scored(scorer, values, len(frame), columns, group, ambient(step, progress))
        data: dict[str, Any] = {}
        for name, is_bool in bool_scores(scorer.graph).items():
            dtype = "boolean" if is_bool else "Float64"
            data[name] = pd.array(_plain(found[name]), dtype=dtype)
        if status:
            for name in found:
                data[f"{name}_status"] = pd.array(_labels(found[name]), dtype="string")
    return pd.DataFrame(data, index=frame.index)


def frames_scorer(
    ruleset: Scorer, **options: Any
) -> Callable[[Iterable[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """A function from frames to frames with their scores beside them, for Spark's `mapInPandas`;
    `options` are those of `score_frame`. It pickles."""
    return _FrameScorer(ruleset, options)


class _FrameScorer:
    def __init__(self, scorer: Scorer, options: Mapping[str, Any]) -> None:
        self._scorer, self._options = scorer, dict(options)

    def __call__(self, frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for frame in frames:
            scores = score_frame(frame, self._scorer, **self._options)
            refuse_names(frame.columns, scores.columns)
            yield frame.join(scores) if frame.index.is_unique else _beside(frame, scores)


def _beside(frame: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Joined by position, for an index that has a label twice."""
    return frame.assign(**{name: scores[name].array for name in scores.columns})


def frame_schema(ruleset: Scorer, *, status: bool = True) -> pd.DataFrame:
    """An empty frame of what `score_frame` gives: the `meta` that Dask asks for."""
    import pandas as pd

    kinds = bool_scores(ruleset.graph)
    types = {name: "boolean" if is_bool else "Float64" for name, is_bool in kinds.items()}
    data: dict[str, Any] = {name: pd.array([], dtype=dtype) for name, dtype in types.items()}
    if status:
        data |= {f"{name}_status": pd.array([], dtype="string") for name in types}
    return pd.DataFrame(data)


def score_table(
    table: Any,
    ruleset: Scorer | str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    group: str | None = None,
    step: float | None = None,
    progress: float | None = None,
    status: bool = True,
) -> Any:
    """A `pyarrow.Table` with its scores behind its own columns, as `score -o OUT.parquet` writes
    them. Options and errors are those of `score_frame`."""
    import pyarrow as pa

    with scorer_of(ruleset) as scorer:
        values = {name: _Lazy(table.column(name)) for name in table.column_names}
        kinds = bool_scores(scorer.graph)
        added = [*kinds, *(f"{name}_status" for name in kinds if status)]
        refuse_names(table.column_names, added)
        found = _scored(scorer, values, table.num_rows, columns, group, ambient(step, progress))
        for name, is_bool in kinds.items():
            kind = pa.bool_() if is_bool else pa.float64()
            table = table.append_column(name, pa.array(_plain(found[name]), kind))
        for name in kinds if status else ():
            cells = pa.array(_labels(found[name]), pa.string())
            table = table.append_column(f"{name}_status", cells)
    return table


def refuse_names(known: Iterable[Any], added: Iterable[str]) -> None:
    """DataError where a table has a column of a score's name already."""
    names = set(map(str, known))
    for name in added:
        if name in names:
            raise clash(name)


class _Lazy:
    """A column of a table that becomes plain Python values when somebody asks, so that columns
    that no input reads are never converted."""

    def __init__(self, column: Any) -> None:
        self._column = column
        self._values: list[Any] | None = None

    def values(self) -> list[Any]:
        if self._values is None:
            column = self._column
            convert = getattr(column, "to_pylist", None) or column.tolist
            self._values = convert()
        return self._values


def _scored(
    scorer: Scorer,
    table: Mapping[str, _Lazy],
    size: int,
    mapping: Mapping[str, str] | None,
    group: str | None,
    given_at: Mapping[str, float],
) -> dict[str, list[Column]]:
    """The columns of the scores, slice by slice; one slice where groups are looked at."""
    paths = column_paths(scorer, mapping or {}, list(table))
    if scorer.needs_groups and group is None:
        raise no_group_column()
    given = {name: _at(table, path) for name, path in paths.items()}
    if scorer.needs_groups:
        given["group"] = group_ids(_at(table, str(group)), str(group))
    at_once = max(1, size) if scorer.needs_groups else SLICE_ROWS
    found: dict[str, list[Column]] = {name: [] for name in (*scorer.names, "reward")}
    for start in range(0, size, at_once):
        part = {name: values[start : start + at_once] for name, values in given.items()}
        rows = next((len(values) for values in part.values()), min(at_once, size - start))
        part = part or {"": [None] * rows}  # a ruleset without inputs has as many scores as rows
        for name, column in _in_place(scorer, part, given_at, start).items():
            found[name].append(column)
    return found


def _in_place(
    scorer: Scorer, part: Mapping[str, Any], ambient: Mapping[str, Any], start: int
) -> Mapping[str, Column]:
    try:
        return scorer(**part, **ambient).columns
    except BatchError as error:
        if error.row is not None:
            error.row += start  # of the table, not of the slice
        raise


def _at(table: Mapping[str, _Lazy], path: str) -> Sequence[Any]:
    """The column at a path: of that name, or inside the values of the one that it begins with."""
    if path in table:
        return table[path].values()
    top, _, rest = path.partition(".")
    if rest and top in table:
        inner = [lookup(value, rest) for value in table[top].values()]
        if any(value is not NOWHERE for value in inner):
            return [None if value is NOWHERE else value for value in inner]
    names = ", ".join(table) or "none"
    hint = 'bind it with columns={"INPUT": "COLUMN"}'
    raise BatchError(f"no column `{path}`; the table has {names}", hint=hint)


def no_group_column() -> BatchError:
    """The error of a ruleset that looks at groups where no column of group ids is named."""
    hint = 'name the column of group ids: group="COLUMN"'
    return BatchError("the ruleset looks at whole groups", hint=hint)


def group_ids(values: Sequence[Any], name: str) -> list[Any]:
    """The values of a column as group ids. BatchError where one is missing."""
    for i, value in enumerate(values):
        is_absent = value is None or value is NOWHERE or type(value).__name__ == "NAType"
        if is_absent or value != value:
            raise BatchError(f"no group id in column `{name}`", row=i)
    return [group_key(value) for value in values]


def _plain(parts: list[Column]) -> list[Any]:
    """Plain values, None where null."""
    return [
        value if there else None
        for part in parts
        for value, there in zip(part.values.tolist(), part.present.tolist(), strict=True)
    ]


def _labels(parts: list[Column]) -> list[str]:
    return [label for part in parts for label in labels(part)]
