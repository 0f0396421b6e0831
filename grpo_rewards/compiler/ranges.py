"""The range of every number of a graph, by interval arithmetic and a split of cases."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from grpo_rewards.compiler.graph import Graph, GraphNode
from grpo_rewards.limits import MAX_RANGE_ATOMS, MAX_RANGE_WORK
from grpo_rewards.types import EVERYTHING, NOTHING, UNIT, Interval, Level, union


def tight_interval(graph: Graph, root: int) -> Interval:
    """The range of a node, sharper than its own interval.

    Interval arithmetic takes two uses of one value for two values. So each bool that is used more
    than once is assumed true everywhere, then false everywhere, and the ranges of all cases are
    united: `p + (1 - p)` is 1, not 0..2.
    """
    order = graph.reachable([root])
    atoms = _shared_atoms(graph, order)
    while atoms and len(order) * 2 ** len(atoms) > MAX_RANGE_WORK:
        atoms.pop()
    results = []
    for truths in itertools.product((0.0, 1.0), repeat=len(atoms)):
        assumed = {atom: Interval(t, t) for atom, t in zip(atoms, truths, strict=True)}
        results.append(_intervals(graph, order, assumed)[root])
    found = union(results)
    return EVERYTHING if found == NOTHING else found


def _shared_atoms(graph: Graph, order: Sequence[int]) -> list[int]:
    """The bools that are used in more than one place, at most MAX_RANGE_ATOMS."""
    uses: dict[int, int] = {}
    for number in order:
        for arg in graph[number].args:
            uses[arg] = uses.get(arg, 0) + 1
    shared = (n for n in order if graph[n].type.kind == "bool" and uses.get(n, 0) > 1)
    return [n for n in shared if graph[n].op not in ("const", "not")][:MAX_RANGE_ATOMS]


def _intervals(
    graph: Graph, order: Sequence[int], assumed: Mapping[int, Interval]
) -> dict[int, Interval]:
    """The interval of every node where the values of some are assumed. What follows from a node's
    arguments overrides an assumption about it, so assumptions cannot contradict each other."""
    found: dict[int, Interval] = {}
    for number in order:
        node = graph[number]
        if node.rule is not None and node.rule.level == Level.GROUP:
            found[number] = (
                node.interval
            )  # an assumption about this row says nothing about the others
            continue
        inferred = node_interval(node, [found[arg] for arg in node.args])
        found[number] = inferred if inferred.is_point else assumed.get(number, inferred)
    return found


def node_interval(node: GraphNode, args: Sequence[Interval]) -> Interval:
    """The interval of one node from those of its arguments.

    Text and the like have EVERYTHING. The word `null` has NOTHING, so that `x if c else null` keeps
    the range of `x`.
    """
    if node.type.kind == "null":
        return NOTHING
    if not node.type.is_numeric:
        return EVERYTHING
    if node.op not in ("if", "??", "settle") and NOTHING in args:
        if _is_strict(node, args):
            return NOTHING
        args = [EVERYTHING if arg == NOTHING else arg for arg in args]
    match node.op:
        case "const" | "input":
            return node.interval
        case "if":
            condition, yes, no = args
            if condition.is_point:
                return yes if condition.lo else no
            return yes.union(no)
        case "and":
            return Interval(min(args[0].lo, args[1].lo), min(args[0].hi, args[1].hi))
        case "or":
            return Interval(max(args[0].lo, args[1].lo), max(args[0].hi, args[1].hi))
        case "??":
            return args[0].union(args[1])
        case "settle":
            values = [v for _, v in node.option("on_error") if isinstance(v, int | float)]
            return union([args[0], *(Interval(v, v) for v in values)])
    assert node.rule is not None
    result = node.rule.range(args, dict(node.options))
    return UNIT if node.type.kind == "bool" and not UNIT.covers(result) else result


def _is_strict(node: GraphNode, args: Sequence[Interval]) -> bool:
    """Whether a node is always null because one of its arguments is."""
    if node.rule is None or node.rule.level != Level.CONST:  # a group's other rows may have one
        return False
    types = node.rule.types(len(args))
    return any(a == NOTHING and not t.nullable for a, t in zip(args, types, strict=True))
