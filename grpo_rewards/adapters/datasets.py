"""Hugging Face datasets: a ruleset as the function of `Dataset.map`.

scored = dataset.map(gr.load("rulesets/gsm8k.reward").as_map(), batched=True)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpo_rewards.adapters.base import BatchScorer, refuse_groups


class MapFunction:
    """A batch of columns → the scores, the reward and the status of each; picklable, and its cache
    key (what `datasets` hashes) changes with the ruleset's hash.

    `columns` names dataset columns by the inputs that they feed. A ruleset that looks at whole
    groups needs `group`, the column with group ids, and `map(…, batch_size=None)`, which hands
    over all rows at once.
    """

    def __init__(
        self,
        scorer: BatchScorer,
        *,
        columns: Mapping[str, str] | None = None,
        group: str | None = None,
    ) -> None:
        if group is None:
            refuse_groups(
                scorer,
                "`map` cuts a dataset into batches",
                'as_map(group="COLUMN"), with dataset.map(…, batched=True, batch_size=None)',
            )
        self._scorer = scorer
        self._columns = dict(columns or {})
        self._group = group

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """New columns: each score under its name, None where null, and `<name>_status`."""
        known = {name: batch[name] for name in batch}
        known |= {name: batch[column] for name, column in self._columns.items()}
        if self._group is not None:
            known["group"] = batch[self._group]
        return self._scorer(**known).to_columns()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"hash": self._scorer.hash}
