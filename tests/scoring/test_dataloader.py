"""Scoring inside a worker process of a DataLoader, which may have no children of its own kind."""

from __future__ import annotations

import pytest
from conftest import ROOT

import grpo_rewards as gr

torch = pytest.importorskip("torch")

#: The second pair is one that only the last rung, in a killable process, can settle.
PAIRS = [
    ("42", r"\boxed{42}"),
    (r"\sum_{k=0}^{n} k", r"\boxed{\sum_{k=1}^{n} k}"),
    ("42", r"\boxed{41}"),
]


class Scored(torch.utils.data.Dataset):  # type: ignore[name-defined,misc]
    """Scores a row when it is asked for."""

    def __init__(self) -> None:
        self.scorer = gr.load(ROOT / "examples" / "boxed.reward", workers=1)

    def __len__(self) -> int:
        return len(PAIRS)

    def __getitem__(self, i: int) -> float:
        gold, completion = PAIRS[i]
        return float(self.scorer(completion=[completion], answer=[gold]).reward[0])


def test_a_worker_of_a_data_loader_scores_as_the_program_does() -> None:
    rows = Scored()
    here = [rows[i] for i in range(len(rows))]
    rows.scorer.close()
    assert here == [1.0, 1.0, 0.0]
    loader = torch.utils.data.DataLoader(rows, batch_size=None, num_workers=1)
    assert [float(value) for value in loader] == here
