"""Mathematical text, LaTeX or plain, → an immutable tree of `Term`s.

`parse_math` never raises and evaluates nothing: it counts tokens, depth and digits (limits.py), and
what it cannot read comes back as a `ParseFailure` with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import Any, Final, NamedTuple

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import LarkError
from lark.lexer import Lexer

from grpo_rewards import limits
from grpo_rewards.rules.math import symbols
from grpo_rewards.rules.math.latex.scanner import Scanner
from grpo_rewards.rules.math.latex.token_stream import Unreadable
from grpo_rewards.rules.math.latex.tree import MINUS_ONE, Term, depth, names, negated, num, sym
from grpo_rewards.syntax import saved_parsers


class ParseFailure(NamedTuple):
    """What cannot be read, and why."""

    reason: str


@v_args(inline=True)
class _Build(Transformer):  # type: ignore[type-arg]  # Lark's Transformer is generic only for typing
    """Rule → node; the method names are the aliases of latex.lark."""

    def start(self, node: Term) -> Term:
        return node

    def number(self, token: Token) -> Term:
        return read_number_token(str(token))

    def minus_number(self, _: Token, token: Token) -> Term:
        return negated(read_number_token(str(token)))

    def symbol(self, token: Token) -> Term:
        return sym(str(token))

    def text(self, token: Token) -> Term:
        return Term("text", (" ".join(token.split()),))

    def infinity(self, _: Token) -> Term:
        return Term("inf", ())

    def empty(self, *_: Token) -> Term:
        return Term("set", ())

    def dots(self, _: Token) -> Term:
        return Term("dots", ())

    def domain(self, token: Token) -> Term:
        return Term("domain", (str(token),))

    def mixed_plain(self, token: Token) -> Term:
        whole, top, bottom = map(int, re.findall(r"\d+", token))
        if bottom == 0:
            raise Unreadable("division by zero")
        return num(whole + Fraction(top, bottom))

    def mixed(self, whole: Token, _g: Token, _f: Token, top: Term, bottom: Term) -> Term:
        if bottom.args[0] == 0:
            raise Unreadable("division by zero")
        return num(int(whole) + Fraction(top.args[0]) / bottom.args[0])

    def semicolons(self, *parts: Term | Token) -> Term:
        rows = [part for part in parts if isinstance(part, Term)]
        if any(row.op == "list" for row in rows):
            rows = [
                Term("tuple", ("(", ")", *row.args)) if row.op == "list" else row for row in rows
            ]
        return Term("list", tuple(rows))

    def list(self, *parts: Term | Token) -> Term:
        return Term("list", tuple(part for part in parts if isinstance(part, Term)))

    def only(self, node: Term, _: Token) -> Term:
        return node

    def relation(self, *parts: Term | Token) -> Term:
        signs = tuple(str(part) for part in parts[1::2])
        return Term("rel", (signs, *parts[0::2]))

    def bare_relation(self, sign: Token, node: Term) -> Term:
        if sign in ("~", "=", "to"):
            return node
        raise Unreadable("a relation without a left side")

    def ratio(self, *parts: Term | Token) -> Term:
        return Term("ratio", parts[0::2])

    def setop(self, *parts: Term | Token) -> Term:
        node = parts[0]
        for sign, right in zip(parts[1::2], parts[2::2], strict=True):
            node = Term(str(sign), (node, right))
        assert isinstance(node, Term)
        return node

    def add(self, left: Term, _: Token, right: Term) -> Term:
        return Term("add", (*(left.args if left.op == "add" else (left,)), right))

    def sub(self, left: Term, _: Token, right: Term) -> Term:
        return Term("add", (*(left.args if left.op == "add" else (left,)), negated(right)))

    def pm(self, left: Term, sign: Token, right: Term) -> Term:
        return Term("pm", (str(sign), left, right))

    def unary_pm(self, sign: Token, node: Term) -> Term:
        return Term("pm", (str(sign), num(0), node))

    def mul(self, left: Term, _: Token, right: Term) -> Term:
        return Term("mul", (*(left.args if left.op == "mul" else (left,)), right))

    def div(self, left: Term, _: Token, right: Term) -> Term:
        return Term("div", (left, right))

    def div_frac(self, _: Token, top: Term, bottom: Term) -> Term:
        if _is_differential(top) and _is_differential(bottom):
            return Term("apply", ("d/d", top, bottom))
        return Term("div", (top, bottom))

    def mod(self, left: Term, _: Token, right: Term) -> Term:
        return Term("mod", (left, right))

    def neg(self, _: Token, node: Term) -> Term:
        return negated(node)

    def plus(self, _: Token, node: Term) -> Term:
        return node

    def power(self, base: Term, _: Token, exponent: Term) -> Term:
        if exponent.op == "sym" and exponent.args[0] == "prime":
            return base
        return Term("pow", (base, exponent))

    def mods(self, *parts: Term | Token) -> tuple[tuple[str, Term], ...]:
        return tuple(
            (parts[i].type, parts[i + 1])  # type: ignore[union-attr,misc]  # Token, Node by turns
            for i in range(0, len(parts), 2)
        )

    def call(self, name: Token, mods: tuple[tuple[str, Term], ...], argument: Term) -> Term:
        return _call(str(name), dict(mods), argument)

    def arguments(self, _l: Token, node: Term, _r: Token) -> Term:
        return node

    def big(self, name: Token, mods: tuple[tuple[str, Term], ...], body: Term) -> Term:
        scripts = dict(mods)
        return Term(
            "big", (str(name), scripts.get("SUB", num(0)), scripts.get("POW", num(0)), body)
        )

    def apply(self, name: Token, _l: Token, node: Term, _r: Token) -> Term:
        return Term("apply", (str(name), *(node.args if node.op == "list" else (node,))))

    def factorial(self, node: Term, _: Token) -> Term:
        return Term("fn", ("factorial", node))

    def factorial2(self, node: Term, _: Token) -> Term:
        return Term("fn", ("factorial2", node))

    def percent(self, node: Term, _: Token) -> Term:
        return Term("percent", (node,))

    def degrees(self, node: Term, _: Token) -> Term:
        return Term("degrees", (node,))

    def base(self, node: Term, base: Token) -> Term:
        return Term("base", (node, int(base)))

    def note(self, node: Term, words: Token) -> Term:
        return Term("note", (node, str(words)))

    def group(self, _l: Token, node: Term, _r: Token) -> Term:
        return node

    def parens(self, left: Token, node: Term, right: Token) -> Term:
        return _bracketed(left, node, right)

    def brackets(self, left: Token, node: Term, right: Token) -> Term:
        return _bracketed(left, node, right)

    def angles(self, _l: Token, node: Term, _r: Token) -> Term:
        items = node.args if node.op == "list" else (node,)
        return Term("tuple", ("(", ")", *items))

    def braces(self, _l: Token, node: Term, _r: Token) -> Term:
        return Term("set", node.args) if node.op == "list" else node

    def set(self, _l: Token, node: Term, _r: Token) -> Term:
        items = node.args if node.op == "list" else (node,)
        return _described(items) or Term("set", items)

    def absolute(self, _l: Token, node: Term, _r: Token) -> Term:
        return Term("fn", ("abs", node))

    def norm(self, _l: Token, node: Term, _r: Token) -> Term:
        return Term("fn", ("norm", node))

    def floor(self, _l: Token, node: Term, _r: Token) -> Term:
        return Term("fn", ("floor", node))

    def ceil(self, _l: Token, node: Term, _r: Token) -> Term:
        return Term("fn", ("ceil", node))

    def binom(self, _: Token, top: Term, bottom: Term) -> Term:
        return Term("fn", ("binom", top, bottom))

    def sqrt(self, _: Token, node: Term) -> Term:
        return Term("pow", (node, num(Fraction(1, 2))))

    def root(self, _s: Token, _l: Token, index: Term, _r: Token, node: Term) -> Term:
        return Term("root", (node, index))

    def row(self, *parts: Term | Token) -> Term:
        return Term("row", tuple(part for part in parts if isinstance(part, Term)))

    def matrix(self, begin: Token, *parts: Term | Token) -> Term:
        rows = tuple(part for part in parts if isinstance(part, Term))
        if begin == "cases":
            return Term("cases", tuple(map(_case, rows)))
        if len({len(row.args) for row in rows}) != 1:
            raise Unreadable("rows of unequal length")
        matrix = Term("matrix", rows)
        return Term("fn", ("det", matrix)) if begin == "vmatrix" else matrix


def _described(items: tuple[Term, ...]) -> Term | None:
    """`{x | x > 2}` and `{x \\in R : x > 2}` as what is said of `x`, `{2k | k \\in Z}` as the value
    with its condition; None for a set that lists its items."""
    first, *more = items
    if first.op != "rel" or "mid" not in first.args[0]:
        return None
    signs, *sides = first.args
    bar = signs.index("mid")
    if bar + 1 == len(signs):
        return None
    said = (Term("rel", (signs[bar + 1 :], *sides[bar + 1 :])), *more)
    if bar == 0 and sides[0].op not in ("sym", "tuple") and names(sides[0]):
        return Term("list", (sides[0], *said))
    return said[0] if len(said) == 1 else Term("list", said)


def _case(row: Term) -> Term:
    """One line of `cases`: an item, or a value with its condition (`x & \\text{if } x > 0`)."""
    parts = [part for part in row.args if part.op != "text" or len(row.args) < 3]
    if len(parts) == 2 and parts[1].op == "rel":
        signs, first, *others = parts[1].args
        if first.op == "mul" and first.args[0].op == "text":
            rest = first.args[1:]
            first = rest[0] if len(rest) == 1 else Term("mul", rest)
            parts[1] = Term("rel", (signs, first, *others))
    return parts[0] if len(parts) == 1 else Term("tuple", ("(", ")", *parts))


def _is_differential(node: Term) -> bool:
    """`d`, `dy`, `d^2 y`: the parts of a derivative."""
    first = node.args[0] if node.op == "mul" else node
    first = first.args[0] if isinstance(first, Term) and first.op == "pow" else first
    return first == sym("d") or node == sym("d")


def _bracketed(left: Token, node: Term, right: Token) -> Term:
    if node.op == "list":
        return Term("tuple", (str(left)[-1], str(right)[-1], *node.args))
    if node.op == "matrix" or (left.type == "LP" and right.type == "RP"):
        return node
    if left.type == "LB" and right.type == "RB":
        return Term("tuple", ("[", "]", node))
    raise Unreadable("half of an interval")


def _call(name: str, scripts: dict[str, Term], argument: Term) -> Term:
    given = argument.args if argument.op == "list" else (argument,)
    if name == "exp":
        node = Term("pow", (sym("e"), argument))
    elif name == "cbrt":
        node = Term("pow", (argument, num(Fraction(1, 3))))
    elif name in ("summation", "integral"):
        node = _plain_big(name, given)
    elif name == "log" and len(given) == 2:
        node = Term("fn", ("logb", given[0], given[1]))
    elif name in ("log", "lg") and "SUB" in scripts:
        node = Term("fn", ("logb", argument, scripts["SUB"]))
    elif name == "lg":
        node = Term("fn", ("logb", argument, num(10)))
    else:
        node = Term("fn", (name, *given))
    power = scripts.get("POW")
    if power is None:
        return node
    if power == MINUS_ONE and name in _INVERSE:
        return Term("fn", (_INVERSE[name], *given))
    return Term("pow", (node, power))


_INVERSE: Final = {name: "arc" + name for name in "sin cos tan cot sec csc sinh cosh tanh".split()}


def _plain_big(name: str, given: tuple[Term, ...]) -> Term:
    """`summation(2*k, (k, 1, n))` as `\\sum` is read."""
    op = "sum" if name == "summation" else "int"
    if len(given) == 2 and given[1].op == "tuple" and len(given[1].args) == 5:
        _, _, index, low, high = given[1].args
        if op == "int":
            return Term("big", (op, low, high, Term("mul", (given[0], sym("d"), index))))
        return Term("big", (op, Term("rel", (("=",), index, low)), high, given[0]))
    return Term("fn", (name, *given))


_GROUPING: Final = re.compile(r"[^\d.~eE+-]|(?<![eE])[+-]")


def read_number_token(text: str) -> Term:
    """`1,234.50`, `.5`, `0.1~6` (repeating), `2e-3` → an exact number with its decimal places."""
    text = _GROUPING.sub("", text)
    text, _, repeat = text.partition("~")
    mantissa, _, exponent = text.lower().partition("e")
    whole, point, decimals = mantissa.partition(".")
    if len(whole) + len(decimals) > limits.MAX_NUMBER_DIGITS:
        raise Unreadable("a number of too many digits")
    scale = int(exponent) if exponent else 0
    if abs(scale) > limits.MAX_NUMBER_DIGITS:
        raise Unreadable("an exponent too large to hold")
    value = Fraction(int((whole + decimals) or "0"), 10 ** len(decimals))
    if repeat:
        value += Fraction(int(repeat), (10 ** len(repeat) - 1) * 10 ** len(decimals))
        return num(value)
    places = len(decimals) - scale if point and decimals else None
    return num(value * Fraction(10) ** scale, places)


class _Tokens(Lexer):
    """Lark's door for tokens that are made elsewhere."""

    def __init__(self, _: Any) -> None:
        pass

    def lex(self, data: Any) -> Iterator[Token]:  # type: ignore[override]  # without the state
        return iter(data)


