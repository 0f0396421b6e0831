"""The run folder: what was asked, what it ran with, what came out.

runs/<name>/
  config.toml        every field, resolved
  ruleset.reward     the canonical text, beside it the files that it names
  run.json           ruleset hash, versions, hardware, git state, command
  metrics.jsonl      one object a step; evaluations have their own lines
  samples.jsonl      one group a step, with its scores and statuses; rows that show an alarm
  alarms.jsonl       what went wrong, and where in samples.jsonl it shows
  *.1.jsonl          the logs of a first try that ended before its first checkpoint
  checkpoints/       step-000050/ …
  model/             the trained policy, a Hugging Face directory
  report.html        curves, alarms, samples with their trees; self-contained
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from grpo_train import distributed
from grpo_train.config import Config
from grpo_train.config_text import dump_config
from grpo_train.data import Prompts
from grpo_train.errors import ConfigError
from grpo_train.run.checkpoint import flush
from grpo_train.run.report import write_report
from grpo_train.run.trackers import Tracker, open_trackers
from grpo_train.scoring import Scored

PACKAGES = "grpo-rewards torch transformers tokenizers peft vllm numpy lark sympy".split()
LOGS = ("metrics.jsonl", "samples.jsonl", "alarms.jsonl")


class Record:
    """The logs of a run folder; every line is flushed, so a killed run loses one at most."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.trackers: list[Tracker] = []
        self.quiet = distributed.rank() > 0  # the first process writes

    def check_free(self) -> None:
        """Refuse a folder that already holds a run."""
        if self._logs() or any(self.checkpoints.glob("*step-*")):
            raise ConfigError(
                f"{self.folder} holds a run already - at `name`\n"
                f"hint: grpo-train resume {self.folder}, or another name"
            )

    def create(self, config: Config, scorer: Any) -> None:
        """Set up the folder of a new run."""
        if self.quiet:
            return
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.toml").write_bytes(dump_config(config))
        scorer.save(self.folder / "ruleset.reward")
        facts = {"ruleset_hash": scorer.hash, "engine": dict(scorer.versions)} | environment()
        (self.folder / "run.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        self.trackers = open_trackers(config, self.folder, 0)

    def restart(self, config: Config, step: int) -> None:
        """Go on after `step`: drop later lines, and write the config as it is now."""
        if not self.quiet:
            _replace(self.folder / "config.toml", dump_config(config).decode())
            self.truncate(step)
            self.trackers = open_trackers(config, self.folder, step)
        distributed.barrier()

    def metrics(self, step: int, values: dict[str, float]) -> dict[str, Any]:
        """Append to `metrics.jsonl`, null for what is not finite; the line as it will be read."""
        row = {"step": step} | {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._append("metrics.jsonl", [row])
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for tracker in self.trackers:
            tracker.log(step, finite)
        return row

    def samples(
        self,
        step: int,
        prompts: Prompts,
        scored: Scored,
        advantage: Sequence[float],
        *,
        rows: Sequence[int] | None = None,
        alarm: str = "",
    ) -> None:
        """Append rows of a rollout batch to `samples.jsonl`: its first group, or `rows`."""
        size = len(scored.texts) // len(prompts)
        found = []
        for i in range(size) if rows is None else rows:
            scores = {name: _number(column[i]) for name, column in scored.scores.items()}
            status = {n: c[i] for n, c in scored.status.items() if c[i] != "ok"}
            row: dict[str, Any] = {"step": step} | ({"alarm": alarm} if alarm else {})
            row |= {"prompt": prompts.text[i // size], "completion": scored.texts[i]}
            row |= {
                "gold": prompts.rows[i // size].get("gold"),
                "reward": _number(scored.reward[i]),
            }
            found.append(row | {"advantage": advantage[i], "scores": scores, "status": status})
        self._append("samples.jsonl", found)

    def alarm(self, name: str, step: int, text: str, rows: int) -> tuple[int, int] | None:
        """Append to `alarms.jsonl`; the first and last line of its `rows` in `samples.jsonl`."""
        if self.quiet:
            return None
        last = (self.folder / "samples.jsonl").read_bytes().count(b"\n")
        place = (last - rows + 1, last) if rows else None
        self._append("alarms.jsonl", [{"step": step, "alarm": name, "text": text, "rows": place}])
        return place

    def truncate(self, step: int) -> None:
        """Drop all lines after a step, which a resumed run will write again."""
        for path in self._logs():
            kept = [line for line in _whole_lines(path) if line["step"] <= step]
            _replace(path, "".join(_line(row) for row in kept))

    def reached(self) -> int:
        """The last step in any log."""
        return max((row["step"] for path in self._logs() for row in _whole_lines(path)), default=0)

    def put_aside(self) -> list[str]:
        """Rename the logs of a run that starts again, if they hold any step; the new names."""
        if not self.reached():
            return []
        number = 1
        while list(self.folder.glob(f"*.{number}.jsonl")):
            number += 1
        found = {path: path.with_suffix(f".{number}.jsonl") for path in self._logs()}
        if not self.quiet:
            for path, aside in found.items():
                path.rename(aside)
        return [aside.name for aside in found.values()]

    def flush(self) -> None:
        """Force the logs to the disk: a checkpoint must not be ahead of them."""
        for path in [] if self.quiet else self._logs():
            flush(path)

    def read(self, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
        """The lines of a log."""
        path = self.folder / name
        return _whole_lines(path) if path.exists() else []

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self.trackers:
            tracker.close()
        self.trackers = []

    def report(self) -> Path:
        """Write `report.html`: curves, alarms and samples with their trees; self-contained."""
        logs = [self.read(name) for name in LOGS]
        return write_report(self.folder, *logs)

    def _logs(self) -> list[Path]:
        """The logs that exist."""
        return [path for name in LOGS if (path := self.folder / name).exists()]

    def _append(self, name: str, rows: list[dict[str, Any]]) -> None:
        if self.quiet:
            return
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write("".join(_line(row) for row in rows))


def _replace(path: Path, text: str) -> None:
    """Write a file atomically: a killed process leaves the old one or the new one."""
    draft = path.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    flush(draft)
    draft.replace(path)


def _line(row: dict[str, Any]) -> str:
    # A completion may hold lone surrogates, which UTF-8 refuses: JSON's escapes do not.
    return json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, without a last one that was cut short."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def environment() -> dict[str, Any]:
    """Versions, hardware and git state, on which results depend."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    cuda = torch.cuda.is_available()
    return {
        "versions": versions | {"python": platform.python_version()},
        "hardware": {
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "processes": distributed.size(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if cuda else None,
        },
        "git": {"commit": _git("rev-parse", "HEAD"), "dirty": bool(_git("status", "--porcelain"))},
        "command": sys.argv,
    }


def _git(*arguments: str) -> str:
    """The output of a git command; "" where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
