"""Units beside the parts of an answer, taken off its tree."""

from __future__ import annotations

from typing import Final

from grpo_rewards.rules.math import units
from grpo_rewards.rules.math.latex.tree import Term, ops

DEGREE: Final = units.read_unit("degree")


def without_units(node: Term) -> tuple[Term, units.Unit | None]:
    """The tree without notes and the unit that they name, if any does."""
    if not ops(node) & {"note", "degrees"}:
        return node, None
    found: list[units.Unit] = []
    return _stripped(node, found, inside=False), found[-1] if found else None


def _stripped(node: Term, found: list[units.Unit], *, inside: bool) -> Term:
    if node.op == "note":
        unit = units.read_unit(node.args[1])
        if unit is not None:
            found.append(unit)
        return _stripped(node.args[0], found, inside=inside)
    if node.op == "degrees" and not inside:
        if DEGREE is not None:
            found.append(DEGREE)
        return _stripped(node.args[0], found, inside=inside)
    inside = inside or node.op == "fn"
    parts = (_stripped(p, found, inside=inside) if isinstance(p, Term) else p for p in node.args)
    return Term(node.op, tuple(parts))
