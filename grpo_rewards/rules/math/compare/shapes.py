"""The shapes of answers: what a list holds, what an equation gives, which interval a chain is."""

from __future__ import annotations

import functools
import itertools
from typing import Final

from grpo_rewards.rules.math.compare.canonical import canonical
from grpo_rewards.rules.math.compare.sampling import real
from grpo_rewards.rules.math.latex.tree import Term, names, negated, num, ops

_MIRROR: Final = {">": "<", ">=": "<=", "<": ">", "<=": ">="}
INFINITY: Final = Term("inf", ())


def collapsed(node: Term) -> Term:
    """A chain `x = 3 + 4 = 7 \\approx …` as `x = 7`; a bare `… = 7` of constants as `7`."""
    if node.op == "cases":
        return Term("list", node.args)
    if node.op != "rel":
        return node
    signs = node.args[0]
    sides: list[Term] = [*node.args[1:]]
    if "~" in signs:
        cut = signs.index("~")
        signs, sides = signs[:cut], sides[: cut + 1]
        if not signs:
            return sides[0] if not is_name(sides[0]) else Term("rel", (("=",), *node.args[1:3]))
    if len(sides) > 2 and set(signs) == {"="}:
        signs, sides = ("=",), [sides[0], sides[-1]]
    if signs == ("=",) and _contradicts(sides[0], sides[1]):
        return node
    if signs == ("=",) and not is_name(sides[0]) and not _has_unknown(sides[0]):
        if is_name(sides[1]) and sides[1].op == "sym":
            return Term("rel", (signs, sides[1], sides[0]))
        if "big" not in ops(sides[0]) and _has_unknown(sides[1]):
            return Term("rel", (signs, sides[1], sides[0]))  # `25 = x^2 + y^2`
        return sides[1]
    return Term("rel", (signs, *sides))


def _contradicts(left: Term, right: Term) -> bool:
    """`3 = 4`: two constants too far apart for rounding."""
    first, second = real(canonical(left)), real(canonical(right))
    if first is None or second is None:
        return False
    return 50 * abs(first - second) > max(abs(first), abs(second))


def _has_unknown(node: Term) -> bool:
    """Whether a side holds variables of its own, not only the index of a sum."""
    if node.op == "big":
        return False
    if node.op == "sym":
        return node.args[0] not in ("pi", "e", "i")
    return any(_has_unknown(part) for part in node.args if isinstance(part, Term)) or (
        node.op in ("apply", "text")
    )


def is_name(node: Term) -> bool:
    """Whether a left side only names what the right side says: `x`, `f(x)`, `AB`, `(p, q)`."""
    match node.op:
        case "sym":
            return node.args[0] not in ("pi", "e", "i")
        case "apply" | "text":
            return True
        case "note":
            return is_name(node.args[0])
        case "tuple":
            return all(is_name(part) for part in node.args[2:])
        case "ratio":
            return all(is_name(part) for part in node.args)
        case "mul":
            first = node.args[0]
            inverse = first.op == "pow" and first.args[0].op == "sym" and first.args[1] == num(-1)
            upper = first.op == "sym" and first.args[0][:1].isupper()
            return (upper or inverse) and all(part.op == "sym" for part in node.args[1:])
        case "fn":
            return (
                len(node.args) == 2
                and node.args[0] in ("det", "norm", "abs", "re", "im", "arg")
                and is_name(node.args[1])
                and node.args[0] != "abs"
            )
        case "degrees":
            return False
    return False


def named_value(rel: Term) -> Term | None:
    """The right side of an equation whose left side is a name that does not come back."""
    left: Term = rel.args[1]
    right: Term = rel.args[2]
    if is_name(left):
        if left.op == "sym" and left.args[0] in names(right):
            return None
        return right
    if is_name(right) and right.op == "sym" and right.args[0] not in names(left):
        return left
    return None


def side_names(a: Term, b: Term) -> bool:
    """Whether two left sides are names for the same: `y` and `f(x)`."""
    rates = [_is_rate(rel.args[1]) for rel in (a, b)]
    if any(rates):
        return all(rates)
    kinds = {a.args[1].op, b.args[1].op}
    plain = {n.args[1].args[0] for n in (a, b) if n.args[1].op == "sym"}
    return kinds == {"sym", "apply"} and plain == {"y"}


def _is_rate(name: Term) -> bool:
    """`dy/dx`, `y'` and `f'(x)`, which name one derivative."""
    if name.op == "apply" and name.args[0] == "d/d":
        over: Term = name.args[1]
        return over == Term("mul", (Term("sym", ("d",)), Term("sym", ("y",))))
    return name.op in ("sym", "apply") and name.args[0] in ("y'", "f'")


