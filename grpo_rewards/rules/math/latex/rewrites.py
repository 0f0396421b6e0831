r"""Habits of writing that are rewritten before anything is read: one meaning, one spelling.

`{5 \choose 2}`, `_5C_2` and `5C2` are `\binom{5}{2}`; `]1, 2[` is `(1, 2)`; `0.1666...`,
`0.1\dot{6}` and `0.1\overline{6}` are one number. Every pattern is bounded and read once, so the
work is linear in the text. Nothing here knows what an answer is compared with.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from grpo_rewards.limits import MAX_REWRITTEN_CHARS

_INFIX: Final = re.compile(r"\{([^{}]{1,80}?)\\(choose|over)(?![A-Za-z])([^{}]{1,80}?)\}")
_BARE_INFIX: Final = re.compile(r"([^{}\\]{1,40})\\(choose|over)(?![A-Za-z])([^{}\\]{1,40})")
_ARRAY: Final = re.compile(
    r"\\left\s*\\\{\s*\\begin\s*\{array\}\s*(?:\{[^{}]{0,40}\})?(?P<rows>[^\0]{1,1500}?)"
    r"\\end\s*\{array\}\s*\\right\s*(?:\.|$)"
)
_STOP: Final = re.compile(r"(?<![.\d])\.(?=\s*(?:\\\\|\\end(?![a-z])))")
_CHOOSE: Final = re.compile(
    r"(?<![\w\\}])(?:(?:\{\s*\})?\s*[_^]\s*\{?\s*(?P<n>\w{1,4})\s*\}?\s*C\s*_\s*\{?\s*(?P<k>\w{1,4})"
    r"\s*\}?|(?P<n2>\d{1,4}|[a-z])C(?P<k2>\d{1,4}|[a-z]))(?!\w)"
)
_ARRANGE: Final = re.compile(_CHOOSE.pattern.replace("C", "P"))
_BRACKETS: Final = re.compile(r"([\[\]])(\s*[^\[\]\s,;][^\[\]]{0,80}?[,;][^\[\]]{1,80}?)([\[\]])")
_JOINED: Final = re.compile(r"\\c[ua]p(?![a-z])|[∪∩]|(?<![A-Za-z])(?:U|or|and|union)(?![A-Za-z])")
_SIGN_WORD: Final = re.compile(r"(?i)^(?:negative|minus)\s+(?=[\d\\($])")
_TO: Final = re.compile(
    r"(\d{1,12}(?:\.\d{1,9})?)\s*(?:\\text\s*\{\s*to\s*\}|to)\s*(\d{1,12}(?:\.\d{1,9})?)"
)
_BASE: Final = re.compile(
    r"\(?\s*(\d{1,60})\s*\)?\s*(?:\\text\s*\{)?\s*,?\s*\(?\s*(?:in\s+)?base[\s-]*"
    r"(\d{1,2}|two|three|four|five|six|seven|eight|nine|ten|twelve|sixteen)\s*\)?\s*\}?",
    re.IGNORECASE,
)
_BASES: Final = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "twelve": 12, "sixteen": 16,
}  # fmt: skip
_TEMPERATURE: Final = re.compile(
    r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|°|\\text\s*\{\s*°|(?<![A-Za-z])degrees?(?![A-Za-z]))"
    r"\s*(?:\\[,;: ]\s*)?(?:\\(?:text|mathrm|rm)\s*\{?\s*)?"
    r"(?P<scale>C(?:elsius)?|celsius|F(?:ahrenheit)?|fahrenheit)(?![A-Za-z])\s*\}?"
)
_REPEAT: Final = re.compile(
    r"(?P<head>\d*\.\d*)(?:\\(?:bar|dot)\s*(?:\{\s*(?P<one>\d{1,30})\s*\}|(?P<digit>\d))"
    r"(?:(?P<middle>\d{0,30})\\dot\s*(?:\{\s*(?P<last>\d)\s*\}|(?P<end>\d)))?"
    r"|(?<=\.)\((?P<round>\d{1,30})\))"
)
_DOTTED: Final = re.compile(
    r"(?P<head>(?<![\d.])\d*\.)(?P<decimals>\d{2,40})\s*(?:\.\.\.+|…|\\[lc]?dots(?![a-z]))"
    r"(?=\s*(?:$|[)}\],+\-*/=]))"
)
_MATRIX: Final = re.compile(r"(?:\w+\.)?[Mm]atrix\s*\(\s*(\[.*\])\s*\)", re.DOTALL)
_RATE: Final = re.compile(r"(?<![A-Za-z\\])d([a-zA-Z])\s*/\s*d([a-zA-Z])(?![A-Za-z])")
_FRAC: Final = re.compile(r"\\(?:nice|s|x|flat)frac(?![a-z])")
_POUNDS: Final = re.compile(r"\\(pounds|(?:text)?euro)(?![a-z])\s*(?:\{\s*\})?")
_OF_SET: Final = re.compile(
    r"(\\(?:max|min|gcd|lcm)(?![a-z])\s*)(?:\\left\s*)?\\\{((?:(?!\\[{}])[^\0]){1,200}?)"
    r"(?:\\right\s*)?\\\}"
)
_HALF_LINE: Final = re.compile(
    r"\\(?:mathbb|mathbf|mathrm)\s*\{?\s*R\s*\}?\s*(?:_\s*\{\s*(?P<sign>\\geq?(?:slant)?|>=?)\s*0\s*\}"
    r"|[_^]\s*(?:\{\s*\+\s*\}|\+))"
)
_SUCH: Final = re.compile(
    r"\s*[,;]?\s*\\text\s*\{\s*[,;]?\s*(?:where|such\ that|for(?:\ (?:all|any|every|some))?)\s*\}",
    re.IGNORECASE,
)
_IN: Final = re.compile(r"(\\in(?![a-z])|∈)\s*\{?([RZNQC])\}?(?![A-Za-z_^])")
_INTEGER: Final = re.compile(
    r"\s*[,;(]?\s*(?:\\text\s*\{)?\s*(?:where|with|for(?:\ (?:all|any|every|some))?)?\s*\}?\s*"
    r"\$?(?<![A-Za-z])([a-z])\$?\s*(?:\\text\s*\{)?\s*(?:is|be|denotes)\s(?:an?|any)?\s*integer\s*\}?\)?"
    r"(?=\s*$)"
)
_CENT: Final = re.compile(r"(?<=\d)\s*(?:¢|\\cent(?![a-z]))")
_UNION: Final = re.compile(r"(?<=[)\]}])\s*union\s*(?=[(\[{\\])")
_DOLLAR: Final = re.compile(r"\\text\s*\{\s*(\\?[$€£¥])\s*\}")


def rewritten(text: str) -> str:
    r"""The text with its habits of writing made one.

    >>> rewritten("]1, 2[ "), rewritten(r"0.1666\ldots"), rewritten("5C2")
    ('(1, 2) ', '0.1\\overline{6}', '\\binom{5}{2}')
    """
    if len(text) > MAX_REWRITTEN_CHARS or not _ANY.search(text):
        return text
    for rewrite in _REWRITES:
        text = rewrite.pattern.sub(rewrite.replace, text)
    if "\\begin" not in text:
        text = _CONDITION.pattern.sub(_CONDITION.replace, text)
    for rewrite in _WHOLE:
        found = rewrite.pattern.fullmatch(text.strip())
        text = rewrite.replace(found) if found else text
    return text


def _infix(found: re.Match[str]) -> str:
    command = "\\binom" if found[2] == "choose" else "\\frac"
    return f"{command}{{{found[1]}}}{{{found[3]}}}"


def _choose(found: re.Match[str]) -> str:
    top, bottom = found["n"] or found["n2"], found["k"] or found["k2"]
    return f"\\binom{{{top}}}{{{bottom}}}"


def _bracket(found: re.Match[str]) -> str:
    """`]a, b[` is open at both ends; brackets that open and close as usual stay."""
    left, right = found[1], found[3]
    if found[2].count("(") != found[2].count(")") or _JOINED.search(found[2]):
        return found[0]  # `0, 1] \\cup (2, 3]`: two intervals, each with its own ends
    return ("(" if left == "]" else left) + found[2] + (")" if right == "[" else right)


def _repeat(found: re.Match[str]) -> str:
    first = found["one"] or found["digit"] or found["round"]
    last = found["last"] or found["end"]
    period = first + (found["middle"] or "") + last if last else first
    return f"{found['head']}\\overline{{{period}}}"


def _dotted(found: re.Match[str]) -> str:
    """`0.1666...` repeats its last digits where they stand there twice; `3.14159...` is cut off."""
    decimals = found["decimals"]
    for size in range(1, min(len(decimals) // 2, 12) + 1):
        period = decimals[-size:]
        kept = decimals
        while kept.endswith(period):
            kept = kept[:-size]
        times = (len(decimals) - len(kept)) // size
        if times >= (3 if size == 1 and len(decimals) > 5 else 2):
            return f"{found['head']}{kept}\\overline{{{period}}}"
    return found["head"] + decimals


def _temperature(found: re.Match[str]) -> str:
    return " \\text{celsius}" if found["scale"][0] in "Cc" else " \\text{fahrenheit}"


def _arranged(found: re.Match[str]) -> str:
    """`_5P_2` is a number of arrangements."""
    return f"nPr({found['n'] or found['n2']}, {found['k'] or found['k2']})"


def _half_line(found: re.Match[str]) -> str:
    """`\\mathbb{R}_{\\ge 0}` and `\\mathbb{R}^+` as intervals."""
    closed = found["sign"] not in (None, ">")
    return f"{'[' if closed else '('}0, \\infty)"


def _based(found: re.Match[str]) -> str:
    base = found[2].lower()
    return f"{found[1]}_{{{_BASES.get(base, base)}}}"


class _Rewrite(NamedTuple):
    """A habit of writing: what a text holds where it may stand, how it looks, what it becomes."""

    sign: str
    pattern: re.Pattern[str]
    replace: Callable[[re.Match[str]], str]


#: Tried in this order, anywhere in a text.
_REWRITES: Final = (
    _Rewrite(r"\\begin", _ARRAY, lambda found: f"\\begin{{cases}}{found['rows']}\\end{{cases}}"),
    _Rewrite(r"\\begin", _STOP, lambda found: ""),
    _Rewrite(r"\\choose|\\over(?![a-z])", _INFIX, _infix),
    _Rewrite(r"\d[CP]_?\d|[CP]_|[a-z][CP]\d", _CHOOSE, _choose),
    _Rewrite(r"\d[CP]_?\d|[CP]_|[a-z][CP]\d", _ARRANGE, _arranged),
    _Rewrite(r"nicefrac|[sx]frac|flatfrac", _FRAC, lambda found: "\\frac"),
    _Rewrite(
        r"\\pounds|\\(?:text)?euro", _POUNDS, lambda found: "£" if found[1] == "pounds" else "€"
    ),
    _Rewrite(r"\\(?:max|min|gcd|lcm)(?![a-z])", _OF_SET, lambda found: f"{found[1]}({found[2]})"),
    _Rewrite(r"R\}?\s*[_^]", _HALF_LINE, _half_line),
    _Rewrite(r"(?:\\in|∈)\s*[A-Z]", _IN, lambda found: f"{found[1]} \\mathbb{{{found[2]}}}"),
    _Rewrite(r"(?i:integer)", _INTEGER, lambda found: f", {found[1]} \\in \\mathbb{{Z}}"),
    _Rewrite(r"\][^\[]*\[|\[[^\]]*\[|\][^\]]*\]", _BRACKETS, _bracket),
    _Rewrite(r"(?i:negative|minus)", _SIGN_WORD, lambda found: "-"),
    _Rewrite(r"(?i:celsius|fahrenheit)|\\circ|°", _TEMPERATURE, _temperature),
    _Rewrite(r"\\(?:bar|dot)(?![a-z])|\d\.\(", _REPEAT, _repeat),
    _Rewrite(r"\.\.\.|…|dots", _DOTTED, _dotted),
    _Rewrite(r"\bd[a-z]/d", _RATE, lambda found: f"\\frac{{d{found[1]}}}{{d{found[2]}}}"),
    _Rewrite(r"(?i:union)", _UNION, lambda found: " \\cup "),
    _Rewrite(r"¢|\\cent(?![a-z])", _CENT, lambda found: " cents"),
    _Rewrite(r"\\text\s*\{\s*\\\$", _DOLLAR, lambda found: found[1]),
)
#: Tried on a text as a whole.
_WHOLE: Final = (
    _Rewrite(r"\\choose|\\over(?![a-z])", _BARE_INFIX, _infix),
    _Rewrite(r"(?i:\bto\b)", _TO, lambda found: f"{found[1]}:{found[2]}"),
    _Rewrite(r"(?i:\bbase\b)", _BASE, _based),
    _Rewrite(r"Matrix", _MATRIX, lambda found: found[1]),
)
#: Conditions, which `cases` name by themselves.
_CONDITION: Final = _Rewrite(r"(?i:where|such that|for)", _SUCH, lambda found: ", ")
#: Most answers have none of these habits; this finds that out in one pass.
_ANY: Final = re.compile("|".join(dict.fromkeys(
    rewrite.sign for rewrite in (*_REWRITES, _CONDITION, *_WHOLE)
)))  # fmt: skip


_SAYINGS: Final[dict[str, str]] = {
    **dict.fromkeys(
        ("no solution", "no solutions", "no real solution", "no real solutions", "empty set",
         "the empty set", "there is no solution", "there are no solutions", "null set"),
        "\\emptyset",
    ),
    **dict.fromkeys(
        ("all real numbers", "all reals", "all real x", "any real number", "all real values",
         "the set of all real numbers", "real numbers", "all real values of x", "the reals",
         "the set of real numbers", "all x"),
        "\\mathbb{R}",
    ),
    **dict.fromkeys(
        ("dne", "does not exist", "the limit does not exist", "limit does not exist",
         "it does not exist"),
        "\\text{DNE}",
    ),
    **dict.fromkeys(
        ("infinitely many", "infinitely many solutions", "infinite solutions",
         "infinite number of solutions", "infinite"),
        "\\text{infinitely many}",
    ),
    **dict.fromkeys(
        ("positive infinity", "plus infinity"), "\\infty",
    ),
    "half": "1/2", "one half": "1/2", "a half": "1/2", "one third": "1/3", "one fourth": "1/4",
    "one quarter": "1/4", "two thirds": "2/3", "three fourths": "3/4", "three quarters": "3/4",
    **dict.fromkeys(("negative infinity", "minus infinity"), "-\\infty"),
}  # fmt: skip
_SPOKEN: Final = re.compile(r"[A-Za-z -]{1,80}")

_ONES: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
).split()
_TENS: Final = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_COUNTS: Final = {
    **{word: value for value, word in enumerate(_ONES)},
    **{word: 10 * value for value, word in enumerate(_TENS, 2)},
}


def spoken_number(words: list[str]) -> int | None:
    """The number that words name, below a million millions; None where they name none.

    >>> spoken_number("two thousand one hundred and forty two".split())
    2142
    >>> spoken_number(["ten", "one"]) is None
    True
    """
    total = part = 0
    room = 1_000  # the next word must name less than this
    last = ""
    for word in words:
        if word in _COUNTS and _COUNTS[word] < room:
            part += _COUNTS[word]
            room = 10 if _COUNTS[word] >= 20 else 0
        elif word == "hundred" and 0 < part < 10 and room == 0:
            part, room = part * 100, 100
        elif word in _POWERS and part > 0 and total % 10 ** (_POWERS[word] + 3) == 0:
            total, part, room = total + part * 10 ** _POWERS[word], 0, 1_000
        elif not (word == "and" and last in ("hundred", *_POWERS)):
            return None
        last = word
    return total + part if last and last != "and" else None


_MAGNITUDE: Final = re.compile(
    r"(-?\\?\$?\s*\d[\d.,]{0,30})\s*(?:\\text\s*\{\s*)?(thousand|million|billion|trillion)\b\s*\}?"
    r"(?P<rest>.{0,60})"
)
_POWERS: Final = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}


def magnitude(plain: str) -> tuple[str, str] | None:
    r"""`2.5 million` as the number that it is, and without the word; None for anything else.

    >>> magnitude("2.5 million dollars")
    ('2.5 \\times 10^{6} dollars', '2.5 dollars')
    """
    if "illion" not in plain and "thousand" not in plain:
        return None
    found = _MAGNITUDE.fullmatch(plain)
    if found is None:
        return None
    return f"{found[1]} \\times 10^{{{_POWERS[found[2]]}}}{found['rest']}", found[1] + found["rest"]


def stand_in(plain: str) -> str:
    r"""The mathematics that a saying stands for; other text as it is.

    >>> stand_in("No solution"), stand_in("Paris")
    ('\\emptyset', 'Paris')
    """
    if "\\text{" in plain:
        plain_words = plain.replace("\\text{", "").replace("}", "").strip()
    else:
        plain_words = plain
    if not _SPOKEN.fullmatch(plain_words):
        return plain
    said = plain_words.lower().split()
    if " ".join(said) in _SAYINGS:
        return _SAYINGS[" ".join(said)]
    number = spoken_number(" ".join(said).replace("-", " ").split())
    return plain if number is None else str(number)
