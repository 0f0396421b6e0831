"""Laws of `check`: what is said of a dataset does not depend on how it comes in batches."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from typer.testing import CliRunner

import grpo_rewards as gr
from grpo_rewards.cli.main import app

HEAD = "input a: num?\ninput b: num? = 0\nscore sa = a\nscore sb = b\nreward = sa\n"
PARTS = {
    "count": "dataset.count(a)", "missing": "dataset.missing(a)", "mean": "dataset.mean(a)",
    "min": "dataset.min(a)", "max": "dataset.max(a)", "std": "dataset.std(a)",
    "fraction": "dataset.fraction(a)", "correlation": "dataset.correlation(a, b)",
    "zero_std": "group.fraction_zero_std(a)",
}  # fmt: skip
SCORER = gr.loads(HEAD + "".join(f"check {k}: {v} >= 0\n" for k, v in PARTS.items()))

values = st.one_of(st.none(), st.sampled_from([0.0, 1.0]), st.floats(-100, 100))
#: Groups of one to four rows, each row two numbers.
datasets = st.lists(
    st.lists(st.tuples(values, values), min_size=1, max_size=4), min_size=1, max_size=8
)


def run(groups: list[list[tuple[float | None, float | None]]], cuts: set[int]) -> dict[str, float]:
    """The values of all parts, the dataset cut into batches before the groups in `cuts`."""
    checks = gr.Checks(SCORER)
    batch: list[tuple[int, float | None, float | None]] = []
    for i, group in enumerate(groups):
        if i in cuts and batch:
            checks(a=[a for _, a, _ in batch], b=[b for _, _, b in batch],
                   group=[g for g, _, _ in batch])  # fmt: skip
            batch = []
        batch += [(i, a, b) for a, b in group]
    checks(a=[a for _, a, _ in batch], b=[b for _, _, b in batch], group=[g for g, _, _ in batch])
    return {name: value for result in checks.results() for name, value in result.values.items()}


def same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)


@given(datasets, st.sets(st.integers(0, 8)))
def test_batches_do_not_matter(groups, cuts) -> None:
    whole, cut = run(groups, set()), run(groups, cuts)
    for name, value in whole.items():
        if "correlation" not in name:  # on the edge of a constant column it may have no value
            assert same(value, cut[name]), name


@given(datasets)
def test_the_values_are_numpys(groups) -> None:
    found = run(groups, {2, 5})
    rows = [row for group in groups for row in group]
    a = np.array([x for x, _ in rows if x is not None])
    assert found[PARTS["count"]] == len(a)
    assert same(found[PARTS["missing"]], 1 - len(a) / len(rows))
    for name, function in {"mean": np.mean, "min": np.min, "max": np.max, "std": np.std}.items():
        assert same(found[PARTS[name]], float(function(a)) if len(a) else None)
    assert same(found[PARTS["fraction"]], float(np.mean(a != 0)) if len(a) else None)
    present = [[x for x, _ in group if x is not None] for group in groups]
    alike = [len(set(group)) == 1 for group in present if len(group) > 1]
    assume(all(abs(x - y) > 1e-6 or x == y for g in present for x in g for y in g))
    assert same(found[PARTS["zero_std"]], float(np.mean(alike)) if alike else None)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=3, max_size=20))
def test_the_correlation_is_pearsons(rows: list[tuple[float, float]]) -> None:
    a, b = np.array(rows).T
    assume(a.std() > 1e-3 and b.std() > 1e-3)
    found = run([[row] for row in rows], {1, 4, 9})[PARTS["correlation"]]
    assert found == pytest.approx(float(np.corrcoef(a, b)[0, 1]), abs=1e-6)


@given(datasets)
def test_checks_score_as_the_scorer_does(groups) -> None:
    rows = [row for group in groups for row in group]
    columns = {"a": [x for x, _ in rows], "b": [y for _, y in rows]}
    ids = [i for i, group in enumerate(groups) for _ in group]
    plain, checked = SCORER(**columns), gr.Checks(SCORER)(**columns, group=ids)
    assert plain.to_columns() == checked.to_columns()


def test_a_verdict_is_true_false_or_none() -> None:
    scorer = gr.loads(HEAD + "check few: dataset.mean(a) < 1\ncheck many: dataset.mean(a) > 1\n")
    checks = gr.Checks(scorer)
    assert [result.verdict for result in checks.results()] == [None, None]
    checks(a=[0.0, None, 1.0])
    assert [result.verdict for result in checks.results()] == [True, False]


@pytest.mark.parametrize(
    ("text", "code"),
    [("reward = dataset.mean(a)", "T32"), ("score s = group.fraction_zero_std(a)", "T32"),
     ("check c: a > 0", "T33"), ("check c: dataset.mean(a) > a", "T33"),
     ("check c: 1 > 0", "T33"), ("check c: dataset.mean(a - dataset.mean(a)) > 0", "T33"),
     ("check c: group.mean(a) > 0", "T33"), ('check c: "yes"', "T42"),
     ("attack [] expect reward <= dataset.mean(a)", "T32")],
)  # fmt: skip
def test_what_is_no_verdict_on_a_dataset_is_a_finding(text: str, code: str) -> None:
    source = "input a: num?\n" + ("" if text.startswith("reward") else "reward = 1\n") + text
    with pytest.raises(gr.RulesetError, match=code):
        gr.loads(source)


def test_the_command_prints_verdicts_and_exits_1_where_one_fails(tmp_path: Path) -> None:
    ruleset, data = tmp_path / "r.reward", tmp_path / "d.jsonl"
    ruleset.write_text(HEAD + "check low: dataset.mean(reward) <= 0.5\n")
    data.write_text("".join(json.dumps({"a": a}) + "\n" for a in (0, 1, 1)))
    command = ["score", str(ruleset), str(data)]
    assert CliRunner().invoke(app, command).exit_code == 0
    shown = CliRunner().invoke(app, [*command, "--check"])
    assert shown.exit_code == 1
    assert "check low failed: dataset.mean(reward) <= 0.5" in shown.output
    assert "dataset.mean(reward) = 0.666667" in shown.output
    found = json.loads(CliRunner().invoke(app, [*command, "--check", "--json"]).output)
    assert found["checks"][0]["verdict"] is False


def test_a_check_of_groups_asks_for_groups() -> None:
    scorer = gr.loads(HEAD + "check c: group.fraction_zero_std(a) < 1\n")
    assert not scorer.needs_groups
    with pytest.raises(gr.BatchError, match="group"):
        gr.Checks(scorer)(a=[1.0])
