"""Laws of the language's text: it round-trips, and nothing but findings comes out of bad text."""

from __future__ import annotations

import time

import lark
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from strategies import any_text, expressions, rulesets

import grpo_rewards as gr
from grpo_rewards.syntax import saved_parsers
from grpo_rewards.syntax.formatter import format_text
from grpo_rewards.syntax.parser import compile_reward_grammar, parse, parse_all, parse_expr_text
from grpo_rewards.syntax.tree import Const, show_string

SHIPPED = sorted((ROOT / "rulesets").glob("*.reward"))


@given(expressions)
def test_an_expression_survives_its_own_text(expr: gr.Expr) -> None:
    assert parse_expr_text(str(expr)).same(expr)


@given(rulesets)
def test_a_ruleset_survives_its_own_text(ruleset: gr.Ruleset) -> None:
    assert parse(str(ruleset)) == ruleset


@given(any_text.map(lambda text: "\\" + text))
def test_a_backslash_survives_before_anything(text: str) -> None:
    assert parse_expr_text(str(Const(text))).same(Const(text))


@given(st.text(st.characters() | st.sampled_from('\\"x{} \u200b\u3000\xad\ud800\n')))
def test_a_string_is_written_so_that_all_of_it_is_seen(text: str) -> None:
    assert show_string(text).isprintable()
    for shown in (show_string(text), show_string(text, long=True)):
        assert parse_expr_text(shown).same(Const(text))


@given(rulesets)
def test_canonical_text_is_a_fixed_point(ruleset: gr.Ruleset) -> None:
    text = str(ruleset)
    assert str(parse(text)) == text
    assert format_text(text) == format_text(format_text(text))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_rulesets_are_canonical(path) -> None:
    text = path.read_text("utf-8")
    assert format_text(text) == text
    assert parse(str(parse(text))) == parse(text)


@given(any_text)
def test_any_text_is_a_ruleset_or_findings_with_places(text: str) -> None:
    parsed = parse_all(text)
    for finding in parsed.findings:
        assert 0 <= finding.place.start <= len(parsed.source.text)
        assert finding.show(parsed.source)


@given(st.sampled_from(SHIPPED), st.data())
def test_a_mutated_ruleset_is_a_ruleset_or_findings(path, data: st.DataObject) -> None:
    text = path.read_text("utf-8")
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 40))
    mutated = text[:at] + data.draw(any_text) + text[at + cut :]
    try:
        gr.loads(mutated)
    except gr.RulesetError as error:
        assert error.findings and str(error)


@pytest.mark.parametrize(
    "text",
    [
        "reward = " + "(" * 10_000 + "1" + ")" * 10_000,
        "reward = " + "-" * 10_000 + "1",
        "reward = " + " + ".join(["1"] * 50_000),
        "reward = " + "not " * 10_000 + "true",
        "let a = 1\n" * 20_000,
        "x" * 5_000_000,
        'let a = "' + "a" * 300_000,
        "\x00\ud800\U0001f600",
    ],
    ids=["parens", "signs", "sum", "not", "lets", "5 MB", "unclosed", "odd"],
)
def test_hostile_text_is_refused_quickly(text: str) -> None:
    started = time.perf_counter()
    with pytest.raises(gr.RulesetError):
        gr.loads(text)
    assert time.perf_counter() - started < 20  # a hang, not a slow machine


def test_every_mistake_of_a_file_is_reported_in_one_run() -> None:
    text = "score a = 1 < 2 < 3\nscor b = 1\nscore c = a = 2\nreward = 1 +\n"
    findings = parse_all(text, name="demo.reward").findings
    assert [finding.code for finding in findings] == ["S15", "S14", "S10"]
    assert "comparisons do not chain" in findings[0].message


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("scor x = 1", "S13", "did you mean `score`?"),
        ("reward = a = 1", "S14", "write `==`"),
        ("reward = 1 < 2 < 3", "S15", "b in a..c"),
        ("reward = a && b", "S12", "write `and`"),
        ('reward = "abc', "S11", ""),
        ("reward = (1 + ", "S10", ""),
        ("let if = 3", "S03", ""),
        ("reward = math.equal(completion, gold", "S10", "`(` is never closed"),
        ("reward = if a then 1 else 0", "S10", "write `1 if condition else 0`"),
        ("reward = a ? 1 : 0", "S10", "write `1 if condition else 0`"),
        ("param w = 2", "S10", "a param has a type"),
        ("input a, b", "S10", "one name a statement"),
        ('input a from "b"', "S10", "an input has a type"),
        ('extern f(x: text): num from "m:f"', "S10", "its arguments are types"),
        ("policy { timeout 2 minutes }", "S10", "a quantity is one word"),
        ('format f = json"{}"', "S10", "write json'''…'''"),
        ('format f = lark"start: x"', "S10", "write lark'''…'''"),
        ("reward = 1e999", "S08", ""),
        ("reward = case { else -> 1, true -> 2 }", "S07", ""),
        ("reward = 3(4)", "S06", ""),
    ],
)
def test_a_mistake_is_explained_in_the_users_words(text: str, code: str, hint: str) -> None:
    (finding,) = parse_all(text).findings
    assert finding.code == code
    assert hint in finding.hint


def test_what_an_author_chose_among_equal_spellings_is_kept() -> None:
    text = "reward = 50% * 16k if a |> f(b) else c ?? 2s\n"
    assert format_text(text) == text


def test_backslashes_stand_for_themselves_in_strings() -> None:
    expr = parse_expr_text(r'"\boxed{\frac{1}{2}} \" \\ \x{41}"')
    assert expr.value == r'\boxed{\frac{1}{2}} " \ A'


def test_comments_survive_formatting_and_change_nothing_else() -> None:
    text = "# head\n\nlet a = 1   # one\n\n# before\nreward = a # last\n# tail\n"
    formatted = format_text(text)
    assert formatted == "# head\n\nlet a = 1  # one\n\n# before\nreward = a  # last\n\n# tail\n"
    assert format_text(formatted) == formatted


def test_the_saved_table_is_the_grammar() -> None:
    """After a change of the grammar: `make tables`."""
    saved = saved_parsers.saved_parser("reward")
    if saved is None:
        version = (saved_parsers.GRAMMARS / "reward.table").read_bytes().partition(b":")[0].decode()
        assert version != lark.__version__, "the table is older than the grammar"
        pytest.skip("another version of Lark")
    fresh = compile_reward_grammar(saved_parsers.grammar_text("reward"))
    for path in SHIPPED:
        parsed = parse_all(path.read_text("utf-8"))
        for statement in parsed.ruleset.statements:
            text = str(statement)
            assert saved.parse(text, start="statement") == fresh.parse(text, start="statement")
