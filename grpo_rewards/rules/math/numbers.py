"""Numbers as people write them → exact fractions. Text is read, never evaluated.

This is the first rung of equality and decides most rows, so it is one regular expression without
nested repeats, and integers take a shorter way.
"""

from __future__ import annotations

import itertools
import re
from fractions import Fraction
from typing import Final, NamedTuple

from grpo_rewards import limits
from grpo_rewards.rules.math import symbols, units


class Number(NamedTuple):
    """`value`, exactly. `places` counts decimals (None for an integer or a fraction), `figures`
    significant digits. Not `sure`: the writing allows another reading (`1,5` may be a list).
    `digits` is the whole number as text where it is too long to be an int."""

    value: Fraction
    percent: bool = False
    unit: str = ""
    places: int | None = None
    figures: int = 0
    sure: bool = True
    digits: str = ""


_CURRENCY: Final = r"(?:\\?\$|[€£¥₹]|(?:USD|EUR|US\\?\$|Rs\.?)\s)"
_GROUP: Final = r"(?:,|,?\\[ ,!;:]|\\!,\s*|\{,\}|\\,|,\\!\s*|\ |'|,\s?\\!\s*|_)"
_NUMBER: Final = re.compile(
    rf"""
    (?P<sign>[-+]?)\s*(?P<money>{_CURRENCY}\s*)?(?P<sign2>[-+]?)
    (?:
      \\[dtc]?frac\s*(?:\{{\s*(?P<top>-?\d+)\s*\}}|(?P<top1>\d))
        \s*(?:\{{\s*(?P<low>\d+)\s*\}}|(?P<low1>\d))
    | (?P<whole> \d{{1,3}}(?:{_GROUP}\d{{3}})+(?!\d) | \d+ | (?=\.\d))
      (?: \.(?P<decimals>\d*) | ,(?P<comma>\d+) )?
      (?: [eE](?P<exp>[-+]?\d{{1,4}})
        | \s*(?:\\times|\*|\\cdot|[xX])\s*10\s*(?:\^|\*\*)\s*\{{?\s*(?P<exp10>[-+]?\d{{1,4}})\s*\}}?
        | \s*/\s*(?P<den>\d+(?:,\d{{3}})*(?:\.\d+)?)
        | (?:\s+|\\\s|\s*\\[,;]\s*)(?P<mtop>\d+)\s*/\s*(?P<mlow>\d+)
        | \s*\\[dtc]?frac\s*(?:\{{\s*(?P<xtop>\d+)\s*\}}|(?P<xtop1>\d))
          \s*(?:\{{\s*(?P<xlow>\d+)\s*\}}|(?P<xlow1>\d))
      )?
    )
    \s*(?:\\[,;:! ]\s*)*
    (?P<percent>\\?%|percent\b|pct\b|\\text\s*\{{\s*(?:percent|pct|\\?%)\s*\}})?
    (?P<rest>.*)
    """,
    re.VERBOSE | re.DOTALL,
)
_POINTS: Final = re.compile(r"[-+]?\d{1,3}(?:\.\d{3})+,\d+|[-+]?\d{1,3}(?:\.\d{3}){2,}")
_UNIT: Final = re.compile(
    r"\s*(?:\\[,;:! ]|~|-)*\s*(?:\^\s*\{?\s*\\circ\s*\}?|°|\\degree)\s*(?:[CF])?\s*\.?"
)
_WORDS: Final = re.compile(
    r"(?:\s|\\[,;:! ]|~|\\q?quad)*\\(?:text|textbf|mathrm|mbox|textrm|textnormal|rm|mathbf"
    r"|hbox|textit|operatorname)\s*\{([^{}]*)\}\s*(\^\s*\{?\s*-?\d\s*\}?|)\s*\.?"
)
_PLAIN_WORDS: Final = re.compile(r"[\s-]*([A-Za-z€][A-Za-z€ ./*]{0,60}(?:\^\s*\{?\d\}?)?)\s*\.?")


