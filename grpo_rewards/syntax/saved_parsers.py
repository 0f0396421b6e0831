"""Parser tables, saved beside their grammars: loading one takes 15 ms, building one 200 to 500.

A saved table names the version of Lark and the grammar that it was made from; where either differs,
the grammar is compiled instead. After changing a grammar: `make tables`.
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


def load_parser(name: str, compile: Callable[[str], Lark], **options: Any) -> Lark:
    """The parser of `grammars/NAME.lark`: from its saved table, else by `compile(grammar)`.

    `options` are those that a table cannot hold, such as a transformer.
    """
    parser = saved_parser(name, **options)
    return parser if parser is not None else compile(grammar_text(name))


def grammar_text(name: str) -> str:
    """The text of `grammars/NAME.lark`."""
    return (GRAMMARS / f"{name}.lark").read_text("utf-8")


def saved_parser(name: str, **options: Any) -> Lark | None:
    """The parser from the saved table; None where no table fits the grammar and this Lark."""
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
    """The version of Lark and the hash of a grammar: the line that a saved table begins with."""
    digest = hashlib.sha256(grammar_text(name).encode()).hexdigest()
    return f"{lark.__version__}:{digest}"


def save_parser(name: str, compile: Callable[[str], Lark]) -> None:
    """Compile a grammar and save its table beside it."""
    table = io.BytesIO()
    compile(grammar_text(name)).save(table)
    content = fingerprint(name).encode("ascii") + b"\n" + table.getvalue()
    (GRAMMARS / f"{name}.table").write_bytes(content)
