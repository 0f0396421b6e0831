"""Laws of scoring: the plan says of every row what a plain interpreter says of it alone."""

from __future__ import annotations

import math
import pickle
import threading
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import BOOL_COLUMNS, NUM_COLUMNS, as_columns, batches, close, sound_rulesets

import grpo_rewards as gr
from grpo_rewards.columns import Column, Status
from grpo_rewards.syntax.parser import parse


def _scorer(ruleset: gr.Ruleset) -> gr.Scorer:
    return gr.loads(str(ruleset), workers=0)


def _agrees(found: Any, expected: Any) -> bool:
    if isinstance(expected, oracle.Absent):
        return found is None
    return found is not None and close(float(found), float(expected))


@given(sound_rulesets(), batches)
def test_the_plan_equals_the_interpreter(ruleset: gr.Ruleset, batch: list[dict[str, Any]]) -> None:
    columns = _scorer(ruleset)(**as_columns(batch)).columns
    for i, row in enumerate(batch):
        expected = oracle.interpret(ruleset, row)
        for name, column in columns.items():
            assert _agrees(column.row(i), expected[name]), (name, row)


@given(sound_rulesets(), batches)
def test_every_value_lies_inside_its_inferred_range(
    ruleset: gr.Ruleset, batch: list[dict[str, Any]]
) -> None:
    scorer = _scorer(ruleset)
    scores = scorer(**as_columns(batch))
    for name, column in scores.columns.items():
        interval = scorer.ranges[name]
        for value in column.values[column.present].astype(float):
            assert interval.covers(gr.Interval(value, value)), (name, value, interval)


@given(sound_rulesets(), batches, st.randoms(use_true_random=False))
def test_rows_permute(ruleset: gr.Ruleset, batch: list[dict[str, Any]], random: Any) -> None:
    scorer = _scorer(ruleset)
    order = list(range(len(batch)))
    random.shuffle(order)
    straight = scorer(**as_columns(batch)).reward
    shuffled = scorer(**as_columns([batch[i] for i in order])).reward
    np.testing.assert_array_equal(straight[order], shuffled)


@given(sound_rulesets(), batches, st.integers(0, 8))
def test_a_batch_splits_anywhere(ruleset: gr.Ruleset, batch: list[dict[str, Any]], at: int) -> None:
    scorer = _scorer(ruleset)
    whole = scorer(**as_columns(batch)).reward
    parts = [scorer(**as_columns(part)).reward for part in (batch[:at], batch[at:]) if part]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


@given(sound_rulesets(), batches)
def test_nothing_infinite_leaves_a_ruleset(
    ruleset: gr.Ruleset, batch: list[dict[str, Any]]
) -> None:
    for column in _scorer(ruleset)(**as_columns(batch)).columns.values():
        assert np.isfinite(column.values.astype(float)).all()


@given(sound_rulesets(), batches)
def test_a_scorer_travels_by_pickle(ruleset: gr.Ruleset, batch: list[dict[str, Any]]) -> None:
    scorer = _scorer(ruleset)
    copy = pickle.loads(pickle.dumps(scorer))
    assert copy.hash == scorer.hash
    columns = as_columns(batch)
    np.testing.assert_array_equal(copy(**columns).reward, scorer(**columns).reward)


@given(sound_rulesets())
def test_text_and_tree_have_one_hash(ruleset: gr.Ruleset) -> None:
    spaced = str(ruleset).replace(" ", "   ").replace("\n", "\n# a comment\n")
    assert gr.loads(spaced).hash == _scorer(ruleset).hash


TRUTHS = [True, False, None]


@pytest.mark.parametrize("left", TRUTHS)
@pytest.mark.parametrize("right", TRUTHS)
def test_kleene(left: bool | None, right: bool | None) -> None:
    scorer = gr.loads(
        "input p: bool\ninput q: bool\nscore both = p and q\nscore any = p or q\n"
        "score same = not (p and q) == (not p or not q)\nreward = both"
    )
    scores = scorer(p=[left], q=[right])
    known = [v for v in (left, right) if v is not None]
    both = False if False in known else None if None in (left, right) else True
    either = True if True in known else None if None in (left, right) else False
    assert scores.columns["both"].row(0) == both
    assert scores.columns["any"].row(0) == either


def test_logic_absorbs_errors_and_arithmetic_does_not() -> None:
    scorer = gr.loads(
        "input completion: chat\ninput p: bool\nlet long = text.length(completion) > 0\n"
        "score a = p and long\nscore b = p + long\nreward = 0\n"
        "policy { limit chars 5 on error -> null }"
    )
    scores = scorer(completion=["too long", "too long", "ok"], p=[False, True, True])
    assert scores.columns["a"].row(0) is False or scores.columns["a"].row(0) == np.False_
    assert scores.columns["a"].row(1) is None
    assert scores.status["a"] == ["ok", "too_large", "ok"]
    assert scores.status["b"] == ["too_large", "too_large", "ok"]


@pytest.mark.parametrize("expr", ["n + long", "long + n"])
def test_an_error_wins_over_a_null(expr: str) -> None:
    scorer = gr.loads(
        "input completion: chat\ninput n: num\nlet long = text.length(completion)\n"
        f"score s = {expr}\nreward = s\npolicy {{ limit chars 5 on error -> null }}"
    )
    scores = scorer(completion=["too long", "ok"], n=[None, None])
    assert scores.status["s"] == ["too_large", "missing"]


