"""The report of a run: its curves, its alarms, and samples with the trees of their rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpo_rewards as gr
from grpo_train.config import load_config
from grpo_train.errors import ConfigError
from grpo_train.scoring import find_beside

#: Charts: the start of their metrics' names, and their heading.
SECTIONS = (("reward", "Reward"), ("score/", "Scores"), ("eval/", "Held out"), ("", "Training"))
TRAINING = len(SECTIONS) - 1
INTERVAL = ("eval/pass_at_1", "eval/low", "eval/high")
STILL = 1e-6  # relative change below which a curve is flat: rounding errors are smaller
MAX_SAMPLES = 200  # in the table, the newest: they show where a run went

Rows = Sequence[Mapping[str, Any]]


def run_report(folder: Path, metrics: Rows, samples: Rows, alarms: Rows) -> gr.Report:
    """The page of a run folder, from the lines of its logs."""
    last = metrics[-1]["step"] if metrics else 0
    report = gr.Report(folder.name, facts={"steps": str(last), "samples": f"{len(samples):,}"})
    found = series(metrics)
    training = {name: points for name, points in found.items() if _place(name)[0] == TRAINING}
    if still := {name: points[0][1] for name, points in training.items() if _is_still(points)}:
        report.facts["always"] = ", ".join(
            f"{name} {round(still[name], 5) + 0.0:g}" for name in sorted(still)
        )
    for name in sorted(found.keys() - still.keys(), key=_place):
        if name in INTERVAL[1:]:
            continue  # drawn with the value whose bounds they are
        shown = INTERVAL if name == INTERVAL[0] else (name,)
        report.curves(SECTIONS[_place(name)[0]][1], {key: found.get(key, []) for key in shown})
    report.notes = [f"step {row['step']}: {row['text']}" for row in alarms]
    rows = [_row(i, sample) for i, sample in enumerate(samples)][-MAX_SAMPLES:]
    _explain(report, folder, rows, samples)
    report.rows(rows)
    return report


def write_report(folder: Path, metrics: Rows, samples: Rows, alarms: Rows) -> Path:
    """`report.html` in the run folder; ConfigError where the package that draws is missing."""
    try:
        return run_report(folder, metrics, samples, alarms).write(folder / "report.html")
    except gr.RewardError as error:
        raise ConfigError(str(error)) from error


def series(metrics: Rows) -> dict[str, list[tuple[float, float]]]:
    """Points (step, value) of every metric that has any, without nulls."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in metrics:
        for name, value in row.items():
            if name != "step" and value is not None:
                found.setdefault(name, []).append((row["step"], value))
    return found


def _is_still(points: Sequence[tuple[float, float]]) -> bool:
    """Whether a metric is constant up to rounding, and so says nothing in a chart."""
    values = [value for _, value in points]
    return len(values) > 1 and max(values) - min(values) <= STILL * max(1.0, abs(values[0]))


def _place(name: str) -> tuple[int, str]:
    return next(i for i, (start, _) in enumerate(SECTIONS) if name.startswith(start)), name


def _row(number: int, sample: Mapping[str, Any]) -> gr.ReportRow:
    known = {"step": sample["step"], "advantage": sample.get("advantage")}
    gold = sample.get("gold")
    return gr.ReportRow(
        number,
        sample["completion"],
        {"reward": sample["reward"], **sample["scores"], **known},
        sample.get("status", {}),
        prompt=sample["prompt"],
        gold=None if gold is None else str(gold),
    )


def _explain(report: gr.Report, folder: Path, rows: Sequence[gr.ReportRow], samples: Rows) -> None:
    """Add trees of rewards and places where formats break, if the ruleset can still be loaded and
    its inputs are in the samples."""
    try:
        reward = load_config(folder / "config.toml").reward
        if reward.allow_extern:
            find_beside(reward.ruleset)  # where the functions are; the folder has the text only
        path, allow = folder / "ruleset.reward", reward.allow_extern
        with gr.load(path, params=dict(reward.params), allow_extern=allow) as scorer:
            for row in rows:
                row.explain(scorer, samples[row.row])
            report.formats(scorer, samples)
    except (gr.RewardError, ConfigError):
        return  # samples lack some columns of the batch; the table has their scores all the same
