"""The shipped rulesets: what they promise is checked, and a broken promise is found."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import grpo_rewards as gr
from grpo_rewards.audit.examine import attack
from grpo_rewards.audit.test_blocks import run_tests
from grpo_rewards.compiler.statements import check
from grpo_rewards.syntax.files import parse_file
from grpo_rewards.syntax.formatter import format_text
from grpo_rewards.syntax.parser import parse_all
from grpo_rewards.testing.fuzz import fuzz

EXAMPLES = 2000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 6
SHIPPED = sorted((ROOT / "rulesets").glob("*.reward"))


def _name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", SHIPPED, ids=_name)
def test_a_shipped_ruleset_is_clean_and_its_attacks_hold(path: Path) -> None:
    assert check(parse_file(path))[1] == []
    with gr.load(path) as scorer:
        assert len(scorer.tests) >= 3
        assert scorer.graph.attacks
        rows = [dict(row) for test in scorer.tests for row in test.rows]
        assert attack(scorer, rows).breaches == ()


@pytest.mark.parametrize("path", SHIPPED, ids=_name)
def test_a_weight_that_grows_is_caught_with_the_range_that_it_reaches(path: Path) -> None:
    text = path.read_text("utf-8")
    reward = re.search(r"^reward in (\S+)\.\.(\S+) =", text, re.MULTILINE)
    assert reward is not None
    broken = text.replace(reward[0], f"{reward[0]} 0.75 * text.contains(completion, gold_) +", 1)
    broken = broken.replace("\ninput ", '\ninput gold_: text = "x"\ninput ', 1)
    if "completion" in broken and "input completion" not in broken:
        broken = broken.replace("\ninput ", "\ninput completion: chat\ninput ", 1)
    parsed = parse_file(path)
    errors = [
        finding
        for finding in check(_with_imports(broken, parsed))[1]
        if finding.severity == "error"
    ]
    assert [finding.code for finding in errors] == ["T07"]
    assert f"{float(reward[2]) + 0.75:.12g}" in errors[0].message


def _with_imports(text: str, like: object) -> object:
    from dataclasses import replace

    return replace(parse_all(text), imports=like.imports)


GATES = [
    ("r1_zero", " * language * accuracy", " * 10 * language", "0..3.1"),
    ("r1_zero", "language_weight: num in 0..0.2", "language_weight: num in 0..1", "0..2.1"),
    ("competition", "-1 if truncated else text.overlong", "-2 if truncated else text.overlong", ""),
    ("competition", "brevity_weight * brevity", "2 * brevity", ""),
    ("multilingual", " * language * steady * accuracy", " * language * 2", "0..2.1"),
    ("countdown", "0.1 * form", "form", "0..2"),
    ("json_extract", "0.5 * fields ** 2", "fields + fields", "0..2.6"),
]


@pytest.mark.parametrize(("name", "old", "new", "reach"), GATES)
def test_a_gate_that_is_taken_out_is_caught(name: str, old: str, new: str, reach: str) -> None:
    path = ROOT / "rulesets" / f"{name}.reward"
    text = path.read_text("utf-8")
    assert old in text
    parsed = _with_imports(text.replace(old, new, 1), parse_file(path))
    errors = [finding for finding in check(parsed)[1] if finding.severity == "error"]
    assert errors
    assert errors[0].code == "T07"
    assert reach in errors[0].message


def test_the_readme_lists_every_ruleset_as_it_is() -> None:
    page = (ROOT / "rulesets" / "README.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| [")]
    assert rows == [_row(path) for path in SHIPPED]


def _row(path: Path) -> str:
    graph, _ = check(parse_file(path))
    title = parse_file(path).ruleset.statements[0]
    level = graph[graph.reward].level.label
    scores = ", ".join(f"`{name}`" for name in graph.scores)
    link = f"[{path.stem}]({path.name})"
    return f"| {link} | {title.doc} | {scores} | {graph.ranges['reward']} | {level} |"


# A right answer earns more than any other, whatever is paid for besides it.

THOUGHTS = st.sampled_from(
    [
        "We add both numbers, so we are done here. ",
        "Wir addieren beide Zahlen, also sind wir fertig. ",
        "我们把这两个数加起来，所以做完了。",
        "so so so so so so ",
    ]
)
THOUGHT = st.tuples(THOUGHTS, THOUGHTS, st.integers(1, 40)).map(lambda t: t[0] + t[1] * t[2])
TAGGED = "<think>{thought}</think><answer>{answer}</answer>"
RECORD = {"name": "Ada", "date": "1843-09-01", "total": 12.5}
SILENT = ["", "I do not know.", "{thought}", "<think>{thought}</think>"]

#: ruleset: (the form of a right completion, its answer, the wrong ones, the other columns)
ANSWERED = {
    "arithmetic": (TAGGED, "11", ["12", "", "gold"], {"gold": "11"}),
    "competition": ("{thought} \\boxed{{{answer}}}", "11", ["12", "", "11, 12"], {"gold": "11"}),
    "countdown": (TAGGED, "3 + 8", ["11", "8 * 3", ""], {"nums": [3, 8], "target": 11}),
    "gsm8k": ("{thought}\n#### {answer}", "11", ["12", "", "?"], {"gold": "11"}),
    "json_extract": (
        "<think>{thought}</think>{answer}",
        json.dumps(RECORD),
        [json.dumps(RECORD | {"total": 13}), json.dumps(RECORD | {"more": 1}), "{}", "[]"],
        {"gold": json.dumps(RECORD)},
    ),
    "multilingual": (TAGGED, "11", ["12", "", "gold"], {"gold": "11", "lang": "de"}),
    "r1_zero": (TAGGED, "11", ["12", "", "gold"], {"gold": "11", "lang": "en"}),
}


@pytest.fixture(scope="module")
def scorers() -> Iterator[dict[str, gr.Scorer]]:
    found = {path.stem: gr.load(path, workers=0) for path in SHIPPED}
    yield found
    for scorer in found.values():
        scorer.close()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_right_answer_earns_more_than_any_wrong_or_empty_one(
    scorers: dict[str, gr.Scorer], data: st.DataObject
) -> None:
    assert set(scorers) == set(ANSWERED)
    name = data.draw(st.sampled_from(sorted(ANSWERED)))
    form, answer, wrong, columns = ANSWERED[name]
    answers = data.draw(st.lists(st.sampled_from([answer, *wrong, None]), min_size=2, max_size=8))
    texts = [
        (data.draw(st.sampled_from(SILENT)) if given is None else form).format(
            thought=data.draw(THOUGHT), answer=given
        )
        for given in [answer, *answers]
    ]
    size = len(texts)
    lengths = st.integers(0, 9000) | st.sampled_from([3072, 3073, 4050, 4095, 4096, 4097])
    found = scorers[name](
        completion=texts,
        n_tokens=data.draw(st.lists(lengths, min_size=size, max_size=size)),
        truncated=data.draw(st.lists(st.booleans(), min_size=size, max_size=size)),
        group=data.draw(st.lists(st.integers(0, 2), min_size=size, max_size=size)),
        **{column: [value] * size for column, value in columns.items()},
    ).reward
    right = np.array([True, *(given == answer for given in answers)])
    assert found[right].min() > found[~right].max(initial=-np.inf)


BROKEN = [
    RECORD | {"date": "1 September"}, RECORD | {"more": 1}, {}, [RECORD], None, "see figure", "{",
    '{"name": "A", "name": "A", "date": "1843-09-01", "total": 1}',
]  # fmt: skip


@given(st.sampled_from(BROKEN), st.booleans(), st.sampled_from([RECORD, {"name": 1}, None]))
@settings(deadline=None)
def test_a_gold_that_is_no_record_skips_the_row_whatever_the_answer(
    scorers: dict[str, gr.Scorer], gold: object, as_text: bool, other: object
) -> None:
    broken = json.dumps(gold) if as_text and not isinstance(gold, str) else gold
    whole = json.dumps(RECORD) if as_text else RECORD
    texts = [gold if isinstance(gold, str) else json.dumps(gold), json.dumps(other), "junk", ""]
    golds = [broken] * len(texts) + [whole]
    found = scorers["json_extract"](completion=[*texts, json.dumps(RECORD)], gold=golds)
    assert np.isnan(found.reward).tolist() == [True] * len(texts) + [False]
    assert found.reward[-1] == pytest.approx(1.1)


def test_among_right_answers_of_a_group_the_shorter_earns_no_less(
    scorers: dict[str, gr.Scorer],
) -> None:
    lengths = [10, 900, 3072, 3500, 4050, 4096, 9000]
    size = len(lengths)
    found = scorers["competition"](
        completion=["\\boxed{4}"] * size, gold=["4"] * size, n_tokens=lengths,
        truncated=[n > 4096 for n in lengths], group=[0] * size,
    ).reward  # fmt: skip
    assert all(a > b for a, b in itertools.pairwise(found))


# The forms that a ruleset can take, each in a file of its own.

FORMS = {
    "a whole file": (ROOT / "rulesets" / "r1_zero.reward").read_text("utf-8"),
    "import": """import "a.reward" as a
