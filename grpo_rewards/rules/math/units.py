"""Units of measure: which words are one, their dimension and their size.

A unit is a product of powers of base dimensions and a factor; `km/h`, `cm^2` and `square meters`
are read word by word. A word that no table knows (`apples`) is a note and says nothing.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Final, NamedTuple

from grpo_rewards.limits import MAX_UNIT_CHARS, MAX_UNITS


class Unit(NamedTuple):
    """`factor` in base units, `dimension` as sorted (base, power) pairs."""

    factor: Fraction
    dimension: tuple[tuple[str, int], ...]


def _unit(factor: str, **powers: int) -> Unit:
    return Unit(Fraction(factor), tuple(sorted(powers.items())))


_BASE: Final[dict[str, Unit]] = {}


def _add(names: str, unit: Unit) -> None:
    for name in names.split():
        _BASE[name] = unit


_add("m meter meters metre metres", _unit("1", length=1))
_add("km kilometer kilometers kilometre kilometres", _unit("1000", length=1))
_add("cm centimeter centimeters centimetre centimetres", _unit("0.01", length=1))
_add("mm millimeter millimeters millimetre millimetres", _unit("0.001", length=1))
_add("dm decimeter decimeters", _unit("0.1", length=1))
_add("nm nanometer nanometers", _unit("1e-9", length=1))
_add("in inch inches", _unit("0.0254", length=1))
_add("ft foot feet", _unit("0.3048", length=1))
_add("yd yard yards", _unit("0.9144", length=1))
_add("mi mile miles", _unit("1609.344", length=1))
_add("s sec secs second seconds", _unit("1", time=1))
_add("ms millisecond milliseconds", _unit("0.001", time=1))
_add("min mins minute minutes", _unit("60", time=1))
_add("h hr hrs hour hours", _unit("3600", time=1))
_add("day days", _unit("86400", time=1))
_add("week weeks", _unit("604800", time=1))
_add("month months", _unit("1", months=1))
_add("year years yr yrs", _unit("12", months=1))
_add("g gram grams gm", _unit("0.001", mass=1))
_add("kg kilogram kilograms kilo kilos", _unit("1", mass=1))
_add("mg milligram milligrams", _unit("1e-6", mass=1))
_add("ton tons tonne tonnes", _unit("1000", mass=1))
_add("lb lbs pound pounds", _unit("0.45359237", mass=1))
_add("oz ounce ounces", _unit("0.028349523125", mass=1))
_add("L l liter liters litre litres", _unit("0.001", length=3))
_add("mL ml milliliter milliliters millilitre millilitres cc", _unit("1e-6", length=3))
_add("gallon gallons gal", _unit("0.003785411784", length=3))
_add("quart quarts", _unit("0.000946352946", length=3))
_add("pint pints", _unit("0.000473176473", length=3))
_add("cup cups", _unit("0.0002365882365", length=3))
_add("N newton newtons", _unit("1", length=1, mass=1, time=-2))
_add("J joule joules", _unit("1", length=2, mass=1, time=-2))
_add("kJ", _unit("1000", length=2, mass=1, time=-2))
_add("W watt watts", _unit("1", length=2, mass=1, time=-3))
_add("kW", _unit("1000", length=2, mass=1, time=-3))
_add("Pa", _unit("1", length=-1, mass=1, time=-2))
_add("Hz hertz", _unit("1", time=-1))
_add("mph", _unit("0.44704", length=1, time=-1))
_add("kmh kph", Unit(Fraction(5, 18), (("length", 1), ("time", -1))))
_add("dollar dollars USD usd bucks", _unit("1", dollar=1))
_add("cent cents", _unit("0.01", dollar=1))
_add("euro euros EUR €", _unit("1", euro=1))
_add("rupee rupees Rs", _unit("1", rupee=1))
_add("yuan", _unit("1", yuan=1))
_add("degree degrees deg", _unit("1", degree=1))
_add("celsius", _unit("1", celsius=1))
_add("fahrenheit", _unit("1", fahrenheit=1))
_add("yen", _unit("1", yen=1))
_add("mol moles mole", _unit("1", amount=1))
_add("mmol", _unit("0.001", amount=1))
_add("kelvin kelvins", _unit("1", kelvin=1))
_add("ampere amperes amp amps", _unit("1", current=1))
_add("volt volts", _unit("1", length=2, mass=1, time=-3, current=-1))
_add("ohm ohms", _unit("1", length=2, mass=1, time=-3, current=-2))
_add("coulomb coulombs", _unit("1", current=1, time=1))
_add("micrometer micrometers micron microns", _unit("1e-6", length=1))
_add("MW", _unit("1e6", length=2, mass=1, time=-3))
_add("kV", _unit("1000", length=2, mass=1, time=-3, current=-1))
_add("mA", _unit("0.001", current=1))
_add("kPa", _unit("1000", length=-1, mass=1, time=-2))
_add("MPa", _unit("1e6", length=-1, mass=1, time=-2))
_add("MJ", _unit("1e6", length=2, mass=1, time=-2))
_add("kWh kwh", _unit("3600000", length=2, mass=1, time=-2))
_add("kHz", _unit("1000", time=-1))
_add("MHz", _unit("1e6", time=-1))
_add("GHz", _unit("1e9", time=-1))
_add("radian radians rad", _unit("1", radian=1))
_add("acre acres", _unit("4046.8564224", length=2))
_add("hectare hectares ha", _unit("10000", length=2))
_NOTES: Final = frozenset(
    "units unit square squared cubic cubed sq cu ways way people students books apples points "
    "point times time pages dots coins marbles pieces items hours' total left remaining feet "
    "each only combinations numbers values integers solutions games cookies boys girls children "
    "eggs flowers trees cars tickets per am pm AM PM".split()
)
_WORDS: Final = re.compile(r"[A-Za-z€]+|\^\{?\s*(-?\d)\s*\}?|[/*·]|\S")
_POWERS: Final = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}


def is_word(word: str) -> bool:
    """Whether a word of two letters or more is a unit or a common note after a number."""
    return len(word) > 1 and (word in _BASE or word.lower() in _BASE or word.lower() in _NOTES)


def read_unit(text: str) -> Unit | None:
    """The unit that a text names, or None: no unit, or words that no table knows.

    >>> read_unit("km/h") == read_unit("kilometers per hour")
    True
    >>> read_unit("apples") is None
    True
    """
    return None if len(text) > MAX_UNIT_CHARS else _read(text)


@lru_cache(maxsize=MAX_UNITS)
def _read(text: str) -> Unit | None:
    factor, powers, sign, pending, seen = Fraction(1), dict[str, int](), 1, 1, False
    last: Unit | None = None
    for found in _WORDS.finditer(text.replace("\\", " ").replace(".", " ")):
        word = found[0]
        if word in ("/", "per"):
            sign, last = -1, None
        elif word.startswith("^") and found[1] and last is not None:
            factor, powers = _raise(factor, powers, last, sign * (int(found[1]) - 1))
        elif word.lower() in _POWERS:
            if last is not None and word.lower() in ("squared", "cubed"):
                factor, powers = _raise(factor, powers, last, sign * (_POWERS[word.lower()] - 1))
            else:
                pending = _POWERS[word.lower()]
        elif word.isalpha() and (unit := _BASE.get(word) or _BASE.get(word.lower())):
            factor, powers = _raise(factor, powers, unit, sign * pending)
            last, pending, seen = unit, 1, True
        elif word.isalpha() or word in "€":
            return None
    dimension = tuple(sorted((name, power) for name, power in powers.items() if power))
    return Unit(factor, dimension) if seen else None


def fit(left: Unit, right: Unit) -> bool:
    """Whether two units measure the same; a degree may be one of temperature.

    >>> fit(read_unit("degrees"), read_unit("celsius")), fit(read_unit("m"), read_unit("s"))
    (True, False)
    """
    pair = {left.dimension, right.dimension}
    return len(pair) == 1 or (_DEGREE in pair and bool(pair & _TEMPERATURES))


_DEGREE: Final = _BASE["degree"].dimension
_TEMPERATURES: Final = {_BASE[name].dimension for name in ("celsius", "fahrenheit", "kelvin")}


def _raise(
    factor: Fraction, powers: dict[str, int], unit: Unit, power: int
) -> tuple[Fraction, dict[str, int]]:
    power = max(-6, min(6, power))  # no unit has more, and factors stay small
    merged = dict(powers)
    for name, count in unit.dimension:
        merged[name] = merged.get(name, 0) + count * power
    return factor * unit.factor**power, merged