def read_number(text: str) -> Number | None:
    """The number that a text is, as a whole, with its unit; None where it is something else.

    >>> [str(read_number(t).value) for t in ("1,234.50", "-3/6", "2 1/2", "$18", "1e3", "5 cm")]
    ['2469/2', '-1/2', '5/2', '18', '1000', '5']
    >>> read_number("x+1") is None, read_number("50%").percent
    (True, True)
    """
    if text.isascii() and text.isdigit():
        return _whole(text, False)
    if text[:1] == "-" and text[1:].isascii() and text[1:].isdigit():
        return _whole(text[1:], True)
    if len(text) > limits.MAX_MATH_CHARS:
        return _long(text)
    if not any(char.isdigit() for char in text[: limits.MAX_BARE_CHARS]):
        return None
    plain = symbols.to_ascii(text).strip()
    if _POINTS.fullmatch(plain):  # `1.000,99` and `1.000.000`, as they are written in Europe
        read_so = read_number(plain.replace(".", "").replace(",", "."))
        return None if read_so is None else read_so._replace(sure=False)
    found = _NUMBER.fullmatch(plain)
    number = _number(found) if found else None
    return number or (_summed(plain) if found and any(map(str.isdigit, found["rest"])) else None)


def whole(text: str) -> int | None:
    """The integer that a text is, digits and a sign alone; None for any other writing.

    >>> whole("-12"), whole("1,200"), whole("12.0")
    (-12, None, None)
    """
    if len(text) > limits.MAX_NUMBER_DIGITS or not text.isascii():
        return None
    digits = text[1:] if text[:1] == "-" else text
    return int(text) if digits.isdigit() else None


def _whole(digits: str, negative: bool) -> Number | None:
    if len(digits) <= limits.MAX_NUMBER_DIGITS:
        return Number(Fraction(-int(digits) if negative else int(digits)), figures=len(digits))
    if len(digits) > limits.MAX_PLAIN_DIGITS:
        return None
    return Number(Fraction(0), digits=("-" if negative else "") + (digits.lstrip("0") or "0"))


def _long(text: str) -> Number | None:
    """A decimal too long for the expression: zeros at its ends are dropped."""
    sign, body = ("-", text[1:]) if text[:1] == "-" else ("", text)
    whole, _, decimals = body.partition(".")
    if not (whole + decimals).isdigit() or not body.isascii():
        return None
    whole, decimals = whole.lstrip("0"), decimals.rstrip("0")
    if len(whole) + len(decimals) > limits.MAX_NUMBER_DIGITS:
        return Number(Fraction(0), digits=f"{sign}{whole or '0'}.{decimals}".rstrip("."))
    value = Fraction(int((whole + decimals) or "0"), 10 ** len(decimals))
    return Number(-value if sign else value, places=len(decimals) or None)


#: `£` and `¥` are money of more than one name.
_MONEY: Final = {
    "$": "dollar",
    "USD": "dollar",
    "€": "euro",
    "EUR": "euro",
    "₹": "rupee",
    "Rs": "rupee",
}
_SUMMED: Final = re.compile(
    r"(?P<n1>\d{1,9}(?:\.\d{1,9})?)[\s-]*(?P<u1>[A-Za-z]{1,12})\.?\s*(?:,|and|,\s*and)?\s*"
    r"(?P<n2>\d{1,9}(?:\.\d{1,9})?)[\s-]*(?P<u2>[A-Za-z]{1,12})\.?"
    r"(?:\s*(?:,|and|,\s*and)?\s*(?P<n3>\d{1,9}(?:\.\d{1,9})?)[\s-]*(?P<u3>[A-Za-z]{1,12}))?\.?"
)


def _summed(plain: str) -> Number | None:
    """`2 hours 30 minutes` as 2.5 hours: one measure in units that get smaller."""
    text = " ".join(_UNIT_TEXT.sub(r" \1 ", plain).replace("\\ ", " ").replace("\\,", " ").split())
    found = _SUMMED.fullmatch(text) if len(text) <= limits.MAX_MEASURE_CHARS else None
    if found is None:
        return None
    said = [
        (Fraction(found[f"n{i}"]), units.read_unit(found[f"u{i}"])) for i in "123" if found[f"n{i}"]
    ]
    measures = [unit for _, unit in said if unit is not None]
    sizes = [unit.factor for unit in measures]
    if len(measures) < len(said) or len({unit.dimension for unit in measures}) > 1:
        return None
    if any(large <= small for large, small in itertools.pairwise(sizes)):
        return None
    total = sum((value * unit.factor for value, unit in said if unit), Fraction(0))
    return Number(total / sizes[0], unit=found["u1"])