input completion: chat
reward in 0..1 = a.gate(completion)
""",
    "function and pipes": r"""input completion: chat
input want: num = 0

let number(s) = extract.regex(s, re"-?\d[\d,]*(?:\.\d+)?", which="last")
  |> text.strip_commas()
  |> math.number()

reward in 0..1 = (number(completion) == want) ?? false

test "the last number, without its commas" {
  want: 1234.5
  completion: "3 and 1,234.50"
  expect reward == 1
}
""",
    "case": """input completion: chat

param max_len: num in 64..65536 = 4096
param cache: num in 1..1024 = 1024

score overlong in -1..0 = case {
  truncated -> -1,
  n_tokens <= max_len - cache -> 0,
  n_tokens <= max_len -> clamp((max_len - cache - n_tokens) / cache, -1, 0),
  else -> -1,
}

reward in -1..1 = text.contains(completion, "4") + overlong

test "half of the cache is half of the punishment" {
  completion: "4"
  n_tokens: 3584
  truncated: false
  expect overlong == -0.5
}
""",
    "group": r"""input completion: chat
input gold: text

score correct = math.equal(extract.boxed(completion), gold)
score brevity in -0.5..0.5 = group.length_relative(n_tokens, correct=correct)

let anneal = schedule(step, 0 -> 0.0, 200 -> 1.0)

