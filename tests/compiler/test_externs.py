"""Laws of a user's own rules: what they declare is what the language sees and what they keep."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import grpo_rewards as gr
from grpo_rewards.cli.main import app

EXAMPLE = ROOT / "examples" / "brevity.reward"


@gr.rule(range=(0, 1))
def halved(value: float) -> float:
    return value / 2


@gr.rule(range=(0, 1), batch=True)
def halved_at_once(values: list[float]) -> list[float]:
    return [value / 2 for value in values]


@gr.rule()
def is_absent(value: float | None) -> bool:
    return value is None


@gr.rule()
def shouted(text: str) -> str:
    return text.upper()


@gr.rule(range=(0, 1))
def broken(value: float) -> float:
    if value == 0:
        raise KeyError("nothing")
    return value


value = gr.col("value", "num?")
numbers = st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=8)


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    return EXAMPLE


@given(numbers)
def test_a_rule_of_ones_own_is_strict_in_null(values: list[float | None]) -> None:
    scores = gr.compile(reward=halved(value))(value=values)
    expected = [None if v is None else v / 2 for v in values]
    assert scores.to_columns()["reward"] == expected


@given(numbers)
def test_by_row_and_at_once_agree(values: list[float | None]) -> None:
    scores = gr.compile(one=halved(value), reward=halved_at_once(value))(value=values)
    columns = scores.to_columns()
    assert columns["one"] == columns["reward"]


@given(numbers)
def test_a_nullable_parameter_is_asked_of_nulls(values: list[float | None]) -> None:
    scores = gr.compile(reward=is_absent(value))(value=values)
    assert list(scores.reward) == [v is None for v in values]


def test_the_declared_range_is_the_inferred_range() -> None:
    scorer = gr.compile(reward=3 * halved(value) - 1)
    assert scorer.ranges["reward"] == gr.Interval(-1, 2)
    assert gr.compile(reward=is_absent(value)).ranges["reward"] == gr.Interval(0, 1)


def test_a_text_rule_feeds_another() -> None:
    reward = gr.text.contains(shouted(gr.completion), "OK")
    assert list(gr.compile(reward=reward)(completion=["ok", "no"]).reward) == [1, 0]


def test_a_rule_sees_only_the_rows_that_need_it() -> None:
    seen: list[float] = []

    @gr.rule(range=(0, 1))
    def watched(value: float) -> float:
        seen.append(value)
        return value

    gr.compile(reward=gr.where(value > 0.5, watched(value), 0))(value=[0.2, 0.7, None, 0.9])
    assert seen == [0.7, 0.9]


@pytest.mark.parametrize("bad", [1.5, "text", object()])
def test_what_breaks_its_declaration_is_an_error_with_the_row(bad: object) -> None:
    @gr.rule(range=(0, 1))
    def liar(value: float) -> float:
        return bad if value > 0 else 0.0  # type: ignore[return-value]

    with pytest.raises(gr.RuleError, match=r"liar.*row 2"):
        gr.compile(reward=liar(value))(value=[0, None, 1])


def test_what_it_raises_is_an_error_with_the_row_of_the_batch() -> None:
    reward = gr.where(value < 0.5, broken(value), 1)
    with pytest.raises(gr.RuleError, match=r"broken.*row 3: KeyError") as caught:
        gr.compile(reward=reward)(value=[0.9, 0.2, 0.8, 0.0])
    assert isinstance(caught.value.__cause__.__cause__, KeyError)


@pytest.mark.parametrize(
    "bad",
    [None, 0.5, "12", {"a": 1, "b": 2}, np.array(0.5), [0.5], (1 / n for n in (1, 0))],
    ids=["none", "number", "text", "mapping", "scalar", "short", "raises"],
)
def test_a_batch_rule_without_a_value_a_row_is_an_error_with_its_name(bad: object) -> None:
    @gr.rule(range=(0, 1), batch=True)
    def absent(values: list[float]) -> list[float]:
        return bad  # type: ignore[return-value]

    with pytest.raises(gr.RuleError, match="rule `absent` failed on row 1: "):
        gr.compile(reward=absent(value))(value=[None, 0, 1])


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=8), st.booleans())
def test_none_for_a_row_is_null_by_row_and_at_once(
    answers: list[float | None], array: bool
) -> None:
    @gr.rule(range=(0, 1), batch=True)
    def some(places: list[float]) -> list[float | None]:
        found = [answers[int(i)] for i in places]
        return np.array(found, dtype=object) if array else found  # type: ignore[return-value]

    @gr.rule(range=(0, 1))
    def one(place: float) -> float | None:
        return answers[int(place)]

    scorer = gr.compile(by_row=one(value), reward=some(value))
    columns = scorer(value=list(range(len(answers)))).to_columns()
    assert columns["by_row"] == columns["reward"] == answers


def test_not_a_number_and_none_are_null() -> None:
    @gr.rule()
    def odd(value: float) -> float:
        return float("nan") if value else None  # type: ignore[return-value]

    assert gr.compile(reward=odd(value))(value=[0, 1]).to_columns()["reward"] == [None, None]


@pytest.mark.parametrize(
    "source",
    ["def f(a): return 1", "def f() -> float: return 1", "def f(a: dict) -> float: return 1",
     "def f(a: float) -> list[dict]: return []", "def clamp(a: float) -> float: return a"],
)  # fmt: skip
def test_a_function_without_usable_types_is_refused_where_it_is_written(source: str) -> None:
    names: dict[str, object] = {}
    exec(source, names)
    function = next(v for k, v in names.items() if k in ("f", "clamp"))
    with pytest.raises((TypeError, ValueError)):
        gr.rule()(function)  # type: ignore[arg-type]


def test_two_functions_of_one_name_are_refused() -> None:
    def make(k: float) -> object:
        @gr.rule(range=(0, 1))
        def scaled(value: float) -> float:
            return value * k

        return scaled

    with pytest.raises(gr.RewardError, match="declared twice"):
        gr.compile(reward=make(0.5)(value) + make(0.2)(value))  # type: ignore[operator]


# In files


def test_a_file_runs_code_only_where_the_caller_allows_it(examples: Path) -> None:
    with pytest.raises(gr.RulesetError, match=r"T80.*my_rules"):
        gr.load(examples)
    with gr.load(examples, allow_extern=True) as scorer:
        assert scorer(completion=["4"], gold=["4"]).reward[0] == pytest.approx(1.2, abs=1e-3)


def test_a_file_is_checked_without_running_its_code() -> None:
    assert "my_rules" not in sys.modules or sys.modules.pop("my_rules")
    result = CliRunner().invoke(app, ["check", str(EXAMPLE)])
    assert result.exit_code == 0 and "0..1.2" in result.output
    assert "my_rules" not in sys.modules


def test_text_and_python_are_one_ruleset(examples: Path) -> None:
    from my_rules import brevity  # type: ignore[import-not-found]

    correct = gr.math.equal(gr.extract.answer(gr.completion), gr.gold)
    brief = gr.where(correct, brevity(gr.completion), 0)
    python = gr.compile(correct=correct, brief=brief, reward=correct + 0.2 * brief)
    text = gr.load(examples, allow_extern=True)
    assert python.hash == text.hash
    assert "extern my_rules:brevity" in python.versions
    assert python.versions == text.versions


@pytest.mark.parametrize(
    ("old", "new"), [("0..1 from", "0..2 from"), ("my_rules:brevity", "my_rules:other")]
)
def test_the_declaration_is_part_of_the_hash(old: str, new: str) -> None:
    text = EXAMPLE.read_text("utf-8").replace("in 0..1.2", "")
    hashes = set()
    for source in (text, text.replace(old, new)):
        targets = ("my_rules:brevity", "my_rules:other")
        parsed = gr.parse(source)
        assert parsed
        from grpo_rewards.syntax.parser import parse_all

        functions = {target: (lambda text: 0.0) for target in targets}
        hashes.add(gr.Scorer(parse_all(source), functions=functions).hash)
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("target", "code"),
    [("nowhere_at_all:f", "N11"), ("my_rules:nothing", "N11"), ("my_rules", "N11"),
     ("my_rules:gr", "N11"), ("my_rules:brevity", "T81"), ("broken_rules:f", "N11")],
)  # fmt: skip
def test_a_function_that_cannot_be_had_is_a_finding(
    examples: Path, target: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_rules.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = f'input a: text\nextern brevity(text): num in 0..2 from "{target}"\nreward = brevity(a)'
    with pytest.raises(gr.RulesetError, match=code):
        gr.loads(text, allow_extern=True)


@pytest.mark.parametrize(
    ("line", "code"),
    [("extern f(): num", "T82"), ("extern f(text): json", "T82"), ("extern f(words): num", "N04"),
     ("extern f(text): bool in 0..1", "T06"), ("extern clamp(text): num", "N02"),
     ("extern f(text): num in 1..0", "T04")],
)  # fmt: skip
def test_a_wrong_declaration_is_a_finding(line: str, code: str) -> None:
    with pytest.raises(gr.RulesetError, match=code):
        gr.loads(f'input a: text\n{line} from "m:f"\nreward = 1')


def test_a_rule_of_ones_own_travels_to_other_processes() -> None:
    scorer = pickle.loads(pickle.dumps(gr.compile(reward=halved(value))))
    assert scorer(value=[0.5]).reward[0] == 0.25
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(_score, scorer, 0.5).result() == 0.25


def _score(scorer: gr.Scorer, number: float) -> float:
    return float(scorer(value=[number]).reward[0])


def test_a_local_rule_says_why_it_cannot_travel() -> None:
    @gr.rule(range=(0, 1))
    def local(value: float) -> float:
        return value

    with pytest.raises(pickle.PicklingError, match="top of a module"):
        pickle.dumps(gr.compile(reward=local(value)))


def test_an_imported_file_brings_its_rules(tmp_path: Path, examples: Path) -> None:
    (tmp_path / "a.reward").write_text(examples.read_text("utf-8"))
    text = 'import "a.reward" as a\ninput completion: chat\nreward = a.brevity(completion)\n'
    (tmp_path / "b.reward").write_text(text)
    with pytest.raises(gr.RulesetError, match="T80"):
        gr.load(tmp_path / "b.reward")
    scorer = gr.load(tmp_path / "b.reward", allow_extern=True)
    assert scorer(completion=[""]).reward[0] == 1
