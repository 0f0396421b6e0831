"""Random rulesets by the thousand: the plan equals the oracle, inside the inferred range."""

from __future__ import annotations

import dataclasses
from typing import Any

import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import as_columns, batches, bool_exprs, close, num_exprs, sound_rulesets

import grpo_rewards as gr
from grpo_rewards.audit.test_blocks import run_tests
from grpo_rewards.syntax import tree as x
from grpo_rewards.syntax.parser import parse_all


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


# What a file says about its ruleset (`test`, `attack`, `check`) is no part of it.

SOURCE = {"a": "first", "q": "truth"}  # columns that two of the inputs are read from

_truths = st.one_of(
    st.builds(x.call, st.sampled_from(["<", ">="]), st.just(x.Name("reward")), num_exprs(1)),
    bool_exprs(1),
    st.sampled_from(["n_tokens", "step", "progress"]).map(lambda name: x.Name(name) >= 0),
)
_cells = st.fixed_dictionaries(
    {name: st.just(1) for name in "abc"},
    optional={"p": st.booleans(), "q": st.none(), "n_tokens": st.just(7), "first": st.just(2),
              "step": st.just(3)},
)  # fmt: skip
_tests = st.builds(
    lambda name, cells, expects, own: x.Test(
        name,
        (x.Row(tuple((column, x.Const(value)) for column, value in {**cells, **own}.items())),),
        tuple(x.Expect(e) for e in [*expects, *(x.Name(column) == "x" for column in own)]),
    ),
    st.sampled_from(["one", "two"]),
    st.one_of(_cells, _cells.map(lambda cells: {**cells, "p": True, "q": False})),
    st.lists(_truths, min_size=1, max_size=2),
    st.sampled_from([{}, {"note": "x"}]),  # a column that only the test itself reads
)
_attacks = st.builds(x.Attack, st.just(("empty",)), _truths)
_checks = st.builds(
    lambda name, inner: x.Check(name, x.call("dataset.mean", inner) >= 0),
    st.sampled_from(["k", "l"]),
    st.one_of(num_exprs(1), st.just(x.Name("n_tokens"))),
)
_blocks = st.lists(st.one_of(_tests, _attacks, _checks), max_size=4).map(tuple)


def _from(ruleset: x.Ruleset) -> x.Ruleset:
    """The same ruleset, two of its inputs read from columns of other names."""
    return x.Ruleset(
        tuple(
            x.Input(item.name, item.type, (SOURCE[item.name],))
            if isinstance(item, x.Input) and item.name in SOURCE
            else item
            for item in ruleset.statements
        )
    )


def _loaded(ruleset: x.Ruleset, imported: x.Ruleset | None) -> gr.Scorer:
    parsed = parse_all(str(ruleset))
    if imported is not None:
        inner = parse_all(str(imported), name="inner.reward")
        parsed = dataclasses.replace(parsed, imports={"inner.reward": inner})
    return gr.Scorer(parsed, workers=0)


def _compiled(scorer: gr.Scorer) -> tuple[Any, ...]:
    """All that scores depend on."""
    ranges = {name: str(interval) for name, interval in scorer.ranges.items()}
    return scorer.hash, scorer.inputs, scorer.graph.inputs, scorer.explain(), ranges


@settings(max_examples=60)
@given(sound_rulesets(), _blocks, _blocks, st.booleans(), batches)
def test_tests_attacks_and_checks_change_nothing_of_a_ruleset(
    ruleset: x.Ruleset,
    blocks: tuple[x.Statement, ...],
    inner_blocks: tuple[x.Statement, ...],
    is_imported: bool,
    batch: list[dict[str, Any]],
) -> None:
    ruleset = _from(ruleset)
    inner = inner_with = None
    if is_imported:
        inner, inner_with = ruleset, x.Ruleset((*ruleset.statements, *inner_blocks))
        scores = [item.name for item in ruleset.statements if isinstance(item, x.Score)]
        parts = [x.Score(name, None, x.Attr(x.Name("i"), name)) for name in scores]
        total = x.Reward(None, x.call("+", x.Name(scores[0]), x.Name(scores[-1])))
        ruleset = x.Ruleset((x.Import("inner.reward", "i"), *parts, total))
        own = (*"abcpq",)  # names of the imported file are columns of a test, not names of a check
        blocks = tuple(b for b in blocks if isinstance(b, x.Test) or not _reads(b, own))
        blocks = tuple(b for b in blocks if not isinstance(b, x.Test) or _has(b, own))
    bare = _loaded(ruleset, inner)
    full = _loaded(x.Ruleset((*ruleset.statements, *blocks)), inner_with)
    assert _compiled(full) == _compiled(bare)
    columns = {SOURCE.get(name, name): values for name, values in as_columns(batch).items()}
    left, right = (scorer(**columns).to_columns() for scorer in (bare, full))
    assert repr(left) == repr(right)
    run_tests(full)
    assert repr(full(**columns).to_columns()) == repr(left)


def _reads(statement: x.Statement, names: tuple[str, ...]) -> bool:
    condition = statement.expect if isinstance(statement, x.Attack) else statement.condition
    return any(isinstance(node, x.Name) and node.id in names for node in x.walk(condition))


def _has(test: x.Test, names: tuple[str, ...]) -> bool:
    """Whether a test brings every column, so that its expectations may name any."""
    return set(names) <= {name for name, _ in test.rows[0].columns}
