"""Hypothesis strategies that several tests share: values, expressions, rulesets, batches."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from grpo_rewards.syntax import tree as x
from grpo_rewards.syntax.tree import RESERVED

#: Any text at all: astral characters, NUL and lone surrogates among them.
any_text = st.text(st.characters(codec=None), max_size=60)

names = st.from_regex(r"[a-z_][a-z0-9_]{0,7}", fullmatch=True).filter(
    lambda name: name not in RESERVED
)

numbers = st.one_of(
    st.integers(-1000, 1000),
    st.floats(-100, 100).map(lambda v: round(v, 3)),
    st.sampled_from([0, 1, 0.5, -1, 1e-6, 1e6]),
).map(lambda v: 0 if v == 0 else v)

constants = st.one_of(
    numbers, st.booleans(), any_text, st.none()
).map(x.Const)  # fmt: skip


def _calls(inner: st.SearchStrategy[x.Expr]) -> st.SearchStrategy[x.Expr]:
    binary = st.sampled_from(["+", "-", "*", "/", "**", "==", "<", "<=", "!=", "and", "or", "??"])
    return st.one_of(
        st.builds(lambda f, a, b: x.Call(f, (a, b)), binary, inner, inner),
        st.builds(lambda a: x.Call("not", (a,)), inner),
        st.builds(_negated, inner),
        st.builds(lambda a, b, c: x.Call("if", (a, b, c)), inner, inner, inner),
        st.builds(lambda a, b, c: x.Call("within", (a, b, c)), inner, inner, inner),
        st.builds(
            lambda a, items: x.Call("in", (a, x.ListExpr(tuple(items)))),
            inner,
            st.lists(inner, max_size=3),
        ),
        st.builds(
            lambda parts: x.Call("case", tuple(parts)), st.lists(inner, min_size=2, max_size=5)
        ),
        st.builds(
            lambda f, args, options: x.Call(f, tuple(args), tuple(options.items())),
            st.one_of(names, st.builds(lambda a, b: f"{a}.{b}", names, names)),
            st.lists(inner, max_size=3),
            st.dictionaries(names, inner, max_size=2),
        ),
        st.builds(lambda of, name: x.Attr(of, name), names.map(x.Name), names),
        st.builds(lambda of, i: x.Index(of, x.Const(i)), names.map(x.Name), st.integers(0, 9)),
    )


def _negated(of: x.Expr) -> x.Expr:
    """`-of` as the parser reads it: a positive number takes the sign itself."""
    if isinstance(of, x.Const) and type(of.value) in (int, float) and of.value >= 0:
        return x.Const(-of.value)
    return x.Call("neg", (of,))


#: Any tree that the grammar can spell, sense or not.
expressions = st.recursive(st.one_of(constants, names.map(x.Name)), _calls, max_leaves=12)

bounds = st.one_of(
    st.none(), st.builds(lambda a, b: x.Bounds(x.Const(a), x.Const(b)), numbers, numbers)
)

statements = st.one_of(
    st.builds(x.RulesetDecl, names, any_text),
    st.builds(
        x.Input,
        names,
        st.sampled_from(["num", "bool", "text", "chat", "list[num]", "text?"]),
        st.lists(any_text, max_size=2).map(tuple),
        st.one_of(st.none(), constants),
    ),
    st.builds(x.Param, names, st.sampled_from(["num", "text"]), bounds, constants),
    st.builds(
        x.Let, names, st.lists(names, max_size=2, unique=True).map(tuple), bounds, expressions
    ),
    st.builds(x.Score, names, bounds, expressions),
    st.builds(x.Reward, bounds, expressions),
    st.builds(x.Check, names, expressions),
    st.builds(x.Attack, st.lists(names, max_size=3).map(tuple), expressions),
    st.builds(
        lambda name, row, expects: x.Test(name, (x.Row(tuple(row.items())),), tuple(expects)),
        any_text,
        st.dictionaries(names.filter(lambda n: n not in ("expect", "row")), constants, max_size=2),
        st.lists(st.builds(x.Expect, expressions), max_size=2),
    ),
)

rulesets = st.lists(statements, max_size=5).map(lambda items: x.Ruleset(tuple(items)))


# Rulesets that make sense: numbers and truths over three num and two bool columns.

NUM_COLUMNS, BOOL_COLUMNS = ("a", "b", "c"), ("p", "q")


def num_exprs(depth: int) -> st.SearchStrategy[x.Expr]:
    leaf = st.one_of(numbers.map(x.Const), st.sampled_from(NUM_COLUMNS).map(x.Name))
    if depth == 0:
        return leaf
    num, truth = (
        st.deferred(lambda: num_exprs(depth - 1)),
        st.deferred(lambda: bool_exprs(depth - 1)),
    )
    return st.one_of(
        leaf,
        st.builds(x.call, st.sampled_from(["+", "-", "*", "/", "min", "max", "??"]), num, num),
        st.builds(lambda a: x.call("**", a, 2), num),
        st.builds(lambda a: x.call("abs", a), num),
        st.builds(lambda a, b: x.call("clamp", a, -1, b), num, numbers.map(abs)),
        st.builds(lambda a, b, c: x.call("if", a, b, c), truth, num, num),
        st.builds(lambda a, b, c, d: x.call("case", a, b, c, d), truth, num, truth, num),
        st.builds(lambda a, b: x.call("*", a, b), truth, num),
    )


def bool_exprs(depth: int) -> st.SearchStrategy[x.Expr]:
    leaf = st.one_of(st.booleans().map(x.Const), st.sampled_from(BOOL_COLUMNS).map(x.Name))
    if depth == 0:
        return leaf
    num, truth = (
        st.deferred(lambda: num_exprs(depth - 1)),
        st.deferred(lambda: bool_exprs(depth - 1)),
    )
    return st.one_of(
        leaf,
        st.builds(x.call, st.sampled_from(["and", "or", "??"]), truth, truth),
        st.builds(lambda a: x.call("not", a), truth),
        st.builds(x.call, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), num, num),
        st.builds(lambda a: x.call("==", a, None), st.one_of(num, truth)),
        st.builds(lambda a, b, c: x.call("within", a, b, c), num, num, num),
        st.builds(lambda a, b: x.Call("in", (a, x.ListExpr((b, x.Const(1))))), num, num),
        st.builds(lambda a, b, c: x.call("if", a, b, c), truth, truth, truth),
    )


@st.composite
def sound_rulesets(draw: st.DrawFn) -> x.Ruleset:
    """Inputs a, b, c (num) and p, q (bool); one to three scores; a reward that may use them."""
    found: list[x.Statement] = [x.Input(name, "num") for name in NUM_COLUMNS]
    found += [x.Input(name, "bool") for name in BOOL_COLUMNS]
    scores = draw(st.lists(st.one_of(num_exprs(2), bool_exprs(2)), min_size=1, max_size=3))
    for i, expr in enumerate(scores):
        found.append(x.Score(f"s{i}", None, expr))
    reward = draw(num_exprs(2))
    if draw(st.booleans()):
        reward = x.call("+", x.call("*", x.Name("s0"), draw(numbers)), reward)
    return x.Ruleset((*found, x.Reward(None, reward)))


cells = {
    **dict.fromkeys(NUM_COLUMNS, st.one_of(st.none(), numbers.map(float))),
    **dict.fromkeys(BOOL_COLUMNS, st.one_of(st.none(), st.booleans())),
}
rows = st.fixed_dictionaries(cells)
batches = st.lists(rows, min_size=1, max_size=8)


def as_columns(batch: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows → the columns that a scorer takes."""
    return {name: [row[name] for row in batch] for name in batch[0]}


def close(left: float, right: float) -> bool:
    return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-9)