def _number(found: re.Match[str]) -> Number | None:
    group = found.groupdict()
    rest = group["rest"]
    unit = "" if not rest else _unit(rest, found)
    if unit is None:
        return None
    if group["sign"] and group["sign2"]:
        return None
    negative = "-" in (group["sign"], group["sign2"])
    read_parts = _fraction(group) if group["whole"] is None else _decimal(group)
    if read_parts is None:
        return None
    value, places, figures, sure = read_parts
    if group["money"] and not unit:
        unit = next((name for sign, name in _MONEY.items() if sign in group["money"]), "")
    return Number(
        -value if negative else value, bool(group["percent"]), unit, places, figures, sure
    )


def _unit(rest: str, found: re.Match[str]) -> str | None:
    """The unit after a number; "" for words that say nothing; None where the rest is no unit."""
    if _UNIT.fullmatch(rest):
        return "degree"
    if rest.strip() in ("$", "\\$", "€", "£", ".", "¥", "₹"):
        return next((name for sign, name in _MONEY.items() if sign in rest), "")
    if rest.strip() == "\\Omega":
        return "ohm"
    words = _WORDS.fullmatch(rest)
    if words is None and "{" in rest and len(rest) <= limits.MAX_MEASURE_CHARS:
        text = _latex_unit(rest)
        if text:
            return text
    if words:
        text = words[1].strip() + (words[2] or "")
        if units.read_unit(text) or not any(char.isdigit() for char in words[1]):
            said = words[1].lower().split()
            open_ = said[:1] and said[0] in symbols.CONNECTIVES
            return None if open_ or not symbols.NEGATIONS.isdisjoint(said) else text
        return None
    plain = _PLAIN_WORDS.fullmatch(rest)
    apart = rest[:1] in " -" or found.string[found.start("rest") - 1 : found.start("rest")] in " ~"
    if plain is None or (len(plain[1]) < 2 and not apart):
        return None
    text = plain[1].strip().rstrip(".")
    if units.read_unit(text) is not None:
        return text
    words_in = text.split()
    return text if all(units.is_word(word) for word in words_in) else None


_UNIT_FRACTION: Final = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_UNIT_TEXT: Final = re.compile(
    r"\\(?:text|textrm|textbf|mathrm|mathbf|mbox|operatorname|rm)\s*\{([^{}]*)\}"
)
_UNIT_SIGNS: Final = re.compile(r"\\cdot(?![a-z])|\\[,;:! ]|~|\s+|[*·]")


def _latex_unit(rest: str) -> str | None:
    """A unit of several pieces of LaTeX, `\\frac{\\text{m}}{\\text{s}^2}`, as `m/s^2`."""
    powers = re.sub(r"\^\s*\{\s*(-?\d)\s*\}", r"^\1", rest)
    for _ in range(3):  # a fraction in \\mathrm, text in a fraction
        powers = _UNIT_TEXT.sub(r" \1 ", powers)
        powers = _UNIT_FRACTION.sub(r" \1 / \2 ", powers)
    text = " ".join(_UNIT_SIGNS.sub(" ", powers).split()).rstrip(".")
    if re.search(r"[\\{}]|(?<!\^)(?<!\^-)\d", text) or units.read_unit(text) is None:
        return None
    return text


def _fraction(group: dict[str, str | None]) -> tuple[Fraction, int | None, int, bool] | None:
    top, low = group["top"] or group["top1"], group["low"] or group["low1"]
    if top is None or low is None or max(len(top), len(low)) > limits.MAX_NUMBER_DIGITS:
        return None
    return None if int(low) == 0 else (Fraction(int(top), int(low)), None, 0, True)


