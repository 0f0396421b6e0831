"""What the checker says: one finding per mistake, in the user's words; ranges that are right."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from strategies import sound_rulesets

import grpo_rewards as gr
from grpo_rewards.audit.test_blocks import run_tests
from grpo_rewards.compiler.statements import check
from grpo_rewards.syntax.parser import parse_all


def findings(text: str) -> list[gr.Finding]:
    return check(parse_all(text))[1]


HEAD = "input completion: chat\ninput gold: text\ninput a: num\ninput p: bool\n"

MISTAKES = [
    ("reward = acuracy", "N01", ""),
    ("score accuracy = p\nreward = acuracy", "N01", "did you mean `accuracy`?"),
    ("reward = math.equals(gold, gold)", "N08", "did you mean `math.equal`?"),
    ("reward = extract.boxed(completion)", "T05", ""),
    ("score p = 1\nreward = 1", "N02", ""),
    ("reward = 1 if a else 2", "T19", "compare it"),
    ("reward = gold + 1", "T28", "+(left: num"),
    ("reward = a == gold", "T22", ""),
    ("reward in 0..1 = p + p", "T07", "declare in 0..2"),
    ("reward in 1..0 = 1", "T04", "write 0..1"),
    ("reward = text.length(gold, gold)", "T26", ""),
    ("reward = text.count(gold)", "T27", ""),
    ("reward = text.repetition(gold, m=3)", "N05", ""),
    ('reward = text.length(extract.boxed(completion, which="lsat"))', "T29", "did you mean `last`"),
    ("reward = text.repetition(gold, n=a)", "T10", ""),
    ('reward = language.share(gold, "xx")', "T29", ""),
    ('reward = gold matches re"(a"', "T16", "RE2"),
    ('reward = gold matches re"(?=a)b"', "T16", "RE2"),
    ("format f = lark'''start: \"a\" b\n'''\nreward = match(f, completion).ok", "T30", ""),
    ('format f = tags("t", "a")\nreward = match(f, completion).b', "N07", "it has"),
    ('format f = tags("t", "a")\nreward = match(f, completion)', "T05", ""),
    ("reward = schedule(a, 1 -> 0, 0 -> 1)", "T24", ""),
    ("let f(x) = x\nreward = f", "N01", "call f(x)"),
    ("let f(x) = x\nreward = f(1, 2)", "T25", ""),
    ("param w: num in 0..1 = 2\nreward = w", "T03", ""),
    ("input z: number\nreward = 1", "N04", ""),
    ("reward = 1\nreward = 2", "T20", ""),
    ("score s = 1", "T21", ""),
    ("reward = 1\npolicy { tiemout 2s }", "N03", "did you mean `timeout`?"),
    ('reward = 1\ntest "t" { a: 1 }', "T40", ""),
    ("reward = a in []", "T23", ""),
    ("score s = w * a\nparam w: num = 1\nreward = s", "N01", "move its statement above"),
    ("score s = f(a)\nlet f(x) = x\nreward = s", "N01", "move its statement above"),
    ('score s = m.ok\nformat g = tags("t")\nlet m = match(g, gold)\nreward = 1', "N01", "above"),
    ("score s = reward + 1\nreward = p", "N01", "move its statement above"),
    ("let s = s + 1\nreward = s", "N01", ""),
    ('reward = p\ntest "t" { completoin: "x" expect reward == 1 }', "N12", "`completion`?"),
    ('reward = p\ntest "t" { zzz: 1 expect reward == 1 }', "N12", "a, completion, gold, p"),
    ('score s = p\nreward = s\ntest "t" { s: true expect s }', "N12", ""),
]


@pytest.mark.parametrize(
    ("text", "code", "hint"), MISTAKES, ids=[m[1] + m[0][:30] for m in MISTAKES]
)
def test_a_mistake_has_a_code_a_place_and_a_hint(text: str, code: str, hint: str) -> None:
    errors = [f for f in findings(HEAD + text) if f.severity == "error"]
    assert [f.code for f in errors] == [code], [f.message for f in errors]
    assert hint in errors[0].hint
    assert errors[0].place.start >= len(HEAD) or code in ("N02", "T20")


def test_a_name_that_is_used_early_is_told_where_it_is_defined() -> None:
    (early,) = findings("let v = w\n\nlet w = 1\nreward = v + w\n")
    assert early.message == "`w` is defined below, on line 3"


@pytest.mark.parametrize(
    ("expr", "is_mixed"),
    [
        ("p == 1", True), ("1 != p", True), ("p > 0.5", True), ("0.5 <= p", True), ("p == a", True),
        ("p == true", False), ("p == null", False), ("a == 1", False), ("s == 1", False),
        ("not p", False), ("p + 1 > a", False), ("p == s", False),
    ],
)  # fmt: skip
def test_a_bool_that_is_compared_with_a_number_is_a_warning(expr: str, is_mixed: bool) -> None:
    found = findings(HEAD + f"score s = p\nreward = 1 if {expr} else 0\n")
    assert [f.code for f in found if f.code != "W02"] == ["W04"] * is_mixed


@pytest.mark.parametrize("column", ["gold", "answer", "n_tokens", "seen"])
def test_a_test_brings_inputs_their_sources_and_what_it_reads_itself(column: str) -> None:
    text = 'input gold: text from "answer"\nreward = 1 if gold == "1" else 0\n'
    read = "seen" if column == "seen" else "reward"
    assert findings(f'{text}test "t" {{ {column}: "1" expect {read} != null }}\n') == []


def test_one_run_reports_all_and_does_not_repeat_itself() -> None:
    text = "let a = b + 1\nlet c = a + 1\nscore d = e\nreward = c + d"
    assert [f.message for f in findings(text)] == ["unknown name `b`", "unknown name `e`"]


@pytest.mark.parametrize(
    ("expr", "interval"),
    [
        ("p + 0.1", "0.1..1.1"),
        ("p - (1 - p)", "-1..1"),
        ("p * a", "-inf..inf"),
        ("clamp(a, -1, 1) * 0.5 + p", "-0.5..1.5"),
        ("(2 if p else 1) + (1 if p else 2)", "3..3"),
        ("abs(clamp(a, -3, 2))", "0..3"),
        ("clamp(a, -3, 2) ** 2", "0..9"),
        ("1 / clamp(a, 1, 4)", "0.25..1"),
        ("1 / clamp(a, -1, 4)", "-inf..inf"),
        ("min(p, 0.5)", "0..0.5"),
        ("(p ?? true) + p", "0..2"),
        ("clamp(a, 0, 1) ?? 3", "0..3"),
        ("p and not p", "0..0"),
        ("schedule(a, 0 -> 0.25, 9 -> 1)", "0.25..1"),
        ("exp(clamp(a, 0, 0)) + sqrt(4)", "3..3"),
        ("p if a > 0 else null", "0..1"),
        ("case { p -> 2, a > 0 -> 3 }", "2..3"),
        ("1 + (null if p else p)", "1..1"),
        ("null ?? p", "0..1"),
        ("(p if p else null) + (1 if p else null)", "2..2"),
        ("(null if p else null) + a", "-inf..inf"),
    ],
)
def test_ranges_are_inferred(expr: str, interval: str) -> None:
    text = f"{HEAD}let used = text.length(gold) + text.length(completion) + p + a\nreward = {expr}"
    assert str(gr.loads(text).ranges["reward"]) == interval


@given(sound_rulesets())
def test_a_declared_range_that_is_too_narrow_is_refused(ruleset: gr.Ruleset) -> None:
    text = str(ruleset)
    interval = gr.loads(text).ranges["reward"]
    if not interval.is_bounded or interval.hi - interval.lo < 1e-3:
        return
    narrow = f"reward in {interval.lo!r}..{(interval.lo + interval.hi) / 2!r} ="
    errors = [f.code for f in findings(text.replace("reward =", narrow)) if f.severity == "error"]
    assert errors == ["T07"]


HASH_KEEPS = [
    ("reward = 0.5 * p + a", "# a comment\nreward   =  a + p * 0.5"),
    ("reward = a", "let unused = 3\nreward = a"),
    ("reward = p and a > 1", "reward = a > 1 and p"),
    ("let x = a * 2\nreward = x", "reward = a * 2"),
    ("reward = a", 'reward = a\ntest "t" { a: 1 expect reward == 1 }'),
]
HASH_CHANGES = [
    ("reward = 0.5 * p", "reward = 0.6 * p"),
    ("reward = a - p", "reward = p - a"),
    ("param w: num = 1\nreward = w", "param w: num = 2\nreward = w"),
    ("reward = text.repetition(gold)", "reward = text.repetition(gold, n=4)"),
    ("reward = a", "reward = a\npolicy { timeout 3s }"),
    ("score s = a\nreward = a", "score t = a\nreward = a"),
]


@pytest.mark.parametrize(("one", "other"), HASH_KEEPS)
def test_what_means_the_same_has_one_hash(one: str, other: str) -> None:
    assert gr.loads(HEAD + one).hash == gr.loads(HEAD + other).hash


@pytest.mark.parametrize(("one", "other"), HASH_CHANGES)
def test_what_changes_a_score_changes_the_hash(one: str, other: str) -> None:
    assert gr.loads(HEAD + one).hash != gr.loads(HEAD + other).hash


def test_python_and_text_are_two_spellings_of_one_tree() -> None:
    weight = gr.param("w", 0.1, bounds=(0, 0.2))
    fmt = gr.tags_format("r1", "think", "answer")
    shape = gr.match(fmt, gr.completion)
    correct = gr.math.equal(shape.answer, gr.gold)
    built = gr.compile(
        correct=correct,
        form=shape.credit,
        reward=gr.where(correct, 1, 0) + weight * shape.credit,
        bounds=(0, 1.2),
    )
    text = """
    input completion: chat
    input gold: text
    param w: num in 0..0.2 = 0.1
    format r1 = tags("think", "answer")
    let shape = match(r1, completion)
    score correct = math.equal(shape.answer, gold)
    score form = shape.credit
    reward in 0..1.2 = (1 if correct else 0) + w * form
    """
    written = gr.loads(text)
    assert built.hash == written.hash
    assert gr.loads(str(built)).hash == built.hash
    assert "w * form" in str(built)


def test_functions_cases_schedules_and_policies_are_the_same_in_python_and_text() -> None:
    n = gr.n_tokens
    built = gr.compile(
        late=gr.case((gr.truncated, -1), (n <= 3000, 0), otherwise=-0.5),
        anneal=gr.schedule(gr.step, {0: 1.0, 200: 0.0}),
        shape=gr.sqrt(gr.abs(gr.round(n) - gr.floor(n))) + gr.exp(gr.log(n)),
        reward=gr.max(gr.min(n, 1), 0) + gr.clamp(n, 0, 1),
        policy={"timeout": 2, "on error": None, "limit chars": 60_000},
        workers=0,
    )
    text = """
    score late = case { truncated -> -1, n_tokens <= 3000 -> 0, else -> -0.5 }
    score anneal = schedule(step, 0 -> 1, 200 -> 0)
    score shape = sqrt(abs(round(n_tokens) - floor(n_tokens))) + exp(log(n_tokens))
    reward = max(min(n_tokens, 1), 0) + clamp(n_tokens, 0, 1)
    policy { timeout 2s  on error -> null  limit chars 60k }
    """
    assert built.hash == gr.loads(text).hash


def test_an_expression_is_not_a_truth() -> None:
    with pytest.raises(TypeError, match=r"use & \| ~"):
        bool(gr.gold == "x")
    assert str((gr.col("a", "num") > 1) & ~gr.truncated) == "a > 1 and not truncated"


def test_params_are_set_from_outside_within_their_range() -> None:
    text = "param w: num in 0..1 = 0.5\nreward in 0..1 = w"
    assert gr.loads(text, params={"w": "0.25"})(x=[1]).reward[0] == 0.25
    with pytest.raises(gr.RulesetError, match=r"outside 0\.\.1"):
        gr.loads(text, params={"w": 2})
    with pytest.raises(gr.RulesetError, match="no param `v`"):
        gr.loads(text, params={"v": 2})


def test_functions_that_expand_without_end_are_refused() -> None:
    lines = ["let f0(x) = x + 1"]
    lines += [f"let f{i}(x) = f{i - 1}(f{i - 1}(x))" for i in range(1, 40)]
    with pytest.raises(gr.RulesetError):
        gr.loads("\n".join([*lines, "input a: num", "reward = f39(a)"]))


# Files that import files

INNER = """input completion: chat
input gold: text from "solution" | "answer"
input n_tokens: num from "length"
score correct = math.equal(extract.boxed(completion), gold)
score short = n_tokens < 10
reward = correct
"""
OUTER = 'import "inner.reward" as i\nreward = i.correct + 0.5 * i.short\n'


def imported(tmp_path: Path, outer: str, inner: str = INNER) -> gr.Scorer:
    (tmp_path / "inner.reward").write_text(inner, encoding="utf-8")
    (tmp_path / "outer.reward").write_text(outer, encoding="utf-8")
    return gr.load(tmp_path / "outer.reward", workers=0)


@pytest.mark.parametrize(
    "block",
    [
        'test "t" { gold: "1" completion: "\\\\boxed{1}" n_tokens: 3 expect reward == 1.5 }',
        "attack [empty] expect reward <= 0.5 or n_tokens < 9",
        "check k: dataset.mean(n_tokens) < 10",
    ],
    ids=["test", "attack", "check"],
)
def test_imported_inputs_bind_as_their_own_file_says(tmp_path: Path, block: str) -> None:
    bare, full = imported(tmp_path, OUTER), imported(tmp_path, OUTER + block)
    assert full.hash == bare.hash
    assert full.graph.inputs == bare.graph.inputs
    chat = [{"role": "assistant", "content": "\\boxed{1}"}]
    for scorer in (bare, full):
        assert scorer(completion=[chat], solution=["1"], length=[3]).reward.tolist() == [1.5]
    assert all(result.passed for result in run_tests(full))


def test_what_a_file_declares_goes_before_what_needs_no_statement(tmp_path: Path) -> None:
    outer = 'let n = n_tokens\nimport "inner.reward" as i\nreward = n'
    for text in (outer, 'import "inner.reward" as i\nreward = n_tokens'):
        assert imported(tmp_path, text)(length=[3], n_tokens=[4]).reward.tolist() == [3]
    own = 'import "inner.reward" as i\ninput n_tokens: num\nreward = i.short'
    assert imported(tmp_path, own)(length=[3], n_tokens=[14]).reward.tolist() == [0]


@pytest.mark.parametrize("is_first", [True, False])
def test_one_column_of_two_types_is_refused(tmp_path: Path, is_first: bool) -> None:
    lines = ["input gold: num", 'import "inner.reward" as i']
    outer = "\n".join([*(lines if is_first else lines[::-1]), "reward = i.correct + gold"])
    with pytest.raises(gr.RulesetError, match=r"`gold` is a (num|text) here and a (text|num)"):
        imported(tmp_path, outer)


def test_a_chat_scores_with_the_ruleset_of_two_files() -> None:
    scorer = gr.load(ROOT / "rulesets" / "multilingual.reward", workers=0)
    text = "<think>Six times seven is forty two, and that is it.</think><answer>42</answer>"
    chat = [{"role": "user", "content": "6 * 7?"}, {"role": "assistant", "content": text}]
    found = scorer(completion=[chat, text], solution=["42", "42"], language=["en", "en"])
    assert found.reward.tolist() == [1.6, 1.6]
