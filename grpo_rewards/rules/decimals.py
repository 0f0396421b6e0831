"""Numbers as people write them → exact fractions. Text is read, never evaluated."""

from __future__ import annotations

import re
from fractions import Fraction

from grpo_rewards.limits import MAX_NUMBER_CHARS

_UNICODE = str.maketrans("−–，．％０１２３４５６７８９", "--,.%0123456789")
_CURRENCY = re.compile(r"^([-+]?)\s*(?:\\?\$|€|£|¥|USD|EUR)\s*|\s*(?:\\?\$|€|£|dollars?|cents?)$")
_WHOLE = r"\d{1,3}(?:,\d{3})+|\d+"
_PLAIN = re.compile(rf"([-+]?)({_WHOLE})?(?:\.(\d*))?(?:[eE]([-+]?\d{{1,4}}))?\s*(\\?%)?")
_RATIO = re.compile(rf"([-+]?)({_WHOLE})\s*/\s*({_WHOLE})")
_MIXED = re.compile(r"([-+]?)(\d+)\s+(\d+)\s*/\s*(\d+)")
_FRAC = re.compile(r"([-+]?)\s*(\d*)\s*\\[dtc]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")


def exact(text: str) -> Fraction | None:
    r"""The number that a text is, as a whole; None where it is something else.

    >>> [str(exact(t)) for t in ("1,234.50", "-3/6", "2 1/2", r"\frac{1}{3}", "50%", "$18", "1e3")]
    ['2469/2', '-1/2', '5/2', '1/3', '1/2', '18', '1000']
    """
    text = text.strip().translate(_UNICODE).strip("$").strip()
    if len(text) > MAX_NUMBER_CHARS:
        return None
    text = _CURRENCY.sub(lambda found: found[1] or "", text).strip()
    for pattern, read in ((_MIXED, _mixed), (_RATIO, _ratio), (_FRAC, _frac), (_PLAIN, _plain)):
        found = pattern.fullmatch(text)
        if found:
            return read(found)
    return None


def _whole(digits: str) -> int:
    return int(digits.replace(",", "") or "0")


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _mixed(found: re.Match[str]) -> Fraction | None:
    sign, whole, top, bottom = found.groups()
    if not int(bottom):
        return None
    return _signed(sign, int(whole) + Fraction(int(top), int(bottom)))


def _ratio(found: re.Match[str]) -> Fraction | None:
    sign, top, bottom = found.groups()
    return _signed(sign, Fraction(_whole(top), _whole(bottom))) if _whole(bottom) else None


def _frac(found: re.Match[str]) -> Fraction | None:
    sign, whole, top, bottom = found.groups()
    if not int(bottom):
        return None
    return _signed(sign, _whole(whole) + Fraction(int(top), int(bottom)))


def _plain(found: re.Match[str]) -> Fraction | None:
    sign, whole, decimals, exponent, percent = found.groups()
    if whole is None and not decimals:
        return None
    value = Fraction(_whole(whole or "0"))
    if decimals:
        value += Fraction(int(decimals), 10 ** len(decimals))
    if exponent:
        value *= Fraction(10) ** int(exponent)
    return _signed(sign, value / 100 if percent else value)
