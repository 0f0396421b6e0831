"""Text → Ruleset, through grammars/reward.lark. Knows the language, but not the rules' names.

A file is cut into statements first, and each is parsed on its own, so that one mistake costs one
statement and a single run reports them all.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from lark import Lark, UnexpectedInput

from grpo_rewards.errors import Finding, Place, Problem, RulesetError, Source
from grpo_rewards.limits import MAX_EXPR_DEPTH, MAX_RULESET_CHARS
from grpo_rewards.syntax import saved_parsers
from grpo_rewards.syntax import tree as x
from grpo_rewards.syntax.diagnosis import diagnose
from grpo_rewards.syntax.productions import TreeBuilder


@dataclass(frozen=True, slots=True)
class Parsed:
    """A ruleset as far as it could be read, with what is wrong.

    `broken` holds the names that unreadable statements would have declared, so that the compiler
    does not call them unknown as well. `imports`, `cycles` and `files` are filled by `files.py`;
    their keys are paths as the ruleset writes them.
    """

    source: Source
    ruleset: x.Ruleset
    findings: tuple[Finding, ...]
    broken: frozenset[str]
    imports: Mapping[str, Parsed] = field(default_factory=dict)
    cycles: Mapping[str, str] = field(default_factory=dict)  # the chain that an import would close
    files: Mapping[str, str] = field(default_factory=dict)  # the texts of formats


def parse(text: str, *, name: str = "ruleset") -> x.Ruleset:
    """The ruleset that a text spells. RulesetSyntaxError names every mistake in it.

    >>> print(parse('reward   =  1+  2'))
    reward = 1 + 2
    <BLANKLINE>
    """
    parsed = parse_all(text, name=name)
    if parsed.findings:
        raise RulesetError.of(parsed.source, list(parsed.findings))
    return parsed.ruleset


def parse_all(text: str, *, name: str = "ruleset") -> Parsed:
    """What could be read of a text, and the findings about the rest. Never raises."""
    text = text.removeprefix("\ufeff")  # the byte order mark that Windows editors write
    source = Source(name, text)
    if len(text) > MAX_RULESET_CHARS:
        message = f"the file has {len(text):,} characters; a ruleset has at most"
        finding = Finding("S01", f"{message} {MAX_RULESET_CHARS:,}", Place(0, 1))
        return Parsed(source, x.Ruleset(()), (finding,), frozenset())
    statements: list[x.Statement] = []
    findings: list[Finding] = []
    broken: set[str] = set()
    for place in _cut(text):
        result = _parse_statement(text, place)
        if isinstance(result, Finding):
            findings.append(result)
            broken |= _names_declared(text[place.start : place.end])
        else:
            statements.append(result)
    ruleset = x.Ruleset(tuple(statements), place=Place(0, len(text)))
    return Parsed(source, ruleset, tuple(findings), frozenset(broken))


# Cutting a file into statements

#: Heredocs, strings and comments: inside them any text may stand, even keywords (verbose regex).
OPAQUE = r"""
    (?:lark|json|text)'''(?s:.*?)'''     # heredocs
  | \"\"\"(?s:.*?)\"\"\"                 # long strings
  | "(?:\\.|[^"\\\n])*"                  # strings and regular expressions
  | \#[^\n]*                             # comments
"""


def _cut(text: str) -> list[Place]:
    """The places of the statements. Each begins with a keyword at the indentation of the first, so
    that a ruleset can be written indented inside Python, and ends where the next one begins."""
    indent = _indentation(text)
    start = rf"(?m:^{indent}(?P<keyword>{'|'.join(x.KEYWORDS)})\b)"
    pieces = re.compile(rf"{start}|{OPAQUE}", re.VERBOSE)
    starts = [match.start() for match in pieces.finditer(text) if match["keyword"]]
    first = starts[0] if starts else len(text)
    if re.sub(r"\#[^\n]*|\s", "", text[:first]):
        starts.insert(0, 0)  # what precedes the first statement is a finding of its own
    ends = [*starts[1:], len(text)] if starts else []
    return [Place(start, end) for start, end in zip(starts, ends, strict=True)]


def _indentation(text: str) -> str:
    """A pattern of the spaces before the first line that is neither empty nor a comment."""
    first = re.search(r"(?m)^([ \t]*)[^\s#]", text)
    return re.escape(first[1]) if first else ""


def _names_declared(text: str) -> set[str]:
    """The name after the keyword of a statement that does not parse."""
    found = re.match(rf"\s*(?:{'|'.join(x.KEYWORDS)})\s+([A-Za-z_]\w*)", text)
    return {found[1]} if found else set()


# Parsing one statement


@functools.cache
def _lark() -> Lark:
    """The parser, loaded once per process."""
    return saved_parsers.load_parser("reward", compile_reward_grammar)


def compile_reward_grammar(grammar: str) -> Lark:
    """A parser built from the grammar's text; `strict` refuses a grammar with any conflict."""
    return Lark(
        grammar,
        parser="lalr",
        start=["statement", "expr"],
        strict=True,
        propagate_positions=True,
        maybe_placeholders=True,
    )


def parse_expr_text(text: str) -> x.Expr:
    """The expression that a text spells, as in `--set weight=0.1`; RulesetSyntaxError where it
    spells none.

    >>> print(parse_expr_text("a  if b else c+1"))
    a if b else c + 1
    """
    result = _parse_part(text, Place(0, len(text)), "expr")
    if isinstance(result, Finding):
        raise RulesetError.of(Source("expression", text), [result])
    assert isinstance(result, x.Expr)
    return result


def _parse_statement(text: str, place: Place) -> x.Statement | Finding:
    result = _parse_part(text, place, "statement")
    assert isinstance(result, x.Statement | Finding)
    return result


def _parse_part(text: str, place: Place, start: str) -> x.Node | Finding:
    part = text[place.start : place.end]
    if _bracket_depth(part) > MAX_EXPR_DEPTH:
        return Finding("S02", f"nested deeper than {MAX_EXPR_DEPTH} levels", place)
    try:
        tree = _lark().parse(part, start=start)
    except UnexpectedInput as error:
        return diagnose(error, text, place, _lark())
    try:
        return TreeBuilder(text, place.start).build(tree)
    except Problem as problem:
        assert problem.finding is not None
        return problem.finding


def _bracket_depth(text: str) -> int:
    """An upper bound on how deep a text nests, found before anything recursive reads it."""
    depth = deepest = 0
    for match in re.finditer(rf"(?P<open>[(\[{{])|(?P<close>[)\]}}])|{OPAQUE}", text, re.VERBOSE):
        depth += bool(match["open"]) - bool(match["close"])
        deepest = max(deepest, depth)
    return deepest
