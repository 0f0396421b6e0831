"""Sets of real numbers made of intervals and points, brought to one form.

`[1, 2] \\cup [2, 3]`, `(-1, 1) \\setminus \\{0\\}` and `\\mathbb{R} \\cap (0, 1]` become disjoint
intervals in ascending order. Only where every end is a number that can be told from the others.
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Final, NamedTuple

from grpo_rewards.limits import MAX_INTERVALS, MAX_SET_NODES
from grpo_rewards.rules.math.compare.canonical import canonical
from grpo_rewards.rules.math.compare.sampling import real
from grpo_rewards.rules.math.latex.tree import Term, negated, size, subterms

_CLOSE: Final = Fraction(1, 10**12)  # ends nearer than this are not told apart


class End(NamedTuple):
    """A place where a set begins or ends: before (-1), at or after (1) a number; by `order` the
    number, infinite ones by `far`."""

    far: int
    order: Fraction
    side: int
    node: Term

    @property
    def key(self) -> tuple[int, Fraction, int]:
        return self.far, self.order, self.side


Pieces = list[tuple[End, End]]  # from, to; ascending, apart


def merged(node: Term) -> Term | None:
    """The set as a list of disjoint intervals in ascending order; None where it is none.

    >>> from grpo_rewards.rules.math.latex.parser import parse_math
    >>> print(merged(parse_math(r"(-1, 1] \\\\cup [1, 2] \\\\setminus \\\\{0\\\\}")))
    (list (tuple ( ) -1 0) (tuple ( ] 0 2))
    """
    pieces = _pieces(node) if size(node) <= MAX_SET_NODES else None
    if pieces is None or len(pieces) > MAX_INTERVALS or not _is_apart(pieces):
        return None
    return Term("list", tuple(itertools.starmap(_interval, pieces)))


def _interval(low: End, high: End) -> Term:
    left, right = "[" if low.side < 0 else "(", "]" if high.side > 0 else ")"
    return Term("tuple", (left, right, low.node, high.node))


def _is_apart(pieces: Pieces) -> bool:
    """Whether no two numbers are so near that only algebra could tell them apart."""
    numbers = sorted({end.order for piece in pieces for end in piece if not end.far})
    return all(b - a > _CLOSE * max(Fraction(1), abs(a)) for a, b in itertools.pairwise(numbers))


def _pieces(node: Term) -> Pieces | None:
    if node.op == "tuple" and len(node.args) == 4:
        return _of_interval(node)
    if node == Term("domain", ("R",)):
        return [(_INFINITE[0], _INFINITE[1])]
    if node.op == "set":
        return _of_points(node)
    if node.op not in ("cup", "cap", "setminus"):
        return None
    left, right = (_pieces(part) for part in subterms(node))
    if left is None or right is None or len(left) + len(right) > MAX_INTERVALS:
        return None
    if node.op == "cup":
        return _union(left + right)
    return _complement(
        _union(_complement(left) + (_complement(right) if node.op == "cap" else right))
    )


_INF: Final = Term("inf", ())
_INFINITE: Final = (
    End(-1, Fraction(0), 1, negated(_INF)),
    End(1, Fraction(0), -1, _INF),
)


def _end(node: Term, side: int) -> End | None:
    form = canonical(node)
    for end in _INFINITE:
        if form == canonical(end.node):
            return end
    value = real(form)
    return None if value is None else End(0, value, side, node)


def _of_interval(node: Term) -> Pieces | None:
    left, right, first, last = node.args
    low, high = _end(first, -1 if left == "[" else 1), _end(last, 1 if right == "]" else -1)
    if low is None or high is None or low.key >= high.key:
        return None
    return [(low, high)]


def _of_points(node: Term) -> Pieces | None:
    found = [(_end(point, -1), _end(point, 1)) for point in subterms(node)]
    ends = [(low, high) for low, high in found if low and high and not low.far]
    return _union(ends) if len(ends) == len(found) else None


def _union(pieces: Pieces) -> Pieces:
    out: Pieces = []
    for low, high in sorted(pieces, key=lambda piece: piece[0].key):
        if out and low.key <= out[-1][1].key:
            if high.key > out[-1][1].key:
                out[-1] = (out[-1][0], high)
        else:
            out.append((low, high))
    return out


def _complement(pieces: Pieces) -> Pieces:
    """What is between the pieces. The end of one piece is the beginning of what follows it."""
    ends = [_INFINITE[0], *itertools.chain(*pieces), _INFINITE[1]]
    pairs = zip(ends[::2], ends[1::2], strict=True)
    return [(low, high) for low, high in pairs if low.key < high.key]
