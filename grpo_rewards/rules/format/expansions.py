"""How many alternatives a Lark grammar writes out, counted before Lark does.

Lark multiplies choices inside a sequence: twenty times `("a"|"b")` in a row are a million rules.
"""

from __future__ import annotations

import math
from typing import Any

_FACTORED = 50  # Lark writes out smaller counted repeats, and factors larger ones


def written_out(grammar: str) -> int:
    """The alternatives of all rules of a grammar together; LarkError where it does not parse."""
    from lark.load_grammar import GrammarBuilder

    builder: Any = GrammarBuilder()
    builder.load_grammar(grammar, "<format>")
    rules = (found for found in builder._definitions.values() if not found.is_term)
    return sum(_count(rule.tree) for rule in rules if rule.tree is not None)


def _count(tree: Any) -> int:
    """The alternatives that one part of a rule becomes."""
    counts = [_count(part) for part in tree.children if hasattr(part, "children")]
    match tree.data:
        case "expansions":
            return sum(counts)
        case "expansion" | "alias":
            return math.prod(counts)
        case "maybe":
            return sum(counts) + 1
        case "expr":
            return _repeated(counts[0] if counts else 1, [str(part) for part in tree.children[1:]])
    return 1


def _repeated(inner: int, signs: list[str]) -> int:
    """`inner` alternatives under `?`, `*`, `+`, `~ 3` or `~ 1..9`."""
    if signs[0] != "~":
        return inner + 1 if signs[0] == "?" else 2
    low, high = int(signs[1]), int(signs[-1])
    return 2 if high >= _FACTORED else sum(inner**times for times in range(low, high + 1))
