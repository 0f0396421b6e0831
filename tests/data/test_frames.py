"""Tables in memory score as rows do: index, types and values stay what they are."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

import grpo_rewards as gr
import grpo_rewards.pandas
from grpo_rewards.data.frames import frame_schema, frames_scorer, score_frame, score_table

BOXED = ROOT / "examples" / "boxed.reward"
SCORER = gr.load(BOXED, workers=0)
GROUPED = gr.loads(
    "input completion: chat\ninput gold: num\n"
    "score long = text.length(completion)\nscore best = long == group.max(long)\n"
    "reward = 1 * best + 0 * gold",
    workers=0,
)
ROWS = {
    "completion": [r"\boxed{42}", "42", None, r"\boxed{1/2}", r"\boxed{" + "7" * 40 + "}"],
    "answer": ["42", "42", "42", "0.5", "7" * 40],
}


def _direct(**columns: Any) -> dict[str, Any]:
    return SCORER(**columns).to_columns()


def _cells(frame: pd.DataFrame) -> dict[str, list[Any]]:
    return {name: [None if v is pd.NA else v for v in frame[name]] for name in frame.columns}


def test_a_frame_scores_as_its_columns_do_under_its_own_index() -> None:
    frame = pd.DataFrame(ROWS, index=["a", "b", "b", "d", 7])
    scores = frame.grpo.score(SCORER)
    assert list(scores.index) == ["a", "b", "b", "d", 7]
    assert _cells(scores) == _direct(**ROWS)
    assert {name: str(kind) for name, kind in scores.dtypes.items() if "status" not in name} == {
        "correct": "boolean", "brief": "Float64", "reward": "Float64",
    }  # fmt: skip


def test_a_multi_index_is_kept() -> None:
    index = pd.MultiIndex.from_product([["p"], range(5)], names=["prompt", "sample"])
    scores = pd.DataFrame(ROWS, index=index).grpo.score(SCORER)
    assert scores.index.equals(index) and scores.index.names == ["prompt", "sample"]


@pytest.mark.parametrize("dtype", ["object", "string", "string[pyarrow]", "category"])
def test_text_of_every_dtype_scores_alike(dtype: str) -> None:
    frame = pd.DataFrame({name: pd.Series(values, dtype=dtype) for name, values in ROWS.items()})
    assert _cells(frame.grpo.score(SCORER)) == _direct(**ROWS)


@pytest.mark.parametrize("dtype", ["int64", "Int64", "float64", "Float64", "object"])
def test_golds_of_every_number_type_score_alike(dtype: str) -> None:
    frame = pd.DataFrame({"completion": [r"\boxed{42}", r"\boxed{3}"], "answer": [42, 4]})
    frame["answer"] = frame["answer"].astype(dtype)
    assert frame.grpo.score(SCORER)["correct"].tolist() == [True, False]


@pytest.mark.parametrize("dtype", ["Int64", "float64", "object"])
def test_a_missing_gold_is_null_and_says_so(dtype: str) -> None:
    answers = pd.Series([42, None], dtype=dtype)
    scores = pd.DataFrame({"completion": [r"\boxed{42}"] * 2, "answer": answers}).grpo.score(SCORER)
    assert scores["correct"].isna().tolist() == [False, True]
    assert scores["correct_status"].tolist() == ["ok", "missing"]


def test_integers_beyond_a_float_stay_what_they_are() -> None:
    gold = 10**40 + 1
    frame = pd.DataFrame({"completion": [rf"\boxed{{{gold}}}", rf"\boxed{{{gold - 1}}}"]})
    frame["answer"] = pd.Series([gold, gold], dtype=object)
    assert frame.grpo.score(SCORER)["correct"].tolist() == [True, False]


def test_the_frame_itself_is_left_alone() -> None:
    frame = pd.DataFrame(ROWS)
    before = frame.copy(deep=True)
    frame.grpo.score(SCORER)
    pd.testing.assert_frame_equal(frame, before)


def test_a_path_is_a_ruleset_too() -> None:
    frame = pd.DataFrame(ROWS)
    pd.testing.assert_frame_equal(frame.grpo.score(str(BOXED)), frame.grpo.score(SCORER))


def test_columns_are_bound_by_name_and_by_dotted_path() -> None:
    rows = [{"text": text} for text in ROWS["completion"]]
    frame = pd.DataFrame({"sample": rows, "truth": ROWS["answer"]})
    scores = frame.grpo.score(SCORER, columns={"completion": "sample.text", "gold": "truth"})
    assert _cells(scores) == _direct(**ROWS)


def test_mistakes_are_told_in_one_line_with_a_hint() -> None:
    frame = pd.DataFrame({"text": ["x"], "answer": ["1"]})
    with pytest.raises(gr.BatchError, match=r"no column `completion`; the table has text, answer"):
        frame.grpo.score(SCORER)
    with pytest.raises(gr.BatchError, match="has no input `completions`"):
        frame.grpo.score(SCORER, columns={"completions": "text"})
    with pytest.raises(gr.BatchError, match="looks at whole groups"):
        pd.DataFrame({"completion": ["x"], "gold": [1]}).grpo.score(GROUPED)
    twice = pd.DataFrame([["a", "b"]], columns=["completion", "completion"])
    with pytest.raises(gr.BatchError, match="two columns `completion`"):
        twice.grpo.score(SCORER)
    late = pd.DataFrame({"completion": ["x"] * 5000, "gold": [1] * 4999 + ["one"], "g": 1})
    numbers = gr.loads("input completion: chat\ninput gold: num\nreward = 1 * (gold > 0)")
    with pytest.raises(gr.BatchError, match="row 4999: column `gold`: a str"):
        late.grpo.score(numbers)


def test_groups_are_whole_wherever_their_rows_stand() -> None:
    frame = pd.DataFrame(
        {"completion": ["a", "bbb", "cc", "d"], "gold": 0.0, "prompt": [1, 2, 1, 2]}
    )
    scores = frame.grpo.score(GROUPED, group="prompt")
    assert scores["reward"].tolist() == [0, 1, 1, 0]
    with pytest.raises(gr.BatchError, match="row 1: no group id"):
        frame.assign(prompt=[1, None, 1, 2]).grpo.score(GROUPED, group="prompt")


def test_an_empty_frame_has_the_schema_of_every_other() -> None:
    schema = frame_schema(SCORER)
    empty = score_frame(pd.DataFrame(ROWS).iloc[:0], SCORER)
    pd.testing.assert_series_equal(empty.dtypes, schema.dtypes)
    full = score_frame(pd.DataFrame(ROWS), SCORER)
    pd.testing.assert_series_equal(full.dtypes, schema.dtypes)
    assert list(frame_schema(SCORER, status=False)) == ["correct", "brief", "reward"]


def test_an_arrow_table_gets_its_scores_behind_its_columns() -> None:
    table = score_table(pa.table(ROWS), SCORER)
    assert table.column_names[:2] == ["completion", "answer"]
    scores = table.drop_columns(["completion", "answer"]).to_pydict()
    assert scores == _direct(**ROWS)
    assert table.schema.field("correct").type == pa.bool_()
    with pytest.raises(gr.BatchError, match="has a column `correct` already"):
        score_table(table, SCORER)


@pytest.mark.parametrize("pickles", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
def test_what_is_mapped_over_partitions_pickles(pickles: Any) -> None:
    again = pickles.loads(pickles.dumps(frames_scorer(SCORER)))
    frame = pd.DataFrame(ROWS, index=[3, 3, 4, 5, 6])
    (scored,) = again([frame])
    assert _cells(scored[list(_direct(**ROWS))]) == _direct(**ROWS)
    assert list(scored.index) == [3, 3, 4, 5, 6]


def test_a_pickled_scorer_is_the_same_scorer() -> None:
    for scorer in (SCORER, GROUPED):
        again = cloudpickle.loads(cloudpickle.dumps(scorer))
        assert again.hash == scorer.hash and again.params == scorer.params


@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.none(), st.text(max_size=8), st.integers(-99, 99).map(r"\boxed{{{}}}".format)
            ),
            st.one_of(st.none(), st.integers(-99, 99)),
        ),
        max_size=12,
    ),
    st.integers(1, 5),
)
def test_partitions_score_as_the_whole(rows: list[Any], size: int) -> None:
    frame = pd.DataFrame(rows, columns=["completion", "answer"], dtype=object)
    whole = score_frame(frame, SCORER)
    parts = [score_frame(frame.iloc[i : i + size], SCORER) for i in range(0, len(frame), size)]
    joined = pd.concat(parts) if parts else whole
    pd.testing.assert_frame_equal(joined, whole)


def test_rows_beyond_a_slice_score_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame(ROWS)
    whole = score_frame(frame, SCORER)
    monkeypatch.setattr("grpo_rewards.data.frames.SLICE_ROWS", 2)
    pd.testing.assert_frame_equal(score_frame(frame, SCORER), whole)


def test_dask_partitions_score_as_the_frame(tmp_path: Path) -> None:
    dd = pytest.importorskip("dask.dataframe")
    frame = pd.DataFrame({name: values * 4 for name, values in ROWS.items()})
    parts = dd.from_pandas(frame, npartitions=3)
    scored = parts.map_partitions(score_frame, SCORER, meta=frame_schema(SCORER))
    found = scored.compute(scheduler="threads")
    assert _cells(found) == _direct(**{name: list(values) for name, values in frame.items()})
    assert np.array_equal(found.index, frame.index)