def test_only_null_is_replaced_and_found_by_a_comparison_with_null() -> None:
    scorer = gr.loads(
        "input completion: chat\nlet long = text.length(completion)\nscore a = long ?? 7\n"
        "score b = long == null\nreward = 0\npolicy { limit chars 5 on error -> null }"
    )
    scores = scorer(completion=["too long"])
    assert scores.status["a"] == scores.status["b"] == ["too_large"]
    assert scores.columns["a"].row(0) is scores.columns["b"].row(0) is None


def test_where_clamps_bounds_cross_the_lower_one_wins() -> None:
    assert gr.loads("input a: num\nreward = clamp(a, 2, 1)")(a=[0]).reward[0] == 2


def test_two_ops_over_one_text_are_remembered_apart() -> None:
    scorer = gr.loads(
        "input t: text\ninput g: text\nscore exact = math.equal(t, g)\n"
        "score near = math.equal(t, g, rtol=0.1)\nreward = near - exact",
        workers=0,
    )
    for _ in range(2):
        assert scorer(t=["1.05"], g=["1"]).reward[0] == 1


def test_a_completion_over_the_limit_gets_the_lowest_value_unless_the_policy_says_else() -> None:
    text = "input completion: chat\nscore s in -1..1 = clamp(text.length(completion) - 5, -1, 1)\n"
    text += "reward in -1..1 = s\npolicy {{ limit chars 5 {} }}"
    assert gr.loads(text.format(""))(completion=["x" * 9]).reward[0] == -1
    assert gr.loads(text.format("on error -> 0"))(completion=["x" * 9]).reward[0] == 0
    assert math.isnan(gr.loads(text.format("on error -> null"))(completion=["x" * 9]).reward[0])


class _Counting:
    """Counts the rows that a kernel sees."""

    def __init__(self, function: Any) -> None:
        self.function, self.rows = function, 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.rows += 1
        return self.function(*args, **options)


@pytest.mark.parametrize(
    ("expr", "needed"),
    [
        ("text.length(t) if p else 0", 2),
        ("case { not p -> 0, else -> text.length(t) }", 2),
        ("p and text.length(t) > 1", 2),
        ("p or text.length(t) > 1", 1),
        ("n ?? text.length(t)", 1),
        ("text.length(t) + text.length(t)", 3),
    ],
)
def test_a_kernel_never_sees_a_row_that_is_not_needed(
    expr: str, needed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from grpo_rewards.rules.catalog import CATALOG
    from grpo_rewards.rules.rule import RowKernel

    rule = CATALOG["text.length"]
    assert isinstance(rule.kernel, RowKernel)
    counting = _Counting(rule.kernel.function)
    kernel = dataclasses.replace(rule.kernel, function=counting)
    monkeypatch.setitem(CATALOG, "text.length", dataclasses.replace(rule, kernel=kernel))
    scorer = gr.loads(f"input t: text\ninput p: bool\ninput n: num\nreward = {expr}")
    columns = {"t": ["a", "bb", "c"], "p": [True, True, False], "n": [1, 2, None]}
    scorer(**{name: columns[name] for name in scorer.inputs})
    assert counting.rows == needed


def test_one_scorer_serves_many_threads() -> None:
    scorer = gr.loads(
        "input completion: chat\ninput gold: text\nreward = math.equal(completion, gold)", workers=0
    )
    numbers = [str(i) for i in range(200)]
    results: list[Any] = []

    def work() -> None:
        results.append(scorer(completion=numbers, gold=numbers[::-1]).reward.tolist())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result == results[0] for result in results)


def test_status_says_why() -> None:
    scorer = gr.loads("input a: num\nscore half = 1 / a\nreward = half ?? 0")
    scores = scorer(a=[2, 0, None])
    assert scores.status["half"] == ["ok", "undefined", "missing"]
    assert scores.reward.tolist() == [0.5, 0, 0]


def test_columns_join_back_from_rows() -> None:
    column = Column.from_rows([1.0, None, Status.TIMEOUT], float)
    assert column.is_null.tolist() == [False, True, False]
    assert column.is_error.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1, 2], "b": [1]}, "differ in length"),
        ({"a": "text"}, "pass a list"),
        ({}, "no columns"),
        ({"b": [1]}, "`a` is missing"),
        ({"a": ["x"]}, "row 0: column `a`: a str"),
    ],
)
def test_a_wrong_batch_is_one_clear_error(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(gr.BatchError, match=message):
        gr.loads("input a: num\nreward = a")(**columns)


def test_parse_and_oracle_share_the_columns() -> None:
    assert set(NUM_COLUMNS) | set(BOOL_COLUMNS) == {"a", "b", "c", "p", "q"}
    assert parse("reward = 1")


def test_a_format_that_may_backtrack_is_stopped_at_its_deadline() -> None:
    text = (
        "input completion: chat\n"
        "format slow = lark'''\n  start: WORDS \"<\"\n  WORDS: /(\\w+\\s?)+(?=<)/\n'''\n"
        "score fits = match(slow, completion).ok\nreward = fits\n"
        "policy { timeout 500ms on timeout -> 0 }"
    )
    with gr.loads(text) as scorer:
        scores = scorer(completion=["a b<", "a" * 60, "no"])
    assert scores["fits"].tolist() == [True, False, False]
    assert scores.status["fits"] == ["ok", "timeout", "ok"]