reward in -0.5..1.5 = correct + anneal * brevity

test group "shorter correct wins" {
  row {
    completion: "\boxed{4}"
    gold: "4"
    n_tokens: 100
  }
  row {
    completion: "long \boxed{4}"
    gold: "4"
    n_tokens: 900
  }
  expect group.argmax(brevity) == 0
}

attack [empty, answer_spray, second_answer, hedge, repeat, very_long] expect reward <= 0.5

check enough_signal: group.fraction_zero_std(reward) <= 0.8
""",
    "json and many": """input completion: chat
input want: num = 0

format invoice = json'''{"type":"object","required":["vendor","total"]}'''

reward in 0..1 = match(invoice, completion).ok

test "many" each from "cases.jsonl" {
  expect reward == want within 1e-6
}
""",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_language_checks_formats_tests_and_holds(
    form: str, tmp_path: Path
) -> None:
    (tmp_path / "a.reward").write_text('let gate(x) = text.contains(x, "a")\n')
    (tmp_path / "cases.jsonl").write_text(
        r'{"completion": "{\"vendor\": 1, \"total\": 2}", "want": 1}' + "\n"
        r'{"completion": "{}", "want": 0}' + "\n"
    )
    path = tmp_path / "form.reward"
    text = format_text(FORMS[form])
    assert format_text(text) == text
    path.write_text(text)
    with gr.load(path) as scorer:
        results = run_tests(scorer, folder=tmp_path)
        assert all(result.passed for result in results)
        assert form == "import" or results
        if "gold" in scorer.inputs:
            rows = [{"step": 100, **row} for test in scorer.tests for row in test.rows]
            found = attack(scorer, rows)
            assert scorer.graph.attacks
            assert found.breaches == ()
        broken = [str(r.failure) for r in fuzz(scorer, examples=EXAMPLES, skip=["spawns_the_same"])]
        assert set(broken) == {"None"}