def expanded(node: Term) -> tuple[Term, ...]:
    """Both values of a `\\pm`; the node itself without one."""
    if "pm" not in ops(node):
        return (node,)
    return (_signed(node, 1), _signed(node, -1))


def _signed(node: Term, sign: int) -> Term:
    if node.op == "pm":
        kind, left, right = node.args
        right = _signed(right, sign)
        take = right if (kind == "pm") == (sign > 0) else negated(right)
        left = _signed(left, sign)
        return take if left == num(0) else Term("add", (left, take))
    parts = (_signed(p, sign) if isinstance(p, Term) else p for p in node.args)
    return Term(node.op, tuple(parts))


def items_of(node: Term) -> tuple[Term, ...]:
    """The items of a list or set, names dropped (`x = 1, x = 2`), `\\pm` written out."""
    parts = node.args if node.op in ("list", "set") else (node,)
    if node.op == "list":
        parts = _regrouped(parts)
    out: list[Term] = []
    for part in parts:
        part = collapsed(part)
        if part.op == "rel" and part.args[0] == ("=",):
            value = named_value(part)
            part = value if value is not None else part
        if part.op == "rel" and part.args[0] == ("in",):
            part = part.args[2]
        if part.op in ("list", "set") and len(parts) == 1 and part is not node:
            out.extend(items_of(part))
        elif part.op == "tuple" and node.op == "list":
            out.append(_values(part))
        else:
            out.extend(expanded(part))
    return tuple(out)


