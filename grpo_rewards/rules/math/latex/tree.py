"""The tree of a mathematical text: what a node is, and what can be asked of a tree."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final, NamedTuple

from grpo_rewards.limits import MAX_TREE_DEPTH


class Term(NamedTuple):
    """One node: what it is and its parts. `num` holds (Fraction, decimal places or None)."""

    op: str
    args: tuple[Any, ...]

    def __str__(self) -> str:
        return show_term(self)


def num(value: int | Fraction, places: int | None = None) -> Term:
    """A number node."""
    return Term("num", (Fraction(value), places))


def sym(name: str) -> Term:
    """A symbol node."""
    return Term("sym", (name,))


def subterms(node: Term) -> Iterator[Term]:
    """The nodes among the parts."""
    for part in node.args:
        if isinstance(part, Term):
            yield part


def names(node: Term) -> frozenset[str]:
    """All symbols of a tree.

    >>> from grpo_rewards.rules.math.latex.parser import parse_math
    >>> sorted(names(parse_math("x y + \\\\pi")))
    ['x', 'y']
    """
    found: set[str] = set()
    todo = [node]
    while todo:
        one = todo.pop()
        if one.op == "sym" and one.args[0] not in CONSTANTS:
            found.add(one.args[0])
        todo.extend(subterms(one))
    return frozenset(found)


def ops(node: Term) -> frozenset[str]:
    """All kinds of node of a tree."""
    found: set[str] = set()
    todo = [node]
    while todo:
        one = todo.pop()
        found.add(one.op)
        todo.extend(subterms(one))
    return frozenset(found)


def function_names(node: Term) -> frozenset[str]:
    """The named functions of a tree."""
    found = {node.args[0]} if node.op == "fn" else set()
    for part in subterms(node):
        found |= function_names(part)
    return frozenset(found)


def size(node: Term) -> int:
    """Nodes of a tree."""
    return 1 + sum(map(size, subterms(node)))


CONSTANTS: Final = frozenset({"pi", "e", "i"})
MINUS_ONE: Final = num(-1)


def show_term(node: Term) -> str:
    """The tree on one line: `(add x (pow y 2))`."""
    if node.op == "num":
        return str(node.args[0])
    if node.op in ("sym", "text", "domain"):
        return str(node.args[0])
    inner = " ".join(show_term(part) if isinstance(part, Term) else str(part) for part in node.args)
    return f"({node.op} {inner})" if inner else f"({node.op})"


def negated(node: Term) -> Term:
    """Minus the node; a number and a double minus fold at once."""
    if node.op == "num":
        return num(-node.args[0], node.args[1])
    if node.op == "mul" and node.args[0] == MINUS_ONE:
        rest = node.args[1:]
        return rest[0] if len(rest) == 1 else Term("mul", rest)
    return Term("mul", (MINUS_ONE, node))


def depth(node: Term) -> int:
    """Levels of the tree; 1 for a leaf."""
    level, deepest = [node], 0
    while level and deepest <= MAX_TREE_DEPTH + 1:
        deepest += 1
        level = [part for one in level for part in subterms(one)]
    return deepest
