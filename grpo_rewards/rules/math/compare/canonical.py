"""A tree → its canonical form: exact arithmetic folded, sums and products flattened and ordered.

Equal canonical forms mean equal values; different forms mean nothing, except between two numbers.
Nothing is expanded and every number stays under a bit budget, so the work is linear in the tree.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final

from grpo_rewards import limits
from grpo_rewards.rules.math.latex.tree import MINUS_ONE, Term, num, show_term

HALF: Final = Fraction(1, 2)


def canonical(node: Term) -> Term:
    """The canonical form.

    >>> from grpo_rewards.rules.math.latex.parser import parse_math
    >>> canonical(parse_math(r"\\frac{6}{4}x + x")) == canonical(parse_math("2.5 x"))
    True
    """
    match node.op:
        case "num":
            return node if node.args[1] is None else num(node.args[0])
        case "sym" | "text" | "inf" | "dots" | "domain":
            return node
        case "add":
            return _add([canonical(part) for part in node.args])
        case "mul":
            return _mul([canonical(part) for part in node.args])
        case "div":
            top, bottom = canonical(node.args[0]), canonical(node.args[1])
            return _mul([top, _pow(bottom, MINUS_ONE)])
        case "pow":
            return _pow(canonical(node.args[0]), canonical(node.args[1]))
        case "root":
            return _rooted(canonical(node.args[0]), canonical(node.args[1]))
        case "percent":
            return _mul([canonical(node.args[0]), num(Fraction(1, 100))])
        case "fn":
            return _function(node)
        case "big":
            return _big(node)
        case "set":
            return Term("set", _ordered({canonical(part) for part in node.args}))
        case "list":
            return Term("list", _ordered([canonical(part) for part in node.args]))
        case _:
            parts = (canonical(p) if isinstance(p, Term) else p for p in node.args)
            return Term(node.op, tuple(parts))


def _ordered(parts: list[Term] | set[Term]) -> tuple[Term, ...]:
    return tuple(sorted(parts, key=show_term))


def _small(value: Fraction) -> bool:
    size = value.numerator.bit_length() + value.denominator.bit_length()
    return size <= limits.MAX_FRACTION_BITS


def _add(parts: list[Term]) -> Term:
    """Like terms collected: `x + x` is `2 x`."""
    constant = Fraction(0)
    terms: dict[Term, Fraction] = {}
    for part in (inner for p in parts for inner in (p.args if p.op == "add" else (p,))):
        if part.op == "num":
            constant += part.args[0]
            continue
        factor, rest = _coefficient(part)
        terms[rest] = terms.get(rest, Fraction(0)) + factor
    if not _small(constant):
        return Term("add", _ordered(parts))
    kept = [_scaled(factor, rest) for rest, factor in terms.items() if factor]
    if constant or not kept:
        kept.append(num(constant))
    return kept[0] if len(kept) == 1 else Term("add", _ordered(kept))


def _coefficient(node: Term) -> tuple[Fraction, Term]:
    if node.op == "mul" and node.args[0].op == "num":
        rest = node.args[1:]
        return node.args[0].args[0], rest[0] if len(rest) == 1 else Term("mul", rest)
    return Fraction(1), node


def _scaled(factor: Fraction, rest: Term) -> Term:
    if factor == 1:
        return rest
    inner = rest.args if rest.op == "mul" else (rest,)
    return Term("mul", (num(factor), *inner))


def _mul(parts: list[Term]) -> Term:
    """Powers of one base collected: `x x^2` is `x^3`. Infinity keeps its sign only."""
    constant = Fraction(1)
    powers: dict[Term, Fraction] = {}
    others: list[Term] = []
    flat = [inner for p in parts for inner in (p.args if p.op == "mul" else (p,))]
    if any(part.op in ("matrix", "text", "set", "tuple", "pm") for part in flat):
        return Term("mul", tuple(flat))
    for part in flat:
        if part.op == "num":
            constant *= part.args[0]
        elif part.op == "pow" and part.args[1].op == "num":
            powers[part.args[0]] = powers.get(part.args[0], Fraction(0)) + part.args[1].args[0]
        elif part.op == "pow":
            others.append(part)
        else:
            powers[part] = powers.get(part, Fraction(0)) + 1
    if not _small(constant):
        return Term("mul", _ordered(parts))
    kept = others
    for base, exponent in powers.items():
        power = _pow(base, num(exponent))
        if power.op == "num":
            constant *= power.args[0]
        elif power.op == "mul":  # `2^{3/2}` is `2 \sqrt 2`
            constant *= power.args[0].args[0] if power.args[0].op == "num" else 1
            kept += power.args[1:] if power.args[0].op == "num" else power.args
        else:
            kept.append(power)
    return _product(constant, kept)


def _product(constant: Fraction, kept: list[Term]) -> Term:
    if not kept:
        return num(constant)
    infinite = [part for part in kept if part.op == "inf"]
    if infinite and len(kept) == 1 and constant:
        return kept[0] if constant > 0 else Term("mul", (MINUS_ONE, kept[0]))
    if constant == 0:
        return num(0) if not infinite else Term("mul", (num(0), *_ordered(kept)))
    if constant == 1:
        return kept[0] if len(kept) == 1 else Term("mul", _ordered(kept))
    if len(kept) == 1 and kept[0].op == "add":  # 2 (x + 1) is 2 x + 2, as in sums
        return _add([_mul([num(constant), part]) for part in kept[0].args])
    return Term("mul", (num(constant), *_ordered(kept)))


def _pow(base: Term, exponent: Term) -> Term:
    if exponent.op == "num":
        power: Fraction = exponent.args[0]
        if power == 1:
            return base
        if power == 0 and base.op != "inf":
            return num(1)
        if base.op == "num":
            return _number_power(base.args[0], power)
        if power.denominator == 1:
            if base.op == "pow" and base.args[1].op == "num":
                return _pow(base.args[0], num(base.args[1].args[0] * power))
            if base.op == "mul":
                return _mul([_pow(part, exponent) for part in base.args])
            if base.op == "sym" and base.args[0] == "i":
                return (num(1), base, num(-1), Term("mul", (MINUS_ONE, base)))[int(power) % 4]
    return Term("pow", (base, exponent))


def _rooted(base: Term, index: Term) -> Term:
    """`\\sqrt[3]{-8}` is -2: an odd root of a negative number is real where it is written so."""
    exponent = _pow(index, MINUS_ONE)
    odd = index.op == "num" and index.args[0].denominator == 1 and index.args[0] % 2 == 1
    if odd and base.op == "num" and base.args[0] < 0:
        return _mul([MINUS_ONE, _exact_root(-base.args[0], int(index.args[0]), exponent)])
    if base.op == "num" and base.args[0] > 0 and index.op == "num" and index.args[0] >= 2:
        return _exact_root(base.args[0], int(index.args[0]), exponent)
    return _pow(base, exponent)


def _exact_root(base: Fraction, index: int, exponent: Term) -> Term:
    top, bottom = (_integer_root(part, index) for part in (base.numerator, base.denominator))
    if top is not None and bottom is not None:
        return num(Fraction(top, bottom))
    return _pow(num(base), exponent)


def _integer_root(value: int, index: int) -> int | None:
    if value in (0, 1):
        return value
    if value.bit_length() > limits.MAX_ROOT_BITS:
        return None
    if index > value.bit_length():  # the root is below 2, and `g**index` is never computed
        return None
    guess = round(value ** (1 / index))
    return next((g for g in (guess - 1, guess, guess + 1) if g >= 0 and g**index == value), None)


def _number_power(base: Fraction, power: Fraction) -> Term:
    whole = Term("pow", (num(base), num(power)))
    size = base.numerator.bit_length() + base.denominator.bit_length()
    if base == 0:
        return num(0) if power > 0 else whole
    if power.denominator == 1:
        if size * abs(power) > limits.MAX_FRACTION_BITS:
            return whole
        return num(base ** int(power))
    if power.denominator == 2 and base > 0 and size * abs(power) <= limits.MAX_FRACTION_BITS:
        return _root(base, power)
    return whole


def _root(base: Fraction, power: Fraction) -> Term:
    """A square root with the square taken out: `\\sqrt{12}` is `2 \\sqrt 3`."""
    value = base ** int(power - HALF)
    outside = Fraction(1, base.denominator)
    inside = base.numerator * base.denominator
    root = math.isqrt(inside)
    if root * root == inside:
        return num(value * outside * root)
    for prime in (2, 3, 5, 7, 11, 13):
        while inside % (prime * prime) == 0:
            inside //= prime * prime
            outside *= prime
    radical = Term("pow", (num(inside), num(HALF)))
    factor = value * outside
    return radical if factor == 1 else Term("mul", (num(factor), radical))


def _function(node: Term) -> Term:
    name, *given = node.args
    parts = [canonical(part) for part in given]
    first = parts[0]
    if first.op == "num" and len(parts) == 1:
        value: Fraction = first.args[0]
        if name == "abs":
            return num(abs(value))
        if name == "floor":
            return num(math.floor(value))
        if name == "ceil":
            return num(math.ceil(value))
        if name == "factorial" and value.denominator == 1 and 0 <= value <= limits.MAX_FACTORIAL:
            return num(math.factorial(int(value)))
    if name == "binom" and all(p.op == "num" and p.args[0].denominator == 1 for p in parts):
        top, bottom = (int(p.args[0]) for p in parts)
        if 0 <= bottom <= top <= limits.MAX_FACTORIAL:
            return num(math.comb(top, bottom))
    return Term("fn", (name, *parts))


def _big(node: Term) -> Term:
    """The index of a sum is renamed: `\\sum_k k` is `\\sum_j j`."""
    name, low, high, body = (canonical(p) if isinstance(p, Term) else p for p in node.args)
    if low.op == "rel" and low.args[0] == ("=",) and low.args[1].op == "sym":
        index = low.args[1].args[0]
        low, body = rename(low, index, "#"), rename(body, index, "#")
    return Term("big", (name, low, high, canonical(body)))


def rename(node: Term, old: str, new: str) -> Term:
    """The tree with one symbol under another name."""
    if node.op == "sym":
        return Term("sym", (new,)) if node.args[0] == old else node
    parts = (rename(p, old, new) if isinstance(p, Term) else p for p in node.args)
    return Term(node.op, tuple(parts))
