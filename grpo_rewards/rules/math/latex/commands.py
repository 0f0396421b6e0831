"""What LaTeX's commands stand for, as the scanner needs to know it."""

from __future__ import annotations

from typing import Final

#: Brackets that open: the type of their token, and that of the one that closes them.
OPENERS: Final = {
    "\\langle": ("LANGLE", "RANGLE"), "\\lfloor": ("LFLOOR", "RFLOOR"),
    "\\lceil": ("LCEIL", "RCEIL"), "\\lvert": ("LBAR", "RBAR"), "\\lVert": ("LNORM", "RNORM"),
    "\\lbrace": ("LSET", "RSET"), "\\lbrack": ("LB", "RB"), "\\lparen": ("LP", "RP"),
}  # fmt: skip
#: Brackets that close.
CLOSERS: Final = {
    "\\rangle": "RANGLE", "\\rfloor": "RFLOOR", "\\rceil": "RCEIL", "\\rvert": "RBAR",
    "\\rVert": "RNORM", "\\rbrace": "RSET", "\\rbrack": "RB", "\\rparen": "RP",
}  # fmt: skip
#: How many arguments a command takes, each in braces or one token long.
ARGUMENTS: Final = {
    "frac": 2, "dfrac": 2, "tfrac": 2, "cfrac": 2, "sqrt": 1, "binom": 2, "dbinom": 2, "tbinom": 2,
    "overline": 1, "boxed": 1, "fbox": 1, "underline": 1, "overset": 2, "mathbb": 1,
}  # fmt: skip
#: The token that a command with arguments becomes.
HEADS: Final = {"dfrac": "FRAC", "tfrac": "FRAC", "cfrac": "FRAC", "frac": "FRAC",
                 "binom": "BINOM", "dbinom": "BINOM", "tbinom": "BINOM",
                 "sqrt": "SQRT"}  # fmt: skip
#: Commands that become one token: the method of the scanner that puts it out, its type, and its
#: value ("" stands for the name itself).
COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    **dict.fromkeys(("times", "cdot", "ast", "bullet", "cdotp"), ("_operator", "MUL", "*")),
    "div": ("_operator", "DIV", "/"), "pm": ("_operator", "PM", ""), "mp": ("_operator", "PM", ""),
    **dict.fromkeys(("cup", "cap", "setminus"), ("_operator", "SETOP", "")),
    "backslash": ("_operator", "SETOP", "setminus"), "colon": ("_operator", "COLON", ":"),
    "mod": ("_operator", "MOD", ""), "pmod": ("_operator", "MOD", ""),
    "bmod": ("_operator", "MOD", ""),
    "infty": ("_atom", "INF", ""), "infin": ("_atom", "INF", ""),
    "emptyset": ("_atom", "EMPTY", ""), "varnothing": ("_atom", "EMPTY", ""),
    **dict.fromkeys("ldots dots cdots dotsc dotsb vdots ddots".split(), ("_atom", "DOTS", "")),
    **dict.fromkeys(("land", "wedge", "lor", "vee"), ("_separator", ",", "")),
    "degree": ("_put", "DEG", ""),
}  # fmt: skip
#: Commands that say nothing about a value.
IGNORED: Final = frozenset(
    "therefore because checkmark angle measuredangle triangle square beginboxed framebox box"
    " fbox left right big Big bigg Bigg".split()
)
#: Decorations that may stand before one letter without braces.
DECORATIONS: Final = frozenset(
    ["\\" + name for name in "vec overrightarrow boldsymbol bm mathbf pmb mathcal".split()]
)
#: Marks that make another symbol of a letter: `x` and `\bar x` differ.
MARKS: Final = frozenset({"\\bar", "\\hat", "\\tilde"})
#: Names of functions that are read as letters, or as words, unless they are applied.
LETTERS_TOO: Final = frozenset("int Gamma gamma zeta sh im".split())
#: Other shapes of a letter.
LETTERS: Final = {"varepsilon": "epsilon", "vartheta": "theta", "varphi": "phi",
                   "varrho": "rho", "varsigma": "sigma", "imath": "i", "jmath": "j"}  # fmt: skip
