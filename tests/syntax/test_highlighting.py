"""The TextMate grammar colours a ruleset as the language reads it. Oracle: the language's lexer."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path

import pytest
from conftest import ROOT

from grpo_rewards.syntax import saved_parsers
from grpo_rewards.syntax.parser import compile_reward_grammar

base = pytest.importorskip("textmate_grammar.parsers.base")

GRAMMAR = json.loads((ROOT / "docs" / "editor" / "reward.tmLanguage.json").read_text("utf-8"))
SCOPES = {
    "STRING": "string.quoted.double",
    "LONG_STRING": "string.quoted.triple",
    "REGEX": "string.regexp",
    "HEREDOC": "string.unquoted.heredoc",
    "NUMBER": "constant.numeric",
    "COMPARE": "keyword.operator",
    "SIGN": "keyword.operator",
    "TIMES": "keyword.operator",
    "VBAR": "keyword.operator",
    "EQUAL": "keyword.operator",
}
EVERY_TOKEN = '''ruleset all "every kind of token, even \\"this\\""

import base from "base.reward"  # a comment with "quotes" and 1 number
input completion: chat
input gold: text? from "gold" | "answer"
param weight: num in 0..1 = 0.5
format digits = re"[0-9]+(\\"x\\")?"i
format sum = lark\'\'\'
start: "a" | "'" NUMBER  # not a comment of ours
%import common.NUMBER
\'\'\'
format record = json\'\'\'{"type": "object"}\'\'\'

let long = """one
# not a comment
two"""

score right = math.equal(extract.boxed(completion), gold) and not (gold == null)
score short = 1 if text.length(completion) <= 16k else -1e-3 ** 2
score what = case { right -> 1, else -> weight } ?? 0

reward in 0..1 = 0.5 * right + 0.5 * short |> clamp(0, 1)

policy { timeout 2s  on error -> null  limit chars 60k }

test "said" {
  completion: "\\\\boxed{4}"
  gold: "4"
  expect right within 0.1
}
'''
FILES = sorted((ROOT / "rulesets").glob("*.reward")) + sorted((ROOT / "examples").rglob("*.reward"))


def scopes(text: str) -> list[str]:
    """The scopes of every character, as an editor gives them."""
    logging.getLogger("textmate_grammar").setLevel(logging.CRITICAL)
    parser = base.LanguageParser(GRAMMAR)
    found = [""] * len(text)
    starts = list(itertools.accumulate(map(len, text.splitlines(keepends=True)), initial=0))
    for (line, column), content, names in parser.parse_string(text).flatten():
        at = starts[line] + column
        for i in range(at, min(at + len(content), len(text))):
            found[i] = " ".join(names)
    return found


def expected(text: str) -> list[tuple[int, str, str]]:
    """Offset, text and scope of the tokens that have a colour of their own."""
    lexer = compile_reward_grammar(saved_parsers.grammar_text("reward"))
    found = []
    for token in lexer.lex(text, dont_ignore=True):
        assert token.start_pos is not None
        scope = SCOPES.get(token.type)
        if token.type == "SPACE" and "#" in token:
            found += [
                (token.start_pos + at, line.strip(), "comment.line")
                for at, line in _comments(str(token))
            ]
        elif scope is not None:
            found.append((token.start_pos, str(token), scope))
    return found


def _comments(space: str) -> list[tuple[int, str]]:
    lines = space.split("\n")
    starts = itertools.accumulate((len(line) + 1 for line in lines), initial=0)
    return [
        (start + line.index("#"), line[line.index("#") :])
        for start, line in zip(starts, lines, strict=False)
        if "#" in line
    ]


@pytest.mark.parametrize("path", [None, *FILES], ids=lambda p: p.stem if p else "every-token")
def test_a_token_has_the_colour_of_what_the_language_reads(path: Path | None) -> None:
    text = EVERY_TOKEN if path is None else path.read_text("utf-8")
    found = scopes(text)
    for start, token, scope in expected(text):
        inside = found[start : start + len(token)]
        wrong = [i for i, names in enumerate(inside) if token[i] != "\n" and scope not in names]
        assert not wrong, f"{token!r} at {start}: {inside[wrong[0]]!r}, not {scope}"


def test_keywords_are_coloured_and_names_are_not() -> None:
    found = scopes(EVERY_TOKEN)
    expected_scopes = {
        "ruleset": "keyword.control",
        "import": "keyword.control",
        "policy": "keyword.control",
        "expect": "keyword.control",
        "case": "keyword.control",
        "and not": "keyword.operator.word",
        "null": "constant.language",
        "chat": "storage.type",
        "math.equal": "entity.name.function",
        "weight:": "entity.name",
    }
    for word, scope in expected_scopes.items():
        assert scope in found[EVERY_TOKEN.index(word)], word
    assert "keyword" not in found[EVERY_TOKEN.index("right ->")]
