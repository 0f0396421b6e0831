"""What a terminal's regular expression may cost: an ambiguity check on its syntax tree.

Lark's lexer runs Python's backtracking `re` on what a model wrote. A terminal is harmless when no
backtracking can multiply: a repeat inside a repeat hurts only where the two can share out the same
characters in several ways *and* something after them can fail. The check is careful on one side:
what it calls LINEAR is linear, what it calls RISKY may be.

Characters are told apart as the 128 of ASCII and one class for all others.
"""

from __future__ import annotations

import enum
import importlib
import re
from collections.abc import Sequence
from typing import Any

#: Python's own parser of patterns. It is private, and so are the names of its nodes, but a parser
#: of ours could read a pattern otherwise than the `re` that runs it. The tests hold its answers.
_parser: Any = importlib.import_module("re._parser")
_UNBOUNDED = 64  # a counted repeat above this is as good as unbounded
_OTHER = 128  # stands for every character outside ASCII
_ALL = frozenset(range(129))
_SAMPLES = [chr(code) for code in range(128)]
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT")

RegexNode = tuple[Any, Any]


class Cost(enum.IntEnum):
    """How the time of one match grows with the text."""

    LINEAR = 0
    RISKY = 1  # a higher power of the length
    EXPONENTIAL = 2


def syntax_of(regexp: str) -> Sequence[RegexNode]:
    """The syntax tree of Python's own parser; `re.error` where it does not parse."""
    return list(_parser.parse(regexp))


def cost(regexp: str) -> Cost:
    r"""The worst that one match attempt can cost.

    >>> cost(r"(?:[^<]+|<(?!\/?think>))+"), cost(r"(\w+\s?)+(?=<)"), cost(r"\s*\s*x")
    (<Cost.LINEAR: 0>, <Cost.EXPONENTIAL: 2>, <Cost.RISKY: 1>)
    """
    found = _Ambiguity()
    found.visit(syntax_of(regexp), frozenset(), False, False)
    if found.nested:
        return Cost.EXPONENTIAL
    return Cost.RISKY if found.loose > 1 or found.lookaround else Cost.LINEAR


def scans_far(regexp: str) -> bool:
    """Whether an attempt may read far ahead and then fail: `"[^"]*"` on an unclosed quote."""
    return _far(syntax_of(regexp), False)


def first(regexp: str) -> frozenset[int]:
    """The classes of characters that a match may begin with."""
    return _first(syntax_of(regexp))[0]


def explodes(regexp: str) -> bool:
    """Whether a deterministic automaton of it may be huge: `(a|b)*a(a|b){20}`.

    Lark's strict mode builds one for every terminal to find collisions.
    """
    return _counted(syntax_of(regexp), [False])


def _counted(nodes: Sequence[RegexNode], unbounded: list[bool]) -> bool:
    for op, av in nodes:
        if str(op) in (*_REPEATS, "POSSESSIVE_REPEAT"):
            low, high, body = av
            counted = max(low, high if high < _UNBOUNDED * 4 else 0)
            wide = len(_first(list(body))[0]) > 1
            if counted > 200 or (counted > 8 and unbounded[0] and wide):
                return True
            if _counted(list(body), unbounded):
                return True
            unbounded[0] = unbounded[0] or high >= _UNBOUNDED
        elif any(_counted(part, unbounded) for part in _parts(op, av)):
            return True
    return False


class _Ambiguity:
    """Counts repeats that can hand characters to what follows them, where failing is possible."""

    def __init__(self) -> None:
        self.nested = False
        self.loose = 0
        self.lookaround = False

    def visit(
        self, nodes: Sequence[RegexNode], follow: frozenset[int], may_fail: bool, in_loop: bool
    ) -> None:
        """`follow` is what may come next, `may_fail` whether that can fail."""
        for i, (op, av) in enumerate(nodes):
            rest = nodes[i + 1 :]
            begins, nullable = _first(rest)
            after = begins | follow if nullable else begins
            fails = may_fail or _can_fail(rest)
            name = str(op)
            if name in _REPEATS:
                self.loose += _two_repeats(_first(list(av[2]))[0], rest) if fails else 0
                self._repeat(av, after, fails, in_loop)
            elif name in ("ASSERT", "ASSERT_NOT"):
                self.lookaround |= in_loop and _far(list(av[1]), True)
                self.visit(list(av[1]), _ALL, True, False)
            elif name.startswith("GROUPREF"):
                self.lookaround = True
            else:
                if name == "BRANCH" and in_loop and fails:
                    self.nested |= _overlap([list(branch) for branch in av[1]], after)
                for part in _parts(op, av):
                    self.visit(part, after, fails, in_loop)

    def _repeat(self, av: Any, after: frozenset[int], fails: bool, in_loop: bool) -> None:
        low, high, body = av
        nodes = list(body)
        begins, nullable = _first(nodes)
        unbounded = high >= _UNBOUNDED
        shared = bool(begins & after) or (nullable and unbounded)
        if unbounded and fails and shared:
            self.loose += 1
        if low < high and fails and shared:  # in a loop `b?` before `b` is as bad as `b*`
            self.nested |= in_loop
        self.visit(nodes, begins | after, fails, in_loop or (unbounded and fails))


