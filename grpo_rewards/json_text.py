"""JSON as bytes and as values: what lenient readers take, and only what every reader takes.

Data come as they are: with lone surrogates, NaN and integers of any length. What is written is
JSON by the letter, in which those have no place.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import orjson

_LONG_INTEGER = b"0" * 19  # orjson makes floats of integers beyond 64 bits
_DIGITS_AS_0 = bytes.maketrans(b"123456789", b"000000000")


def read_value(text: bytes) -> Any:
    """The value of a JSON text. ValueError (of which UnicodeDecodeError is one) or RecursionError
    where it has none.

    orjson reads it, and the standard library what orjson refuses (lone surrogates, NaN) or rounds.
    """
    if _LONG_INTEGER not in text.translate(_DIGITS_AS_0):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            pass
    return json.loads(text.decode("utf-8", "surrogatepass"))


def read_object(text: bytes) -> dict[str, Any]:
    """The object of a JSON text; empty where it is something else, or no JSON."""
    try:
        value = read_value(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def write_value(value: Any) -> bytes:
    """A value as strict JSON on one line, without its end."""
    try:
        return orjson.dumps(value, default=_plain)
    except TypeError:  # lone surrogates, integers beyond 64 bits, keys that are not text
        return json.dumps(json_safe(value), separators=(",", ":")).encode()


def is_strict(text: bytes) -> bool:
    """Whether every reader takes a text that `read_value` takes."""
    if b"NaN" not in text and b"Infinity" not in text:
        try:
            text.decode("utf-8")
        except UnicodeDecodeError:
            return False
        return True
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def json_safe(value: Any) -> Any:
    """A value out of what JSON has words for: null for numbers that are not finite, text or numbers
    for the types of Parquet and numpy. Lone surrogates stay; `json.dumps` escapes them."""
    if value is None or isinstance(value, str | int):  # bool is an int
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return json_safe(_plain(value))


def _plain(value: Any) -> Any:
    """A value that JSON has no word for, as one that it has."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return str(value)
    if hasattr(value, "total_seconds"):
        return value.total_seconds()
    if hasattr(value, "tolist"):
        return value.tolist()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
