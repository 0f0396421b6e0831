"""Tables of mathematical writing: unicode, names of functions and letters, relations, brackets.

An explicit table and not Unicode's NFKC: NFKC would turn `x²` into `x2` and `½` into `1⁄2`.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

GREEK_LOWER: Final = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
    "rho",
    "sigma",
    "tau",
    "upsilon",
    "phi",
    "chi",
    "psi",
    "omega",
]
_GREEK_CODES = [c for c in range(0x3B1, 0x3CA) if c != 0x3C2]  # without the final sigma
GREEK: Final = (
    frozenset(GREEK_LOWER)
    | frozenset(n.capitalize() for n in GREEK_LOWER)
    | {"varepsilon", "vartheta", "varphi", "varrho", "varsigma", "ell", "hbar"}
)

_PLAIN: Final = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "‒": "-", "﹣": "-", "－": "-",
    "×": "\\times ", "✕": "\\times ", "⋅": "\\cdot ", "·": "\\cdot ", "∙": "\\cdot ",
    "•": "\\cdot ", "∗": "*", "＊": "*", "÷": "\\div ", "∕": "/", "⁄": "/", "／": "/",
    "＋": "+", "＝": "=", "±": "\\pm ", "∓": "\\mp ", "√": "\\sqrt ", "∛": "\\sqrt[3]",
    "∜": "\\sqrt[4]", "∞": "\\infty ", "≤": "\\le ", "⩽": "\\le ", "≦": "\\le ", "≥": "\\ge ",
    "⩾": "\\ge ", "≧": "\\ge ", "≠": "\\ne ", "≈": "\\approx ", "≃": "\\approx ",
    "≅": "\\approx ", "≡": "\\equiv ", "∼": "\\sim ", "＜": "<", "＞": ">", "∈": "\\in ",
    "∉": "\\notin ", "∪": "\\cup ", "∩": "\\cap ", "∅": "\\emptyset ", "⊂": "\\subset ",
    "∖": "\\setminus ", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℚ": "\\mathbb{Q}",
    "ℕ": "\\mathbb{N}", "ℂ": "\\mathbb{C}", "→": "\\to ", "⟶": "\\to ", "∫": "\\int ",
    "∑": "\\sum ", "∏": "\\prod ", "∂": "\\partial ", "°": "^{\\circ}", "º": "^{\\circ}",
    "′": "'", "’": "'", "‘": "'", "“": '"', "”": '"', "…": "\\ldots ", "⋯": "\\ldots ",
    "（": "(", "）": ")", "［": "[", "］": "]", "｛": "\\{", "｝": "\\}", "⟨": "\\langle ",
    "⟩": "\\rangle ", "，": ", ", "、": ", ", "；": ";", "：": ":", "％": "%", "。": ". ",
    "｜": "|", "∣": "|", "‖": "\\|", "⌊": "\\lfloor ", "⌋": "\\rfloor ", "⌈": "\\lceil ",
    "⌉": "\\rceil ", "ϵ": "\\epsilon ", "ϕ": "\\phi ", "ϑ": "\\theta ", "ς": "\\sigma ",
    "µ": "\\mu ", "∆": "\\Delta ", "Ω": "\\Omega ", "ℓ": "\\ell ", "ⅇ": "e", "ⅈ": "i",
    "∧": "\\wedge ", "∨": "\\vee ", "π": "\\pi ", "＄": "$", "．": ".", "∘": "\\circ ",
}  # fmt: skip

_SPACES: Final = "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f"
_INVISIBLE: Final = "\u200b\u200c\u200d\u2060\ufeff\u2061\u2062\u2063\u00ad"


def _table() -> dict[int, str | None]:
    table: dict[int, str | None] = {ord(char): text for char, text in _PLAIN.items()}
    for code, name in zip(_GREEK_CODES, GREEK_LOWER, strict=True):
        table.setdefault(code, f"\\{name} ")
        table[code - 0x20] = f"\\{name.capitalize()} "
    for zero in (0x660, 0x6F0, 0x966, 0x9E6, 0xFF10, 0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6):
        table.update({zero + digit: str(digit) for digit in range(10)})
    for shift in range(26):
        table[0xFF21 + shift] = chr(65 + shift)
        table[0xFF41 + shift] = chr(97 + shift)
    for code in [*range(0xBC, 0xBF), *range(0x2150, 0x215F), 0x2189]:
        top, _, bottom = unicodedata.normalize("NFKC", chr(code)).partition("⁄")
        table[code] = f"\\frac{{{top}}}{{{bottom}}}"
    table.update({ord(char): "\\, " for char in _SPACES})
    table[0x3000] = " "
    table.update({ord(char): None for char in _INVISIBLE})
    table.update({code: None for code in range(32) if code not in (9, 10, 12, 13)})
    return table


_TABLE: Final = _table()
_SUPER: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱˣ", "0123456789+-()nix")
_SUB: Final = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙₓ", "0123456789+-()nx")
_SUPERS: Final = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱˣ]+")
_SUBS: Final = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙₓ]+")
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0e-\x1f]")


def to_ascii(text: str) -> str:
    """The same mathematics in ASCII and LaTeX; characters that the table lacks stay.

    >>> to_ascii("√5 ≤ x² ½")
    '\\\\sqrt 5 \\\\le  x^{2} \\\\frac{1}{2}'
    """
    if text.isascii():
        return _CONTROL.sub("", text)
    text = _SUPERS.sub(lambda found: "^{" + found[0].translate(_SUPER) + "}", text)
    text = _SUBS.sub(lambda found: "_{" + found[0].translate(_SUB) + "}", text)
    return text.translate(_TABLE)


_TRIG: Final = [
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "sinh",
    "cosh",
    "tanh",
    "coth",
    "sech",
    "csch",
]
FUNCTIONS: Final[dict[str, str]] = {
    **{name: name for name in _TRIG},
    **{f"{arc}{name}": f"arc{name}" for name in _TRIG for arc in ("arc", "a", "ar")},
    "tg": "tan", "ctg": "cot", "arctg": "arctan", "cosec": "csc", "sh": "sinh", "ch": "cosh",
    "log": "log", "ln": "ln", "lg": "lg", "exp": "exp", "sqrt": "sqrt", "cbrt": "cbrt",
    "abs": "abs", "Abs": "abs", "sign": "sign", "sgn": "sign", "floor": "floor", "ceil": "ceil",
    "ceiling": "ceil", "re": "re", "im": "im", "Re": "re", "Im": "im", "conjugate": "conj",
    "factorial": "factorial", "factorial2": "factorial2", "binomial": "binom", "binom": "binom",
    "gcd": "gcd", "lcm": "lcm", "min": "min", "max": "max", "gamma": "gamma", "Gamma": "gamma",
    "zeta": "zeta", "erf": "erf", "det": "det", "arg": "arg", "summation": "summation",
    "Sum": "summation", "int": "integral", "integrate": "integral", "Integral": "integral",
    "nPr": "perm", "nCr": "binom", "frac": "frac", "cis": "cis",
}  # fmt: skip
for _short in ("sh", "ch", "im", "re", "min", "arg"):  # as plain letters these are words
    FUNCTIONS.setdefault(_short, _short)
CALL_ONLY: Final = frozenset(  # functions only before a bracket; otherwise letters
    "sh ch re im Re Im gamma Gamma zeta int Sum arg min max det frac sign abs Abs floor ceil"
    " cis".split()
)
OPERATORS: Final = {"sum": "sum", "prod": "prod", "int": "int", "iint": "int", "iiint": "int",
                    "oint": "int", "lim": "lim", "bigcup": "bigcup",
                    "bigcap": "bigcap"}  # fmt: skip
RELATIONS: Final = {
    "=": "=", "==": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "=<": "<=", "=>": "to",
    "!=": "!=", "<>": "!=", "~": "~", "\\le": "<=", "\\leq": "<=", "\\leqslant": "<=",
    "\\leqq": "<=", "\\ge": ">=", "\\geq": ">=", "\\geqslant": ">=", "\\geqq": ">=", "\\lt": "<",
    "\\gt": ">", "\\ne": "!=", "\\neq": "!=", "\\approx": "~", "\\simeq": "~", "\\cong": "~",
    "\\sim": "~", "\\doteq": "~", "\\equiv": "=", "\\in": "in", "\\notin": "notin",
    "\\subset": "subset", "\\subseteq": "subset", "\\to": "to", "\\rightarrow": "to",
    "\\mapsto": "to", "\\implies": "to", "\\Rightarrow": "to", "\\iff": "to", "->": "to",
    "\\perp": "perp", "\\parallel": "par", "\\mid": "mid", "\\propto": "prop",
    "\\Leftrightarrow": "to", "\\longrightarrow": "to",
}  # fmt: skip
#: Words that take back what they stand beside.
NEGATIONS: Final = frozenset(
    "not no never neither nor wrong incorrect false isn't isn’t cannot can't can’t".split()
)
CONNECTIVES: Final = frozenset(["and", "or", "und", "et", "y", "oder", "ou"])
