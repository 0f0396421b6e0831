"""Reading mathematics: expected trees, no exceptions, no evaluation."""

from __future__ import annotations

import builtins
import json
import random
from typing import Any

import lark
import pytest
from conftest import ROOT
from hypothesis import given, settings
from math_text import _PIECES, answers, hostile

from grpo_rewards import limits
from grpo_rewards.rules.math import symbols
from grpo_rewards.rules.math.compare.canonical import canonical
from grpo_rewards.rules.math.equality import equal
from grpo_rewards.rules.math.latex import parser
from grpo_rewards.rules.math.latex.parser import ParseFailure, parse_math
from grpo_rewards.rules.math.latex.scanner import Scanner
from grpo_rewards.rules.math.latex.tree import Term, depth
from grpo_rewards.syntax import saved_parsers

TREES = {
    r"\frac12 x^2": "(mul (div 1 2) (pow x 2))",
    r"\sin 2x \cos x": "(mul (fn sin (mul 2 x)) (fn cos x))",
    r"\sin^2 x": "(pow (fn sin x) 2)",
    r"\sin^{-1} x": "(fn arcsin x)",
    r"\ln \sin x": "(fn ln (fn sin x))",
    r"3\frac12": "7/2",
    "1 1/2": "3/2",
    "1,234.5": "2469/2",
    "[0,9)": "(tuple [ ) 0 9)",
    "|x|+a|y|": "(add (fn abs x) (mul a (fn abs y)))",
    r"0.\overline{3}": "1/3",
    "momega^2": "(mul m (pow omega 2))",
    "x^-2": "(pow x -2)",
    "a<b<=c": "(rel ('<', '<=') a b c)",
    r"1\pm\sqrt5": "(pm pm 1 (pow 5 1/2))",
    r"\text{odd}": "odd",
    "10 cm^2": "(note 10 cm^2)",
    "204_5": "(base 204 5)",
    "3:4": "(ratio 3 4)",
    "{1,2}": "(set 1 2)",
    r"x \in \{1,2\}": "(rel ('in',) x (set 1 2))",
    r"\sum_{k=1}^n k^2": "(big sum (rel ('=',) k 1) n (pow k 2))",
    r"\int_0^1 x\,dx + 1": "(add (big int 0 1 (mul x d x)) 1)",
    r"\frac{dy}{dx}": "(apply d/d (mul d y) (mul d x))",
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}": "(matrix (row 1 2) (row 3 4))",
    "√5 ≤ x²": "(rel ('<=',) (pow 5 1/2) (pow x 2))",
    r"19, 46, \text{ and } 82": "(list 19 46 82)",
    "sec**12(x)": "(pow (fn sec x) 12)",
    r"\\frac{1}{2}": "(div 1 2)",
}


@pytest.mark.parametrize("text", TREES)
def test_each_habit_has_its_tree(text: str) -> None:
    assert str(parse_math(text)) == TREES[text]


@given(hostile)
@settings(max_examples=400)
def test_reading_never_raises_and_trees_are_bounded(text: str) -> None:
    tree = parse_math(text)
    assert isinstance(tree, ParseFailure) or depth(tree) <= limits.MAX_TREE_DEPTH


@given(answers)
def test_canonical_form_is_its_own_canonical_form(text: str) -> None:
    tree = parse_math(text)
    assert isinstance(tree, Term)
    assert canonical(canonical(tree)) == canonical(tree)


def test_the_saved_table_is_the_grammar() -> None:
    """After a change of the grammar: `make tables`."""
    saved = saved_parsers.saved_parser("latex", transformer=parser._Build())
    if saved is None:
        version, _, _ = (saved_parsers.GRAMMARS / "latex.table").read_bytes().partition(b":")
        assert version.decode() != lark.__version__, "the table is older than the grammar"
        pytest.skip("another version of Lark")
    fresh = parser.compile_latex(saved_parsers.grammar_text("latex"))
    for text in TREES:
        tokens = Scanner(symbols.to_ascii(text)).run()
        assert saved.parse(tokens) == fresh.parse(tokens)  # type: ignore[arg-type]


def test_bounds_give_a_reason() -> None:
    for text in ("(" * 5000, "1+" * 5000 + "1", "x" * 5000, "{" * 100, "-" * 3000 + "1", "1" * 3000,
                 "1" + "!" * 3000, "x^" * 900 + "x", r"\sqrt" * 900 + "2"):  # fmt: skip
        tree = parse_math(text)
        assert isinstance(tree, ParseFailure) or depth(tree) <= limits.MAX_TREE_DEPTH


def _strings() -> list[str]:
    """10,000 honest and hostile strings; always the same."""
    chance = random.Random(4)
    cases = ROOT / "tests" / "cases" / "math.jsonl"
    honest = [json.loads(line)["answer"] for line in cases.read_text("utf-8").splitlines()]
    injected = [
        "eval('1+1')",
        "__import__('os').system('id')",
        "().__class__.__base__",
        "{7}.x",
        "exec('x')",
        "lambda: 7",
        "breakpoint()",
        "7 if True else 8",
        "open('x')",
    ]
    pool = _PIECES + injected
    made = ["".join(chance.choices(pool, k=chance.randint(1, 9))) for _ in range(9500)]
    return (honest + injected * 40 + made)[:10_000]


def test_no_text_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """`eval`, `exec`, `compile`, SymPy's readers of text and new imports are poisoned."""
    import sympy

    strings = _strings()
    equal(r"\frac{x}{2} + \sin 1", "x")  # what is imported late is imported now
    true_import = builtins.__import__
    known = set(__import__("sys").modules)

    def poison(*_: Any, **__: Any) -> Any:
        raise AssertionError("text was evaluated")

    def careful_import(name: str, *args: Any, **kwargs: Any) -> Any:
        assert name in known or any(m.endswith("." + name) for m in known), f"imported {name}"
        return true_import(name, *args, **kwargs)

    def only_numbers(cls: type, *args: Any, **kwargs: Any) -> Any:
        assert not any(isinstance(arg, str) for arg in args), "sympy.Number from text"
        return true_number(cls, *args, **kwargs)

    true_number = sympy.Number.__new__
    monkeypatch.setattr(sympy, "sympify", poison)
    monkeypatch.setattr("sympy.parsing.sympy_parser.parse_expr", poison)
    monkeypatch.setattr(sympy.Number, "__new__", only_numbers)
    with monkeypatch.context() as poisoned:
        poisoned.setattr(builtins, "__import__", careful_import)
        for name in ("eval", "exec", "compile"):
            poisoned.setattr(builtins, name, poison)
        for text in strings:
            equal(text, "7")
        for gold in (r"\frac{x}{2}", "B", r"\{1, 2\}"):
            for text in strings[:1000]:
                equal(text, gold)
