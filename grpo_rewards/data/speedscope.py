"""Where the time of a run went, as a profile that speedscope shows (https://speedscope.app).

The file follows speedscope's own format: one weighted sample per op, under the score that asked
for it, under the stage of the run. Times are sums over all batches, so the order of samples means
nothing: look at the views "left heavy" and "sandwich".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grpo_rewards.compiler.graph import Graph
from grpo_rewards.data.statistics import Totals
from grpo_rewards.errors import OutputError

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def stacks(totals: Totals, graph: Graph) -> list[tuple[tuple[str, ...], float]]:
    """(stage, score, op) with the seconds spent there; shorter stacks for what no op accounts for.

    The seconds of all stacks add up to those of the stages.
    """
    found: list[tuple[tuple[str, ...], float]] = []
    inside = 0.0
    for op in totals.ops(graph):
        name = f"%{op.number} {op.does}"
        found.append((("score", op.score, name), op.stats.seconds))
        inside += op.stats.seconds
    rest = {**totals.stages, "score": max(0.0, totals.stages["score"] - inside)}
    return [*found, *(((stage,), seconds) for stage, seconds in rest.items())]


def speedscope(totals: Totals, graph: Graph) -> dict[str, Any]:
    """The profile as a value of JSON."""
    places: dict[str, int] = {}
    samples, weights = [], []
    for stack, seconds in stacks(totals, graph):
        samples.append([places.setdefault(name, len(places)) for name in stack])
        weights.append(seconds)
    return {
        "$schema": _SCHEMA,
        "shared": {"frames": [{"name": name} for name in places]},
        "profiles": [
            {
                "type": "sampled",
                "name": f"{graph.name or 'ruleset'}, {totals.rows:,} rows",
                "unit": "seconds",
                "startValue": 0,
                "endValue": sum(weights),
                "samples": samples,
                "weights": weights,
            }
        ],
        "name": graph.name or "ruleset",
        "activeProfileIndex": 0,
        "exporter": "grpo-rewards",
    }


def write_profile(path: Path, totals: Totals, graph: Graph) -> None:
    """Write the profile. OutputError where the file cannot be written."""
    try:
        path.write_text(json.dumps(speedscope(totals, graph)) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None
