"""Which column of a dataset feeds which input of a ruleset, and the inputs of some of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_rewards.data.group_ids import group_key
from grpo_rewards.data.kinds import open_dataset
from grpo_rewards.errors import BatchError, DataError
from grpo_rewards.scoring.scorer import Scorer
from grpo_rewards.types import Level

BATCH_ROWS = 512  # large enough to pay for a batch, small enough to show progress
_GROUP = "group id"  # no input has a name with a space


def column_paths(scorer: Scorer, mapping: Mapping[str, str], fields: list[str]) -> dict[str, str]:
    """Where each input of a ruleset comes from: what the caller maps, else the first of its
    sources that the file has, else its own name; the step of a run need not be in it."""
    paths: dict[str, str] = {}
    for name in scorer.inputs:
        spec = scorer.graph.inputs[name]
        mapped = [source for source in spec.names if source in mapping]
        present = [source for source in spec.names if source in fields]
        if mapped:
            paths[name] = mapping[mapped[0]]
        elif present:
            paths[name] = present[0]
        elif not spec.has_default and spec.level != Level.CONST:
            paths[name] = spec.sources[0]  # the dataset says that it is missing
    unknown = unknown_inputs(scorer, mapping)
    if unknown:
        hint = f"it has {', '.join(scorer.inputs)}"
        raise BatchError(f"the ruleset has no input `{unknown[0]}`", hint=hint)
    return paths


def unknown_inputs(scorer: Scorer, mapping: Mapping[str, str]) -> list[str]:
    """The names in a mapping by which the ruleset has no input, in alphabetical order."""
    known = {source for name in scorer.inputs for source in scorer.graph.inputs[name].names}
    return sorted(set(mapping) - known)


def read_rows(
    scorer: Scorer,
    source: Path,
    *,
    mapping: Mapping[str, str] | None = None,
    extra: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """The inputs of a ruleset for the first rows of a dataset, a dict a row; `extra` names further
    columns by their paths."""
    with open_dataset(source) as dataset:
        paths = {**column_paths(scorer, mapping or {}, dataset.fields()), **(extra or {})}
        return [
            {name: values[i] for name, values in batch.columns.items()}
            for batch in dataset.batches(BATCH_ROWS, columns=paths, limit=limit)
            for i in range(len(batch))
        ]


def read_row(
    scorer: Scorer,
    source: Path,
    row: int,
    *,
    mapping: Mapping[str, str] | None = None,
    group: str | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The inputs of one row of a dataset, by its number from 0, and those of the other rows of its
    group, by a column of group ids."""
    extra = {} if group is None else {_GROUP: group}
    limit = row + 1 if group is None else None
    rows = read_rows(scorer, source, mapping=mapping, extra=extra, limit=limit)
    if row >= len(rows):
        raise DataError(f"{source}: there is no row {row}; it has {len(rows)}")
    keys = [group_key(one.pop(_GROUP, None)) for one in rows]
    mates = [one for i, one in enumerate(rows) if group and i != row and keys[i] == keys[row]]
    return rows[row], mates
