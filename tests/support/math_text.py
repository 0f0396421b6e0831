"""Hypothesis strategies for mathematical text, honest and hostile. No tests here."""

from __future__ import annotations

from hypothesis import strategies as st

_ATOMS = ["1", "2", "3", "7", "12", "0.5", "x", "y", "n", "a", r"\pi"]
_PIECES = [
    "\\frac", "{", "}", "(", ")", "[", "]", "\\sqrt", "^", "_", "+", "-", "*", "/", "=", "<", "|",
    "\\{", "\\}", ",", ";", ":", "!", "!!", "%", "\\%", "$", "$$", "\\[", "\\]", "\\(", "\\)",
    "&", "\\\\", "\\begin{pmatrix}", "\\end{pmatrix}", "\\begin{cases}", "\\end{cases}",
    "\\text{", "\\left", "\\right", "\\boxed{", "\\boxed", "\\infty", "\\cup", "\\in", "\\le",
    "\\ne", "\\pm", "\\sin", "\\log", "\\sum", "\\int", "\\lim", "\\to", "\\binom", "\\overline{",
    "\\circ", "^\\circ", "...", "\\ldots", "\\mathbb{R}", "\\cdot", "\\times", "\\div", "\\mod",
    "\\quad", "\\,", "\\!", " ", "\n", "sin", "sqrt", "pi", "oo", "and", "or", "x", "y", "f", "i",
    "e", "d", "1", "23", "4.5", ".", "'", "#", "#### ", "<answer>", "</answer>", "<think>",
    "</think>", "The answer is ", "A: ", "½", "²", "√", "−", "∞", "٤", "\ud800", "\x00",
    "\U0001d7d8", "９", "𝔸", "1e9", "10^{10}", "cm", "km/h", "percent", "dollars", "\\$",
    "eval('1')", "__import__('os')", "~", "\\hspace{1cm}", "0", "(A)",
]  # fmt: skip

#: Any text at all, lone surrogates and NUL among it.
any_text = st.text(alphabet=st.characters(exclude_categories=()), max_size=60)

#: Text that looks like mathematics and mostly is none.
scrambled = st.lists(st.sampled_from(_PIECES), max_size=25).map("".join)

hostile = st.one_of(any_text, scrambled)


def _binary(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.tuples(children, children)
    return st.one_of(
        pair.map(lambda p: f"({p[0]}) + ({p[1]})"),
        pair.map(lambda p: f"({p[0]}) - ({p[1]})"),
        pair.map(lambda p: f"({p[0]}) \\cdot ({p[1]})"),
        pair.map(lambda p: f"\\frac{{{p[0]}}}{{{p[1]} + 17}}"),
        st.tuples(children, st.integers(2, 3)).map(lambda p: f"({p[0]})^{{{p[1]}}}"),
        children.map(lambda c: f"\\sqrt{{({c})^2 + 1}}"),
        children.map(lambda c: f"\\sin({c})"),
    )


#: Expressions in a few variables, defined nearly everywhere.
expressions = st.recursive(st.sampled_from(_ATOMS), _binary, max_leaves=6)

_SCALARS = st.one_of(
    expressions,
    st.integers(-(10**6), 10**6).map(str),
    st.fractions(max_denominator=99).map(lambda f: f"\\frac{{{f.numerator}}}{{{f.denominator}}}"),
)

#: Whole answers of many kinds.
answers = st.one_of(
    _SCALARS,
    st.lists(_SCALARS, min_size=2, max_size=4).map(lambda xs: r"\{" + ", ".join(xs) + r"\}"),
    st.lists(_SCALARS, min_size=2, max_size=4).map(lambda xs: "(" + ", ".join(xs) + ")"),
    st.lists(_SCALARS, min_size=2, max_size=3).map(", ".join),
    st.tuples(_SCALARS, _SCALARS).map(lambda p: f"[{p[0]}, {p[1]})"),
    _SCALARS.map(lambda x: f"z = {x}"),
    _SCALARS.map(lambda x: f"z < {x}"),
    st.tuples(_SCALARS, _SCALARS).map(
        lambda p: rf"\begin{{pmatrix}} {p[0]} & 1 \\ 0 & {p[1]} \end{{pmatrix}}"
    ),
    st.sampled_from(["Evelyn", r"\text{even}", "B", r"1 \pm \sqrt{5}", "3:4", "204_5", "50\\%"]),
)