def _overlap(branches: Sequence[Sequence[RegexNode]], after: frozenset[int]) -> bool:
    """Whether two branches, or an empty one and what follows, fit the same text: `a|ab`."""
    seen: frozenset[int] = frozenset()
    for branch in branches:
        begins, nullable = _first(branch)
        begins |= after if nullable else frozenset()
        if begins & seen:
            return True
        seen |= begins
    return False


def _two_repeats(begins: frozenset[int], rest: Sequence[RegexNode]) -> bool:
    """Whether the next thing is an unbounded repeat over the same characters: `\\s*\\s*`."""
    for op, av in rest:
        own, nullable = _first([(op, av)])
        if str(op) in _REPEATS and av[1] >= _UNBOUNDED and own & begins:
            return True
        if not nullable:
            return False
    return False


def _parts(op: Any, av: Any) -> list[Sequence[RegexNode]]:
    """The sequences that stand inside a node."""
    name = str(op)
    if name == "BRANCH":
        return [list(branch) for branch in av[1]]
    if name == "SUBPATTERN":
        return [list(av[3])]
    if name == "ATOMIC_GROUP":
        return [list(av)]
    if name in (*_REPEATS, "POSSESSIVE_REPEAT"):
        return [list(av[2])]
    if name in ("ASSERT", "ASSERT_NOT"):
        return [list(av[1])]
    return []


def _can_fail(nodes: Sequence[RegexNode]) -> bool:
    for op, av in nodes:
        name = str(op)
        if name in (*_REPEATS, "POSSESSIVE_REPEAT"):
            if av[0] > 0 and _can_fail(list(av[2])):
                return True
        elif name == "BRANCH":
            if all(_can_fail(list(branch)) for branch in av[1]):
                return True
        elif name in ("SUBPATTERN", "ATOMIC_GROUP"):
            if any(_can_fail(part) for part in _parts(op, av)):
                return True
        else:
            return True
    return False


def _far(nodes: Sequence[RegexNode], may_fail: bool) -> bool:
    for i, (op, av) in enumerate(nodes):
        fails = may_fail or _can_fail(nodes[i + 1 :])
        repeat = str(op) in (*_REPEATS, "POSSESSIVE_REPEAT")
        if repeat and av[1] >= _UNBOUNDED and (fails or _inside_fails(list(av[2]))):
            return True
        if any(_far(part, fails) for part in _parts(op, av)):
            return True
    return False


def _inside_fails(body: Sequence[RegexNode]) -> bool:
    """A loop over a body of several parts may give up in the middle of a long one."""
    return any(_far(part, False) for op, av in body for part in _parts(op, av))


def _first(nodes: Sequence[RegexNode]) -> tuple[frozenset[int], bool]:
    """Classes that may come first, and whether the whole may be empty."""
    found: frozenset[int] = frozenset()
    for op, av in nodes:
        begins, nullable = _first_of(str(op), op, av)
        found |= begins
        if not nullable:
            return found, False
    return found, True


def _first_of(name: str, op: Any, av: Any) -> tuple[frozenset[int], bool]:
    if name == "LITERAL":
        return _cases(av), False
    if name == "NOT_LITERAL":
        return _ALL - {av} if av < 128 else _ALL, False
    if name == "ANY":
        return _ALL, False
    if name == "IN":
        return _class(av), False
    if name in ("AT", "ASSERT", "ASSERT_NOT"):
        return frozenset(), True
    if name.startswith("GROUPREF"):
        return _ALL, True
    parts = [_first(part) for part in _parts(op, av)]
    begins = frozenset[int]().union(*(part[0] for part in parts))
    nullable = any(part[1] for part in parts)
    if name in (*_REPEATS, "POSSESSIVE_REPEAT"):
        nullable = nullable or av[0] == 0
    return begins, nullable


def _cases(code: int) -> frozenset[int]:
    """A literal in both cases, since a flag may ask for either."""
    both = {ord(c) for c in chr(code).lower() + chr(code).upper()}
    return frozenset(c if c < 128 else _OTHER for c in both)


def _class(items: Sequence[RegexNode]) -> frozenset[int]:
    found: set[int] = set()
    negated = False
    for op, av in items:
        name = str(op)
        if name == "NEGATE":
            negated = True
        elif name == "LITERAL":
            if not negated:
                found |= _cases(av)
            elif av < 128:
                found.add(av)
        elif name == "RANGE":
            found |= set(range(av[0], min(av[1], 127) + 1))
            if av[1] > 127 and not negated:
                found.add(_OTHER)
        elif name == "CATEGORY":
            found |= _category(str(av), negated)
    return _ALL - found if negated else frozenset(found)


_CATEGORIES = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}


def _category(name: str, negated: bool) -> set[int]:
    """`CATEGORY_NOT_WORD` → its characters; those outside ASCII belong to both sides."""
    key = name.rsplit("_", 1)[1]
    escape = _CATEGORIES[key].upper() if "_NOT_" in name else _CATEGORIES[key]
    found = {i for i, char in enumerate(_SAMPLES) if re.match(escape, char)}
    return found if negated else found | {_OTHER}
