"""Random rulesets by the thousand: the plan equals the oracle, inside the inferred range."""

from __future__ import annotations

from typing import Any

import oracle
import pytest
from hypothesis import given, settings
from strategies import as_columns, batches, close, sound_rulesets

import grpo_rewards as gr


def agree(ruleset: gr.Ruleset, batch: list[dict[str, Any]]) -> None:
    """Every value of every row equals the oracle's and lies inside its inferred range."""
    scorer = gr.loads(str(ruleset), workers=0)
    columns = scorer(**as_columns(batch)).columns
    for i, row in enumerate(batch):
        expected = oracle.interpret(ruleset, row)
        for name, column in columns.items():
            value = column.row(i)
            assert (value is None) == isinstance(expected[name], oracle.Absent), (name, row)
            if value is not None:
                assert close(float(value), float(expected[name])), (name, row)
                assert scorer.ranges[name].covers(gr.Interval(float(value), float(value)))


@settings(max_examples=50)
@given(sound_rulesets(), batches)
def test_a_random_ruleset_scores_what_the_oracle_says_inside_its_range(
    ruleset: gr.Ruleset, batch: list[dict[str, Any]]
) -> None:
    agree(ruleset, batch)


@pytest.mark.slow
@settings(max_examples=5_000)
@given(sound_rulesets(), batches)
def test_five_thousand_random_rulesets_do(ruleset: gr.Ruleset, batch: list[dict[str, Any]]) -> None:
    agree(ruleset, batch)
