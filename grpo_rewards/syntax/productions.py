"""Lark's parse tree → our nodes. Long, because each production of the grammar has a method."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from lark import Token, Tree

from grpo_rewards.errors import Place, Problem
from grpo_rewards.limits import MAX_EXPR_DEPTH, MAX_LITERAL_CHARS
from grpo_rewards.syntax import tree as x

#: Suffix of a number → what it multiplies by. Durations are in seconds.
SUFFIXES = {
    "ms": 0.001, "s": 1, "m": 60, "h": 3600, "k": 1000, "M": 1_000_000, "%": 0.01,
}  # fmt: skip


class TreeBuilder:
    """Builds the node of one statement or expression, bottom up and without recursion.

    `on_NAME` makes the node of production NAME from what its parts have become; an absent optional
    part is None. `offset` is where the parsed part begins in `text`.
    """

    def __init__(self, text: str, offset: int) -> None:
        self.text = text
        self.offset = offset
        self.place = x.NOWHERE

    def build(self, tree: Tree[Token]) -> x.Node:
        """The node of Lark's tree. Raises Problem."""
        built: dict[int, Any] = {}
        depth: dict[int, int] = {}
        for sub in tree.iter_subtrees():
            children = [built[id(c)] if isinstance(c, Tree) else c for c in sub.children]
            depth[id(sub)] = 1 + max((depth.get(id(c), 0) for c in sub.children), default=0)
            self.place = self._place_of(sub)
            if depth[id(sub)] > MAX_EXPR_DEPTH:
                raise Problem("S02", f"nested deeper than {MAX_EXPR_DEPTH} levels", self.place)
            method: Callable[..., Any] = getattr(self, f"on_{sub.data}")
            built[id(sub)] = method(*children)
        result: x.Node = built[id(tree)]
        return result

    def _place_of(self, node: Tree[Token] | Token) -> Place:
        if isinstance(node, Token):
            return Place(self.offset + (node.start_pos or 0), self.offset + (node.end_pos or 0))
        if node.meta.empty:
            return Place(self.offset, self.offset)
        return Place(self.offset + node.meta.start_pos, self.offset + node.meta.end_pos)

    def _name(self, token: Token) -> str:
        if token in x.RESERVED:
            place = self._place_of(token)
            raise Problem("S03", f"`{token}` is a word of the language, not a name", place)
        return str(token)

    # Statements

    def on_ruleset(self, name: Token, doc: Token | None) -> x.RulesetDecl:
        return x.RulesetDecl(self._name(name), self._string(doc) if doc else "", place=self.place)

    def on_import_(self, path: Token, name: Token) -> x.Import:
        return x.Import(self._string(path), self._name(name), place=self.place)

    def on_input(
        self, name: Token, type_: str, sources: list[str] | None, default: x.Expr | None
    ) -> x.Input:
        found = tuple(sources or ())
        return x.Input(self._name(name), type_, found, default, place=self.place)

    def on_param(self, name: Token, type_: str, bounds: Any, value: x.Expr) -> x.Param:
        return x.Param(self._name(name), type_, bounds, value, place=self.place)

    def on_format(self, name: Token, body: tuple[str, str, Any, Place]) -> x.FormatDecl:
        kind, text, options, place = body
        return x.FormatDecl(
            self._name(name), kind, text, options, body_place=place, place=self.place
        )

    def on_extern(
        self, name: Token, types: list[str] | None, type_: str, bounds: Any, target: Token
    ) -> x.Extern:
        params = tuple(types or ())
        return x.Extern(
            self._name(name), params, type_, bounds, self._string(target), place=self.place
        )

    def on_let(self, name: Token, params: list[str] | None, bounds: Any, expr: x.Expr) -> x.Let:
        return x.Let(self._name(name), tuple(params or ()), bounds, expr, place=self.place)

    def on_score(self, name: Token, bounds: Any, expr: x.Expr) -> x.Score:
        return x.Score(self._name(name), bounds, expr, place=self.place)

    def on_reward(self, bounds: Any, expr: x.Expr) -> x.Reward:
        return x.Reward(bounds, expr, place=self.place)

    def on_policy(self, *settings: x.Setting) -> x.Policy:
        return x.Policy(settings, place=self.place)

    def on_setting_on(self, name: Token, value: x.Expr) -> x.Setting:
        return x.Setting(f"on {name}", value, place=self.place)

    def on_setting(self, name: Token, what: Token | None, value: Token) -> x.Setting:
        full = f"{name} {what}" if what else str(name)
        return x.Setting(full, self._number(value), place=self.place)

    def on_test(self, name: Token, *items: Any) -> x.Test:
        return self._test(name, items)

    def on_test_each(self, name: Token, file: Token, *items: Any) -> x.Test:
        return self._test(name, items, each_from=self._string(file))

    def on_test_group(self, name: Token, *items: Any) -> x.Test:
        return self._test(name, items, is_group=True)

    def _test(
        self, name: Token, items: tuple[Any, ...], *, is_group: bool = False, each_from: str = ""
    ) -> x.Test:
        rows = [item for item in items if isinstance(item, x.Row)]
        columns = tuple(item for item in items if isinstance(item, tuple))
        if is_group == bool(columns) and columns:
            message = "a `test group` holds its columns in rows: row { completion: … }"
            raise Problem("S04", message, self.place)
        if not is_group:
            rows = [x.Row(columns, place=self.place)]
        expects = tuple(item for item in items if isinstance(item, x.Expect))
        return x.Test(
            self._string(name), tuple(rows), expects, is_group, each_from, place=self.place
        )

    def on_test_column(self, name: Token, value: x.Expr) -> tuple[str, x.Expr]:
        return self._name(name), value

    def on_test_expect(self, condition: x.Expr, within: x.Expr | None) -> x.Expect:
        return x.Expect(condition, within, place=self.place)

    def on_test_row_block(self, *columns: tuple[str, x.Expr]) -> x.Row:
        return x.Row(columns, place=self.place)

    def on_attack(self, families: list[str] | None, expect: x.Expr) -> x.Attack:
        return x.Attack(tuple(families or ()), expect, place=self.place)

    def on_check(self, name: Token, condition: x.Expr) -> x.Check:
        return x.Check(self._name(name), condition, place=self.place)

    # Parts of statements

    def on_type(self, name: Token, item: str | None, nullable: Token | None) -> str:
        inner = f"[{item}]" if item else ""
        return f"{name}{inner}{nullable or ''}"

    def on_types(self, *types: str) -> list[str]:
        return list(types)

    def on_names(self, *names: Token) -> list[str]:
        return [self._name(name) for name in names]

    def on_sources(self, *sources: Token) -> list[str]:
        return [self._string(source) for source in sources]

    def on_bounds(self, lo: x.Expr, hi: x.Expr) -> x.Bounds:
        return x.Bounds(lo, hi, place=self.place)

    def on_format_heredoc(self, body: Token) -> tuple[str, str, Any, Place]:
        kind, text = body[:4], body[7:-3]  # lark'''…''' and json'''…''': four letters, three quotes
        start = self._place_of(body).start + 7
        return kind, text, (), Place(start, start + len(text))

    def on_format_regex(self, body: Token) -> tuple[str, str, Any, Place]:
        pattern = self.on_regex(body)
        start = self._place_of(body).start + 3
        place = Place(start, start + len(pattern.pattern))
        return "re", f"{pattern.pattern}\n{pattern.flags}", (), place

    def on_format_file(self, path: Token) -> tuple[str, str, Any, Place]:
        name = self._string(path)
        kind = name.rpartition(".")[2]
        if kind not in ("lark", "json"):
            hint = "its name ends with .lark, or with .json for a schema"
            raise Problem("S05", f"`{name}` is not a file of a format", self._place_of(path), hint)
        return kind, "", (("file", x.Const(name)),), self._place_of(path)

    def on_format_call(
        self, name: Token, arguments: list[Any] | None
    ) -> tuple[str, str, Any, Place]:
        args, options = _split(arguments)
        names = [arg.value for arg in args if isinstance(arg, x.Const)]
        has_body = len(args) == 1 and isinstance(names[0] if names else None, str)
        if name in ("lark", "json") and has_body != any(key == "file" for key, _ in options):
            return str(name), str(names[0]) if has_body else "", options, self.place
        if name != "tags" or len(names) < len(args) or not all(isinstance(n, str) for n in names):
            hint = """a format is lark'''…''', json'''…''', re"…", tags("think", "answer") """
            hint += 'or from "file.lark"'
            raise Problem("S05", f"`{name}(…)` is not a format", self.place, hint)
        return "tags", " ".join(map(str, names)), options, self.place

    # Expressions

    def on_conditional(self, yes: x.Expr, condition: x.Expr, no: x.Expr) -> x.Expr:
        return self._call("if", condition, yes, no)

    def on_pipe(self, value: x.Expr, function: str, arguments: list[Any] | None) -> x.Expr:
        args, options = _split(arguments)
        return x.Call(function, (value, *args), options, piped=True, place=self.place)

    def on_coalesce(self, left: x.Expr, right: x.Expr) -> x.Expr:
        return self._call("??", left, right)

    def on_or_(self, left: x.Expr, right: x.Expr) -> x.Expr:
        return self._call("or", left, right)

    def on_and_(self, left: x.Expr, right: x.Expr) -> x.Expr:
        return self._call("and", left, right)

    def on_not_(self, value: x.Expr) -> x.Expr:
        return self._call("not", value)

    def on_compare(self, left: x.Expr, operator: Token, right: x.Expr) -> x.Expr:
        return self._call(str(operator), left, right)

    def on_within(self, value: x.Expr, lo: x.Expr, hi: x.Expr) -> x.Expr:
        return self._call("within", value, lo, hi)

    def on_in_list(self, value: x.Expr, choices: x.Expr) -> x.Expr:
        return self._call("in", value, choices)

    def on_matches(self, value: x.Expr, pattern: Token) -> x.Expr:
        return self._call("matches", value, self.on_regex(pattern))

    def on_binary(self, left: x.Expr, operator: Token, right: x.Expr) -> x.Expr:
        return self._call(str(operator), left, right)

    def on_power(self, left: x.Expr, right: x.Expr) -> x.Expr:
        return self._call("**", left, right)

    def on_signed(self, sign: Token, value: x.Expr) -> x.Expr:
        if sign == "+":
            return value
        if isinstance(value, x.Const) and not isinstance(value.value, bool | str | None):
            number = value.value
            if number >= 0:  # -1 is one constant; -(-1) stays an operation on one
                spelling = f"-{value.spelling}" if value.spelling and number else ""
                return x.Const(-number if number else 0, spelling, place=self.place)
        return self._call("neg", value)

    def on_attribute(self, of: x.Expr, name: Token) -> x.Expr:
        return x.Attr(of, str(name), place=self.place)

    def on_call(self, function: x.Expr, arguments: list[Any] | None) -> x.Expr:
        name = x.dotted_name(function)
        if name is None:
            raise Problem("S06", "only a rule or a `let` function can be called", function.place)
        args, options = _split(arguments)
        return x.Call(name, args, options, place=self.place)

    def on_index(self, of: x.Expr, index: x.Expr) -> x.Expr:
        return x.Index(of, index, place=self.place)

    def on_number(self, token: Token) -> x.Const:
        return self._number(token)

    def on_string(self, token: Token) -> x.Const:
        return x.Const(self._string(token), place=self.place)

    def on_long_string(self, token: Token) -> x.Const:
        return x.Const(str(token[3:-3]), place=self.place)

    def on_heredoc(self, token: Token) -> x.Const:
        if not token.startswith("text"):
            hint = "give it a name with a `format` statement"
            raise Problem("S05", f"a {token[:4]} format is not a value", self.place, hint)
        return x.Const(str(token[7:-3]), place=self.place)

    def on_regex(self, token: Token) -> x.Pattern:
        pattern, _, flags = str(token[3:]).rpartition('"')
        return x.Pattern(pattern, flags, place=self._place_of(token))

    def on_name(self, token: Token) -> x.Const | x.Name:
        literals = {"true": True, "false": False, "null": None}
        if token in literals:
            return x.Const(literals[token], place=self.place)
        return x.Name(self._name(token), place=self.place)

    def on_group(self, value: x.Expr) -> x.Expr:
        return value

    def on_list(self, *items: x.Expr | None) -> x.ListExpr:
        return x.ListExpr(tuple(item for item in items if item is not None), place=self.place)

    def on_case(self, *arms: tuple[x.Expr, ...]) -> x.Expr:
        others = [i for i, arm in enumerate(arms) if len(arm) == 1]
        if others and others != [len(arms) - 1]:
            raise Problem("S07", "`else` stands once, as the last arm of a case", self.place)
        return x.Call("case", tuple(part for arm in arms for part in arm), place=self.place)

    def on_arm(self, condition: x.Expr, value: x.Expr) -> tuple[x.Expr, ...]:
        return condition, value

    def on_otherwise(self, value: x.Expr) -> tuple[x.Expr, ...]:
        return (value,)

    def on_dotted(self, *names: Token) -> str:
        return ".".join(names)

    def on_arguments(self, *arguments: Any) -> list[Any]:
        return list(arguments)

    def on_positional(self, value: x.Expr) -> x.Expr:
        return value

    def on_option(self, name: Token, value: x.Expr) -> tuple[str, x.Expr]:
        return str(name), value

    def on_arrow(self, at: x.Expr, value: x.Expr) -> x.Expr:
        return x.Arrow(at, value, place=self.place)

    def _call(self, function: str, *args: x.Expr) -> x.Call:
        return x.Call(function, args, place=self.place)

    # Literals

    def _number(self, token: Token) -> x.Const:
        place = self._place_of(token)
        digits = re.match(r"[0-9_.]+(?:[eE][+-]?[0-9]+)?", token)
        assert digits is not None
        suffix = token[digits.end() :]
        plain = digits[0].replace("_", "")
        if len(plain) > MAX_LITERAL_CHARS:
            message = f"a number of more than {MAX_LITERAL_CHARS} characters"
            raise Problem("S08", message, place)
        value = float(plain) if re.search(r"[.eE]", plain) else int(plain)
        value = value * SUFFIXES[suffix] if suffix else value
        if abs(value) == float("inf"):
            raise Problem("S08", f"`{token}` is too large for a number", place)
        if isinstance(value, float) and value == int(value) and abs(value) < 2**53:
            value = int(value)  # below 2**53 a float holds every whole number exactly
        return x.Const(value, str(token) if suffix or "_" in token else "", place=place)

    def _string(self, token: Token) -> str:
        body = str(token[1:-1])
        return re.sub(r'\\(["\\]|x\{([0-9a-fA-F]{1,6})\})', self._unescape, body)

    def _unescape(self, match: re.Match[str]) -> str:
        if match[2] is None:
            return match[1]
        code = int(match[2], 16)
        if code > 0x10FFFF:
            raise Problem("S09", f"`{match[0]}` is not a character", self.place)
        return chr(code)


def _split(
    arguments: list[Any] | None,
) -> tuple[tuple[x.Expr, ...], tuple[tuple[str, x.Expr], ...]]:
    """Positional arguments and options, apart."""
    args = tuple(a for a in arguments or () if isinstance(a, x.Expr))
    return args, tuple(a for a in arguments or () if isinstance(a, tuple))
