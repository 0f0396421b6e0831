"""How literals and operators are written. Knows no node: every node writes itself with these."""

from __future__ import annotations

import re

# How tightly each construct binds, loosest first; the same ladder as in grammars/reward.lark.
TERNARY, PIPE, COALESCE, OR, AND, NOT, COMPARE, SUM, PRODUCT, UNARY, POWER, POSTFIX = range(12)

#: Operator → (its own level, the level its left side needs, the level its right side needs).
INFIX = {
    "??": (COALESCE, COALESCE, OR),
    "or": (OR, OR, AND),
    "and": (AND, AND, NOT),
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), (COMPARE, SUM, SUM)),
    "+": (SUM, SUM, PRODUCT),
    "-": (SUM, SUM, PRODUCT),
    "*": (PRODUCT, PRODUCT, UNARY),
    "/": (PRODUCT, PRODUCT, UNARY),
    "**": (POWER, POSTFIX, UNARY),
}

#: Words that cannot be names. (The keywords of statements can be, inside expressions.)
RESERVED = frozenset(
    ("if", "else", "and", "or", "not", "in", "matches", "true", "false", "null", "case")
)


def show_literal(value: float | int | bool | str | None) -> str:
    """The literal of a constant."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return show_string(value, long=True)
    # Python writes 1e+16 and 1e-07 where the language writes 1e16 and 1e-7.
    text = re.sub(r"e\+?(-?)0*", r"e\1", repr(value))
    return text.removesuffix(".0")


def show_string(text: str, *, long: bool = False) -> str:
    r"""A string literal. A backslash stands for itself except before `"`, `\` and `x{`.

    With `long`, a text of several lines is written between triple quotes where that is possible.

    >>> print(show_string(r'\boxed{42} "x"'), show_string("a\tb"))
    "\boxed{42} \"x\"" "a\x{9}b"
    """
    if long and "\n" in text and not _needs_escapes(text):
        return f'"""{text}"""'
    return '"' + re.sub(r'\\|"|[^ -~]', _escape, text) + '"'


def _needs_escapes(text: str) -> bool:
    hidden = any(not char.isprintable() and char not in "\n\t" for char in text)
    return hidden or text.endswith('"') or '"""' in text


def _escape(match: re.Match[str]) -> str:
    """The escape of a character that would not stand for itself or could not be seen: controls,
    line ends, lone surrogates, spaces other than U+0020."""
    char, behind = match[0], match.string[match.end() : match.end() + 2]
    if char == "\\":
        plain = behind and behind[0] not in '"\\' and behind != "x{" and behind[0].isprintable()
        return char if plain else "\\\\"
    if char == '"':
        return '\\"'
    return char if char.isprintable() else f"\\x{{{ord(char):x}}}"
