"""A reward as a weighted sum of its scores, where it is one."""

from __future__ import annotations

from grpo_rewards.compiler.graph import Graph


def weights_of(graph: Graph) -> dict[str, float] | None:
    """The weight of every score in the reward, 0 for one that it does not use; None where the
    reward is not a weighted sum of the named scores, without a constant."""
    reward = graph.columns["reward"]
    scores = {name: number for name, number in graph.columns.items() if name != "reward"}
    names = {number: name for name, number in reversed(scores.items())}  # the first of equal ones
    found = _sum(graph, names, reward if reward in names else graph[reward].args[0])
    return None if found is None else {name: found.get(name, 0.0) for name in scores}


def _sum(graph: Graph, names: dict[int, str], number: int) -> dict[str, float] | None:
    if number in names:
        return {names[number]: 1.0}
    node = graph[number]
    if node.op == "neg":
        return _scaled(_sum(graph, names, node.args[0]), -1.0)
    if node.op in ("+", "-"):
        left, right = (_sum(graph, names, arg) for arg in node.args)
        right = _scaled(right, 1.0 if node.op == "+" else -1.0)
        if left is None or right is None:
            return None
        return {n: left.get(n, 0.0) + right.get(n, 0.0) for n in {**left, **right}}
    if node.op == "*":
        one, two = node.args
        factor, other = (one, two) if graph[one].op == "const" else (two, one)
        return _scaled(_sum(graph, names, other), _number(graph, factor))
    if node.op == "/":
        divisor = _number(graph, node.args[1])
        return _scaled(_sum(graph, names, node.args[0]), 1 / divisor if divisor else None)
    return None


def _number(graph: Graph, number: int) -> float | None:
    node = graph[number]
    if node.op != "const" or node.type.kind != "num" or node.value is None:
        return None
    return float(node.value)


def _scaled(terms: dict[str, float] | None, factor: float | None) -> dict[str, float] | None:
    if terms is None or factor is None:
        return None
    return {name: factor * weight for name, weight in terms.items()}
