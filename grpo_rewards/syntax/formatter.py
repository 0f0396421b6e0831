"""The formatter: canonical text that keeps comments, as `grpo-rewards fmt` writes it.

A comment on a statement's last line stays there, a comment between statements stays between them,
and one inside a statement moves above it. Formatting twice changes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from grpo_rewards.errors import RulesetError
from grpo_rewards.syntax.parser import OPAQUE, parse_all
from grpo_rewards.syntax.tree import Statement, needs_gap


@dataclass(frozen=True, slots=True)
class _Piece:
    """A statement with the comments that belong to it."""

    above: tuple[str, ...]  # comment lines; "" stands for a blank line
    text: str
    beside: str  # the comment on its last line, or ""


def format_text(text: str, *, name: str = "ruleset") -> str:
    """The canonical text of a ruleset, with its comments; RulesetError where it does not parse.

    >>> print(format_text('reward   =  1+1  # two'), end="")
    reward = 1 + 1  # two
    """
    parsed = parse_all(text, name=name)
    if parsed.findings:
        raise RulesetError.of(parsed.source, list(parsed.findings))
    source = parsed.source.text
    statements = parsed.ruleset.statements
    starts = [statement.place.start for statement in statements]
    pieces: list[_Piece] = []
    above = _comment_lines(source[: starts[0] if starts else len(source)])
    for statement, end in zip(statements, [*starts, len(source)][1:], strict=True):
        body_end = statement.place.end
        inner = _comments(source[statement.place.start : body_end])
        beside, rest = _split_tail(source[body_end:end])
        pieces.append(_Piece((*above, *inner), str(statement), beside))
        above = _comment_lines(rest)
    return _join(pieces, statements, above)


def _join(pieces: list[_Piece], statements: tuple[Statement, ...], tail: tuple[str, ...]) -> str:
    lines: list[str] = []
    for i, piece in enumerate(pieces):
        block = [*_trimmed(piece.above, first=i == 0), piece.text]
        if i and (needs_gap(statements[i - 1], statements[i]) or piece.above[:1] == ("",)):
            lines.append("")
        lines += block[:-1]
        lines.append(block[-1] + (f"  {piece.beside}" if piece.beside else ""))
    tail = _trimmed(tail, first=not pieces)
    if tail and pieces:
        lines.append("")
    return "\n".join([*lines, *tail]) + "\n"


def _trimmed(lines: tuple[str, ...], *, first: bool) -> tuple[str, ...]:
    """Comment lines without blank ones at either end; a blank line below the comment that heads a
    file stays."""
    while lines and not lines[0]:
        lines = lines[1:]
    keep_gap = first and bool(lines) and not lines[-1]
    while lines and not lines[-1]:
        lines = lines[:-1]
    return (*lines, "") if keep_gap else lines


def _comments(text: str) -> tuple[str, ...]:
    """All comments of a text, outside strings and heredocs."""
    found = (match[0] for match in re.finditer(OPAQUE, text, re.VERBOSE))
    return tuple(match.rstrip() for match in found if match.startswith("#"))


def _split_tail(text: str) -> tuple[str, str]:
    """The comment on the line where a statement ends, and the text below that line."""
    line, _, rest = text.partition("\n")
    return line.strip(), rest


def _comment_lines(text: str) -> tuple[str, ...]:
    """The comments between two statements; a run of blank lines becomes one ""."""
    lines: list[str] = []
    for line in text.removesuffix("\n").split("\n") if text else ():  # unlike splitlines, not at \f
        stripped = line.strip()
        if stripped or (lines and lines[-1]) or not lines:
            lines.append(stripped)
    return tuple(lines)