def _decimal(group: dict[str, str | None]) -> tuple[Fraction, int | None, int, bool] | None:
    written = group["whole"] or ""
    whole = "".join(filter(str.isdigit, written))
    decimals, sure = group["decimals"] or "", True
    if group["comma"]:
        decimals, sure = group["comma"], False  # `1,5`: decimal comma, or a list of two
    elif "," in written and whole.startswith("0"):
        decimals, whole, sure = whole[1:], "0", False  # `0,111`
    if len(whole) + len(decimals) > limits.MAX_NUMBER_DIGITS:
        return None
    value = Fraction(int((whole + decimals) or "0"), 10 ** len(decimals))
    places: int | None = len(decimals) or None
    exponent = group["exp"] or group["exp10"]
    if exponent:
        if abs(int(exponent)) > limits.MAX_NUMBER_DIGITS:
            return None
        value *= Fraction(10) ** int(exponent)
        places = None if places is None else places - int(exponent)
    divided = _divided(value, group)
    if divided is None:
        return None
    figures = len((whole + decimals).lstrip("0"))
    return divided, places if divided == value else None, figures, sure


def _divided(value: Fraction, group: dict[str, str | None]) -> Fraction | None:
    """A fraction or a mixed number."""
    if group["den"]:
        low = Fraction(group["den"].replace(",", ""))
        return value / low if low else None
    top = group["mtop"] or group["xtop"] or group["xtop1"]
    if top:
        bottom = int(group["mlow"] or group["xlow"] or group["xlow1"] or "0")
        if bottom == 0 or value.denominator != 1:
            return None
        return value + Fraction(int(top), bottom)
    return value


def exact(text: str) -> Fraction | None:
    """The exact value of a text that is a number; a percentage counts in hundredths.

    >>> str(exact("50%")), exact("half")
    ('1/2', None)
    """
    number = read_number(text.strip())
    if number is None or number.digits:
        return None
    return number.value / 100 if number.percent else number.value


def same_number(left: Number, right: Number, *, figures: int = 6) -> bool | None:
    """Whether two numbers are equal; None where the writing leaves it open.

    A decimal of at least `figures` significant digits stands for any number that rounds to it:
    `0.333333` for one third, `1.41421` for the root of two; not `0.33`, and no integer.

    >>> same_number(read_number("0.5"), read_number("1/2"))
    True
    >>> same_number(read_number("0.33"), read_number("1/3"))
    False
    >>> same_number(read_number("50%"), read_number("50"))
    True
    """
    if left.digits or right.digits:
        return left.digits == right.digits
    first, second = unit_of(left), unit_of(right)
    if first is not None and second is not None and not units.fit(first, second):
        return False
    a, b = left.value, right.value
    if first is not None and second is not None and first.factor != second.factor:
        a, b = a * first.factor, b * second.factor
    equal = a == b
    if not equal and left.places != right.places:
        shorter, value = (left, b) if _shorter(left, right) else (right, a)
        equal = rounds_to(shorter, value, figures)
    if left.percent != right.percent:
        part, whole, other = (left, a, b) if left.percent else (right, b, a)
        equal = equal or whole / 100 == other or rounds_to(part, 100 * other, figures)
    if equal:
        return True
    return False if left.sure and right.sure else None


def _shorter(left: Number, right: Number) -> bool:
    """Whether the left one is the decimal that could stand for the other."""
    if left.places is None or right.places is None:
        return left.places is not None
    return left.places < right.places


def unit_of(number: Number) -> units.Unit | None:
    """The unit of a number, where it has one that a table knows."""
    return units.read_unit(number.unit) if number.unit else None


def rounds_to(number: Number, value: Fraction, figures: int) -> bool:
    """Whether `number` is a decimal of enough figures to which `value` is rounded or cut."""
    if number.places is None or number.figures < figures:
        return False
    return stands_for(number.value, number.places, number.figures, value)


def stands_for(shown: Fraction, places: int, figures: int, value: Fraction) -> bool:
    """Whether a decimal is `value` rounded to its places, cut off there, or shown as a double.

    >>> pi = Fraction("3.14159265358979")
    >>> stands_for(Fraction("3.14159"), 5, 6, pi), stands_for(Fraction("3.14160"), 5, 6, pi)
    (True, False)
    """
    if shown.denominator == 1:
        return False
    gap: Fraction = (value - shown) * Fraction(10) ** places
    if 2 * abs(gap) <= 1 or (figures >= 15 and abs(gap) <= 1):
        return True
    return 0 < (gap if shown > 0 else -gap) < 1