@cache
def _parser() -> Lark:
    return saved_parsers.load_parser("latex", compile_latex, transformer=_Build())


def compile_latex(grammar: str) -> Lark:
    """The parser built from its grammar; fails on any conflict in it."""
    return Lark(
        grammar,
        parser="lalr",
        lexer=_Tokens,
        transformer=_Build(),
        maybe_placeholders=False,
        strict=True,
    )


def parse_math(text: str) -> Term | ParseFailure:
    """The tree of an expression, equation, interval, list, …; a ParseFailure where there is none.

    >>> print(parse_math(r"\\frac12 x^2 = 3"))
    (rel ('=',) (mul (div 1 2) (pow x 2)) 3)
    >>> parse_math("2 +")
    ParseFailure(reason='it ends too early')
    """
    if len(text) > limits.MAX_MATH_CHARS:
        return ParseFailure("longer than an expression can be")
    try:
        tokens = Scanner(symbols.to_ascii(text)).run()
        if not tokens:
            return ParseFailure("nothing there")
        tree = _parser().parse(tokens)
    except Unreadable as reason:
        return ParseFailure(str(reason))
    except LarkError as error:
        token = getattr(error, "token", None)
        if token is None or token.type == "$END":
            return ParseFailure("it ends too early")
        return ParseFailure(f"unexpected `{str(token) or token.type}`")
    assert isinstance(tree, Term)
    if depth(tree) > limits.MAX_TREE_DEPTH:
        return ParseFailure("nested too deeply")
    return tree
