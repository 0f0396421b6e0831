"""Mathematical text, LaTeX or plain, → an immutable tree. (Tree → SymPy stands in algebra.py.)

`parse` never raises and evaluates nothing: it counts tokens, depth and digits (limits.py), and what
it cannot read comes back as a `Failure` with the reason.
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
from grpo_rewards.rules.math.latex.scanner import Scanner, Unreadable
from grpo_rewards.syntax import saved_parsers


class Node(NamedTuple):
    """One node: what it is and its parts. `num` holds (Fraction, decimal places or None)."""

    op: str
    args: tuple[Any, ...]

    def __str__(self) -> str:
        return show(self)


class Failure(NamedTuple):
    """What cannot be read, and why."""

    reason: str


def num(value: int | Fraction, places: int | None = None) -> Node:
    """A number node."""
    return Node("num", (Fraction(value), places))


def sym(name: str) -> Node:
    """A symbol node."""
    return Node("sym", (name,))


def children(node: Node) -> Iterator[Node]:
    """The nodes among the parts."""
    for part in node.args:
        if isinstance(part, Node):
            yield part


def names(node: Node) -> frozenset[str]:
    """All symbols of a tree.

    >>> sorted(names(parse("x y + \\\\pi")))
    ['x', 'y']
    """
    found: set[str] = set()
    todo = [node]
    while todo:
        one = todo.pop()
        if one.op == "sym" and one.args[0] not in CONSTANTS:
            found.add(one.args[0])
        todo.extend(children(one))
    return frozenset(found)


def ops(node: Node) -> frozenset[str]:
    """All kinds of node of a tree."""
    found: set[str] = set()
    todo = [node]
    while todo:
        one = todo.pop()
        found.add(one.op)
        todo.extend(children(one))
    return frozenset(found)


def size(node: Node) -> int:
    """Nodes of a tree."""
    return 1 + sum(map(size, children(node)))


CONSTANTS: Final = frozenset({"pi", "e", "i"})
ONE: Final = num(1)
MINUS_ONE: Final = num(-1)


def show(node: Node) -> str:
    """The tree on one line: `(add x (pow y 2))`."""
    if node.op == "num":
        return str(node.args[0])
    if node.op in ("sym", "text", "domain"):
        return str(node.args[0])
    inner = " ".join(show(part) if isinstance(part, Node) else str(part) for part in node.args)
    return f"({node.op} {inner})" if inner else f"({node.op})"


@v_args(inline=True)
class _Build(Transformer):  # type: ignore[type-arg]  # Lark's Transformer is generic only for typing
    """Rule → node; the method names are the aliases of latex.lark."""

    def start(self, node: Node) -> Node:
        return node

    def number(self, token: Token) -> Node:
        return read_number_token(str(token))

    def minus_number(self, _: Token, token: Token) -> Node:
        return negate(read_number_token(str(token)))

    def symbol(self, token: Token) -> Node:
        return sym(str(token))

    def text(self, token: Token) -> Node:
        return Node("text", (" ".join(token.split()),))

    def infinity(self, _: Token) -> Node:
        return Node("inf", ())

    def empty(self, *_: Token) -> Node:
        return Node("set", ())

    def dots(self, _: Token) -> Node:
        return Node("dots", ())

    def domain(self, token: Token) -> Node:
        return Node("domain", (str(token),))

    def mixed_plain(self, token: Token) -> Node:
        whole, top, bottom = map(int, re.findall(r"\d+", token))
        if bottom == 0:
            raise Unreadable("division by zero")
        return num(whole + Fraction(top, bottom))

    def mixed(self, whole: Token, _g: Token, _f: Token, top: Node, bottom: Node) -> Node:
        if bottom.args[0] == 0:
            raise Unreadable("division by zero")
        return num(int(whole) + Fraction(top.args[0]) / bottom.args[0])

    def semicolons(self, *parts: Node | Token) -> Node:
        rows = [part for part in parts if isinstance(part, Node)]
        if any(row.op == "list" for row in rows):
            rows = [
                Node("tuple", ("(", ")", *row.args)) if row.op == "list" else row for row in rows
            ]
        return Node("list", tuple(rows))

    def list(self, *parts: Node | Token) -> Node:
        return Node("list", tuple(part for part in parts if isinstance(part, Node)))

    def only(self, node: Node, _: Token) -> Node:
        return node

    def relation(self, *parts: Node | Token) -> Node:
        signs = tuple(str(part) for part in parts[1::2])
        return Node("rel", (signs, *parts[0::2]))

    def bare_relation(self, sign: Token, node: Node) -> Node:
        if sign in ("~", "=", "to"):
            return node
        raise Unreadable("a relation without a left side")

    def ratio(self, *parts: Node | Token) -> Node:
        return Node("ratio", parts[0::2])

    def setop(self, *parts: Node | Token) -> Node:
        node = parts[0]
        for sign, right in zip(parts[1::2], parts[2::2], strict=True):
            node = Node(str(sign), (node, right))
        assert isinstance(node, Node)
        return node

    def add(self, left: Node, _: Token, right: Node) -> Node:
        return Node("add", (*(left.args if left.op == "add" else (left,)), right))

    def sub(self, left: Node, _: Token, right: Node) -> Node:
        return Node("add", (*(left.args if left.op == "add" else (left,)), negate(right)))

    def pm(self, left: Node, sign: Token, right: Node) -> Node:
        return Node("pm", (str(sign), left, right))

    def unary_pm(self, sign: Token, node: Node) -> Node:
        return Node("pm", (str(sign), num(0), node))

    def mul(self, left: Node, _: Token, right: Node) -> Node:
        return Node("mul", (*(left.args if left.op == "mul" else (left,)), right))

    def div(self, left: Node, _: Token, right: Node) -> Node:
        return Node("div", (left, right))

    def div_frac(self, _: Token, top: Node, bottom: Node) -> Node:
        if _is_differential(top) and _is_differential(bottom):
            return Node("apply", ("d/d", top, bottom))
        return Node("div", (top, bottom))

    def mod(self, left: Node, _: Token, right: Node) -> Node:
        return Node("mod", (left, right))

    def neg(self, _: Token, node: Node) -> Node:
        return negate(node)

    def plus(self, _: Token, node: Node) -> Node:
        return node

    def power(self, base: Node, _: Token, exponent: Node) -> Node:
        if exponent.op == "sym" and exponent.args[0] == "prime":
            return base
        return Node("pow", (base, exponent))

    def mods(self, *parts: Node | Token) -> tuple[tuple[str, Node], ...]:
        return tuple(
            (parts[i].type, parts[i + 1])  # type: ignore[union-attr,misc]  # Token, Node by turns
            for i in range(0, len(parts), 2)
        )

    def call(self, name: Token, mods: tuple[tuple[str, Node], ...], argument: Node) -> Node:
        return _call(str(name), dict(mods), argument)

    def arguments(self, _l: Token, node: Node, _r: Token) -> Node:
        return node

    def big(self, name: Token, mods: tuple[tuple[str, Node], ...], body: Node) -> Node:
        scripts = dict(mods)
        return Node(
            "big", (str(name), scripts.get("SUB", num(0)), scripts.get("POW", num(0)), body)
        )

    def apply(self, name: Token, _l: Token, node: Node, _r: Token) -> Node:
        return Node("apply", (str(name), *(node.args if node.op == "list" else (node,))))

    def factorial(self, node: Node, _: Token) -> Node:
        return Node("fn", ("factorial", node))

    def factorial2(self, node: Node, _: Token) -> Node:
        return Node("fn", ("factorial2", node))

    def percent(self, node: Node, _: Token) -> Node:
        return Node("percent", (node,))

    def degrees(self, node: Node, _: Token) -> Node:
        return Node("degrees", (node,))

    def base(self, node: Node, base: Token) -> Node:
        return Node("base", (node, int(base)))

    def note(self, node: Node, words: Token) -> Node:
        return Node("note", (node, str(words)))

    def group(self, _l: Token, node: Node, _r: Token) -> Node:
        return node

    def parens(self, left: Token, node: Node, right: Token) -> Node:
        return _bracketed(left, node, right)

    def brackets(self, left: Token, node: Node, right: Token) -> Node:
        return _bracketed(left, node, right)

    def angles(self, _l: Token, node: Node, _r: Token) -> Node:
        items = node.args if node.op == "list" else (node,)
        return Node("tuple", ("(", ")", *items))

    def braces(self, _l: Token, node: Node, _r: Token) -> Node:
        return Node("set", node.args) if node.op == "list" else node

    def set(self, _l: Token, node: Node, _r: Token) -> Node:
        items = node.args if node.op == "list" else (node,)
        return _described(items) or Node("set", items)

    def absolute(self, _l: Token, node: Node, _r: Token) -> Node:
        return Node("fn", ("abs", node))

    def norm(self, _l: Token, node: Node, _r: Token) -> Node:
        return Node("fn", ("norm", node))

    def floor(self, _l: Token, node: Node, _r: Token) -> Node:
        return Node("fn", ("floor", node))

    def ceil(self, _l: Token, node: Node, _r: Token) -> Node:
        return Node("fn", ("ceil", node))

    def binom(self, _: Token, top: Node, bottom: Node) -> Node:
        return Node("fn", ("binom", top, bottom))

    def sqrt(self, _: Token, node: Node) -> Node:
        return Node("pow", (node, num(Fraction(1, 2))))

    def root(self, _s: Token, _l: Token, index: Node, _r: Token, node: Node) -> Node:
        return Node("root", (node, index))

    def row(self, *parts: Node | Token) -> Node:
        return Node("row", tuple(part for part in parts if isinstance(part, Node)))

    def matrix(self, begin: Token, *parts: Node | Token) -> Node:
        rows = tuple(part for part in parts if isinstance(part, Node))
        if begin == "cases":
            return Node("cases", tuple(map(_case, rows)))
        if len({len(row.args) for row in rows}) != 1:
            raise Unreadable("rows of unequal length")
        matrix = Node("matrix", rows)
        return Node("fn", ("det", matrix)) if begin == "vmatrix" else matrix


def _described(items: tuple[Node, ...]) -> Node | None:
    """`{x | x > 2}` and `{x \\in R : x > 2}` as what is said of `x`, `{2k | k \\in Z}` as the value
    with its condition; None for a set that lists its items."""
    first, *more = items
    if first.op != "rel" or "mid" not in first.args[0]:
        return None
    signs, *sides = first.args
    bar = signs.index("mid")
    if bar + 1 == len(signs):
        return None
    said = (Node("rel", (signs[bar + 1 :], *sides[bar + 1 :])), *more)
    if bar == 0 and sides[0].op not in ("sym", "tuple") and names(sides[0]):
        return Node("list", (sides[0], *said))
    return said[0] if len(said) == 1 else Node("list", said)


def _case(row: Node) -> Node:
    """One line of `cases`: an item, or a value with its condition (`x & \\text{if } x > 0`)."""
    parts = [part for part in row.args if part.op != "text" or len(row.args) < 3]
    if len(parts) == 2 and parts[1].op == "rel":
        signs, first, *others = parts[1].args
        if first.op == "mul" and first.args[0].op == "text":
            rest = first.args[1:]
            first = rest[0] if len(rest) == 1 else Node("mul", rest)
            parts[1] = Node("rel", (signs, first, *others))
    return parts[0] if len(parts) == 1 else Node("tuple", ("(", ")", *parts))


def _is_differential(node: Node) -> bool:
    """`d`, `dy`, `d^2 y`: the parts of a derivative."""
    first = node.args[0] if node.op == "mul" else node
    first = first.args[0] if isinstance(first, Node) and first.op == "pow" else first
    return first == sym("d") or node == sym("d")


def _bracketed(left: Token, node: Node, right: Token) -> Node:
    if node.op == "list":
        return Node("tuple", (str(left)[-1], str(right)[-1], *node.args))
    if node.op == "matrix" or (left.type == "LP" and right.type == "RP"):
        return node
    if left.type == "LB" and right.type == "RB":
        return Node("tuple", ("[", "]", node))
    raise Unreadable("half of an interval")


def negate(node: Node) -> Node:
    """Minus the node; a number and a double minus fold at once."""
    if node.op == "num":
        return num(-node.args[0], node.args[1])
    if node.op == "mul" and node.args[0] == MINUS_ONE:
        rest = node.args[1:]
        return rest[0] if len(rest) == 1 else Node("mul", rest)
    return Node("mul", (MINUS_ONE, node))


def _call(name: str, scripts: dict[str, Node], argument: Node) -> Node:
    given = argument.args if argument.op == "list" else (argument,)
    if name == "exp":
        node = Node("pow", (sym("e"), argument))
    elif name == "cbrt":
        node = Node("pow", (argument, num(Fraction(1, 3))))
    elif name in ("summation", "integral"):
        node = _plain_big(name, given)
    elif name == "log" and len(given) == 2:
        node = Node("fn", ("logb", given[0], given[1]))
    elif name in ("log", "lg") and "SUB" in scripts:
        node = Node("fn", ("logb", argument, scripts["SUB"]))
    elif name == "lg":
        node = Node("fn", ("logb", argument, num(10)))
    else:
        node = Node("fn", (name, *given))
    power = scripts.get("POW")
    if power is None:
        return node
    if power == MINUS_ONE and name in _INVERSE:
        return Node("fn", (_INVERSE[name], *given))
    return Node("pow", (node, power))


_INVERSE: Final = {name: "arc" + name for name in "sin cos tan cot sec csc sinh cosh tanh".split()}


def _plain_big(name: str, given: tuple[Node, ...]) -> Node:
    """`summation(2*k, (k, 1, n))` as `\\sum` is read."""
    op = "sum" if name == "summation" else "int"
    if len(given) == 2 and given[1].op == "tuple" and len(given[1].args) == 5:
        _, _, index, low, high = given[1].args
        if op == "int":
            return Node("big", (op, low, high, Node("mul", (given[0], sym("d"), index))))
        return Node("big", (op, Node("rel", (("=",), index, low)), high, given[0]))
    return Node("fn", (name, *given))


_GROUPING: Final = re.compile(r"[^\d.~eE+-]|(?<![eE])[+-]")


def read_number_token(text: str) -> Node:
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
    return saved_parsers.load_parser("latex", compile_grammar, transformer=_Build())


def compile_grammar(grammar: str) -> Lark:
    """The parser built from its grammar; fails on any conflict in it."""
    return Lark(
        grammar,
        parser="lalr",
        lexer=_Tokens,
        transformer=_Build(),
        maybe_placeholders=False,
        strict=True,
    )


def parse(text: str) -> Node | Failure:
    """The tree of an expression, equation, interval, list, …; a Failure where there is none.

    >>> print(parse(r"\\frac12 x^2 = 3"))
    (rel ('=',) (mul (div 1 2) (pow x 2)) 3)
    >>> parse("2 +")
    Failure(reason='it ends too early')
    """
    if len(text) > limits.MAX_MATH_CHARS:
        return Failure("longer than an expression can be")
    try:
        tokens = Scanner(symbols.to_ascii(text)).run()
        if not tokens:
            return Failure("nothing there")
        tree = _parser().parse(tokens)
    except Unreadable as reason:
        return Failure(str(reason))
    except LarkError as error:
        token = getattr(error, "token", None)
        if token is None or token.type == "$END":
            return Failure("it ends too early")
        return Failure(f"unexpected `{str(token) or token.type}`")
    assert isinstance(tree, Node)
    if depth(tree) > limits.MAX_TREE_DEPTH:
        return Failure("nested too deeply")
    return tree


def depth(node: Node) -> int:
    """Levels of the tree; 1 for a leaf."""
    level, deepest = [node], 0
    while level and deepest <= limits.MAX_TREE_DEPTH + 1:
        deepest += 1
        level = [part for one in level for part in children(one)]
    return deepest