def _regrouped(parts: tuple[Term, ...]) -> tuple[Term, ...]:
    """`p = 5, q = 2, p = 7, q = 2` as two pairs."""
    if len(parts) < 4 or any(p.op != "rel" or p.args[0] != ("=",) for p in parts):
        return parts
    heads = [part.args[1] for part in parts]
    width = len(dict.fromkeys(heads))
    if width == 1 or len(heads) % width or heads != heads[:width] * (len(heads) // width):
        return parts
    chunks = (parts[at : at + width] for at in range(0, len(parts), width))
    return tuple(Term("tuple", ("(", ")", *chunk)) for chunk in chunks)


def _values(node: Term) -> Term:
    """A tuple of equations, `(p = 5, q = 2)`, as the tuple of its values."""
    values = []
    for part in node.args[2:]:
        value = named_value(part) if part.op == "rel" and part.args[0] == ("=",) else part
        values.append(part if value is None else value)
    return Term("tuple", (*node.args[:2], *values))


def members(node: Term) -> tuple[Term, ...]:
    """What a tuple or an interval holds."""
    return node.args[2:]


def oriented(rel: Term) -> Term | None:
    """A chain of inequalities written upwards; None for other relations."""
    signs, *sides = rel.args
    if all(sign in ("<", "<=") for sign in signs) or signs == ("!=",):
        return rel
    if all(sign in (">", ">=") for sign in signs):
        return Term("rel", (tuple(_MIRROR[sign] for sign in reversed(signs)), *reversed(sides)))
    return None


def interval_of(rel: Term) -> Term | None:
    """The interval, or union of intervals, that an inequality for one unknown describes."""
    if rel.args[0] == ("!=",):
        below = _interval("(", None, rel.args[2], ")")
        above = _interval("(", rel.args[2], None, ")")
        return Term("cup", (below, above)) if is_name(rel.args[1]) else None
    chain = oriented(rel)
    if chain is None:
        return None
    signs, *sides = chain.args
    low: Term | None
    high: Term | None
    if len(sides) == 2:
        middle = 0 if _unknown(sides[0]) else 1
        low, high = (None, sides[1]) if middle == 0 else (sides[0], None)
        left = "(" if middle == 0 or signs[0] == "<" else "["
        right = ")" if middle == 1 or signs[0] == "<" else "]"
    elif len(sides) == 3:
        middle, low, high = 1, sides[0], sides[2]
        left, right = "(" if signs[0] == "<" else "[", ")" if signs[1] == "<" else "]"
    else:
        return None
    if not _unknown(sides[middle]) or any(names(s) for s in (low, high) if s is not None):
        return None
    if sides[middle].op == "fn":
        return _both_sides(left, low, high, right)
    return _interval(left, low, high, right)


def _unknown(node: Term) -> bool:
    return is_name(node) or (node.op == "fn" and node.args[0] == "abs" and is_name(node.args[1]))


def _interval(left: str, low: Term | None, high: Term | None, right: str) -> Term:
    bottom = negated(INFINITY) if low is None else low
    return Term("tuple", (left, right, bottom, INFINITY if high is None else high))


def as_union(node: Term) -> Term:
    """`\\mathbb{R}` as an interval, `\\mathbb{R} \\setminus \\{2\\}` as a union of two."""
    if node.op == "cup" and all(part.op == "set" for part in node.args):
        return Term("set", tuple(item for part in node.args for item in part.args))
    if node == Term("domain", ("R",)):
        return _interval("(", None, None, ")")
    if node.op == "add" and len(node.args) == 2 and node.args[0] == Term("domain", ("R",)):
        taken = negated(node.args[1])  # `R - {2}`
        node = Term("setminus", (node.args[0], taken)) if taken.op == "set" else node
    if node.op != "setminus" or node.args[0] != Term("domain", ("R",)) or node.args[1].op != "set":
        return node
    points = [(real(canonical(point)), point) for point in node.args[1].args]
    if not points or any(value is None for value, _ in points):
        return node
    ordered = [point for _, point in sorted(points, key=lambda pair: pair[0] or 0)]
    ends = [None, *ordered, None]
    pieces = [_interval("(", low, high, ")") for low, high in itertools.pairwise(ends)]
    return functools.reduce(lambda left, right: Term("cup", (left, right)), pieces)


def without_conditions(node: Term) -> tuple[Term, frozenset[str]]:
    """`x = k \\pi, k \\in Z` without what it says of `k`, and the names that range over integers.

    Only what is said of other names than the answer's own is dropped.
    """
    if node.op != "list" or len(node.args) < 2:
        return node, frozenset()
    first, *rest = node.args
    said: set[str] = set()
    for part in rest:
        if part.op != "rel" or part.args[0] not in _CONDITIONS or part.args[1].op != "sym":
            return node, frozenset()
        said.add(part.args[1].args[0])
    value = named_value(first) if first.op == "rel" and first.args[0] == ("=",) else first
    inside = value is not None and said <= names(value)
    if not inside or (first.op == "rel" and first.args[0] != ("=",)):
        return node, frozenset()
    return first, frozenset(said)


_CONDITIONS: Final = frozenset({("in",), ("<",), ("<=",), (">",), (">=",), ("!=",)})


def both_bounds(parts: tuple[Term, ...]) -> Term | None:
    """`x >= -1 and x < 4` as an interval; None where the bounds leave nothing between them."""
    found = [interval_of(part) for part in parts if part.op == "rel"]
    if len(parts) != 2 or len(found) != 2 or len({names(part) for part in parts}) != 1:
        return None
    ends = [piece for piece in found if piece is not None and piece.op == "tuple"]
    lows = [p for p in ends if p.args[3] == INFINITY and p.args[2] != negated(INFINITY)]
    highs = [p for p in ends if p.args[2] == negated(INFINITY) and p.args[3] != INFINITY]
    if len(lows) != 1 or len(highs) != 1:
        return None
    low, high = real(canonical(lows[0].args[2])), real(canonical(highs[0].args[3]))
    if low is None or high is None or low >= high:
        return None
    return Term("tuple", (lows[0].args[0], highs[0].args[1], lows[0].args[2], highs[0].args[3]))


def inequalities_as_union(parts: tuple[Term, ...]) -> Term | None:
    """`x > 2 or x < -2` as a union of intervals."""
    intervals = [interval_of(part) if part.op == "rel" else None for part in parts]
    found = [interval for interval in intervals if interval is not None]
    if len(found) != len(parts) or len({names(part) for part in parts}) != 1:
        return None
    return functools.reduce(lambda left, right: Term("cup", (left, right)), found)


def named_items(node: Term) -> dict[Term, Term] | None:
    """`x = 1, y = 2` by name; None unless every item has a name of its own."""
    if node.op != "list":
        return None
    out: dict[Term, Term] = {}
    for part in map(collapsed, node.args):
        if part.op != "rel" or part.args[0] != ("=",) or not is_name(part.args[1]):
            return None
        out[part.args[1]] = part.args[2]
    return out if len(out) == len(node.args) else None


def _both_sides(left: str, low: Term | None, high: Term | None, right: str) -> Term | None:
    """`a < |x| < b` as a union; `|x| < b` as one interval."""
    mirror = {"(": ")", "[": "]", ")": "(", "]": "["}
    if low is None:
        return None if high is None else _interval(mirror[right], negated(high), high, right)
    top = None if high is None else negated(high)
    lower = _interval(mirror[right], top, negated(low), mirror[left])
    return Term("cup", (canonical(lower), _interval(left, low, high, right)))


def union_parts(node: Term) -> tuple[Term, ...]:
    """The sets that a union joins."""
    if node.op == "cup":
        return union_parts(node.args[0]) + union_parts(node.args[1])
    return (node,)
