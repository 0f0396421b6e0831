"""Parser tables saved beside their grammars: building one takes 200 to 500 ms, loading one 15.

A saved table names Lark's version and the grammar that it was made of; where either differs the
grammar is compiled instead. After changing a grammar: `make tables`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lark
from lark import Lark

GRAMMARS = Path(__file__).parent.parent / "grammars"


def load(name: str, compile: Callable[[str], Lark], **options: Any) -> Lark:
    """The parser of `grammars/NAME.lark`: from its table, or by `compile(grammar)`.

    `options` are those that a table cannot hold (a transformer, say).
    """
    table = saved(name, **options)
    return table if table is not None else compile(grammar_text(name))


def grammar_text(name: str) -> str:
    return (GRAMMARS / f"{name}.lark").read_text("utf-8")


def saved(name: str, **options: Any) -> Lark | None:
    """The parser from the saved table; None where there is none for this grammar and Lark."""
    path = GRAMMARS / f"{name}.table"
    if not path.is_file():
        return None
    found, _, table = path.read_bytes().partition(b"\n")
    if found.decode("ascii", "replace") != fingerprint(name):
        return None
    parser = Lark.__new__(Lark)
    parser._load(io.BytesIO(table), **options)
    return parser


def fingerprint(name: str) -> str:
    """What a saved table has to match."""
    digest = hashlib.sha256(grammar_text(name).encode()).hexdigest()
    return f"{lark.__version__}:{digest}"


def save(name: str, compile: Callable[[str], Lark]) -> None:
    """Write the table of a grammar beside it."""
    table = io.BytesIO()
    compile(grammar_text(name)).save(table)
    content = fingerprint(name).encode("ascii") + b"\n" + table.getvalue()
    (GRAMMARS / f"{name}.table").write_bytes(content)
