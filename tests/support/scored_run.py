"""`grpo-rewards score` in a process of its own that can be killed, started in milliseconds."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from grpo_rewards.scoring.memo import code_digest
from grpo_rewards.scoring.workers.pool import close_fork_server

code_digest()  # of the code that is loaded, whatever is edited while tests run

RULESET = """
input completion: chat
input gold: text from "answer"
score correct = math.equal(extract.boxed(completion), gold)
score tags = format.tags(completion, "think", "answer")
reward = 0.9 * correct + 0.1 * tags
check some: dataset.mean(reward) >= 0
"""
GROUPED = """
input completion: chat
input gold: text from "answer"
input n: num
score correct = math.equal(extract.boxed(completion), gold)
score brevity = group.length_relative(n, correct=correct) ?? 0
reward = correct + 0.1 * brevity
check spread: group.fraction_zero_std(reward) <= 1
"""


def make_rows(count: int, *, slow_every: int = 0) -> list[dict[str, Any]]:
    """Rows in groups of 1 to 9, some right, some null; every so often one that needs a worker."""
    rng, rows, group = random.Random(0), [], 0
    while len(rows) < count:
        group += 1
        for _ in range(rng.randint(1, 9)):
            i, gold = len(rows), rng.randint(0, 99)
            answer = rng.choice([gold, gold, rng.randint(0, 99), ""])
            text = f"<think>{'so ' * rng.randint(0, 90)}{i}</think><answer>\\boxed{{{answer}}}"
            row: dict[str, Any] = {"id": i, "g": group, "completion": text, "answer": str(gold)}
            if slow_every and i % slow_every == 0:
                row["completion"] = f"\\boxed{{\\{{x: x^2={i + 2}\\}}}}"
                row["answer"] = f"\\{{\\sqrt{{{i + 2}}},-\\sqrt{{{i + 2}}}\\}}"
            rows.append({**row, "n": rng.randint(1, 500), "extra": {"k": i} if i % 3 else {}})
    return rows[:count]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def command(arguments: list[str], errors: str) -> None:
    """What the program does, with its messages in a file."""
    from grpo_rewards.cli.main import main

    code: Any = 130
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with open(errors, "w") as sink:
            os.dup2(sink.fileno(), 2)
            os.dup2(sink.fileno(), 1)
        sys.argv = ["grpo-rewards", *arguments]
        main()
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:  # before the program began, or after its end
        code = 130
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    close_fork_server()  # a forked copy runs no exit handlers
    os._exit(code or 0)


def start(arguments: list[object], errors: Path) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scored_run", "grpo_rewards.cli.main", "pyarrow.parquet"])
    process = context.Process(target=command, args=([*map(str, arguments)], str(errors)))
    process.start()
    return process


def below(pid: int) -> list[int]:
    """All processes below one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == pid:
            child = int(path.parent.name)
            found += [child, *below(child)]
    return found


def disturb(process: BaseProcess, rng: random.Random, patience_s: float) -> str:
    """After some time, kill or interrupt the run, or kill a process of its."""
    time.sleep(rng.uniform(0, patience_s))
    assert process.pid is not None
    what = rng.choice(["kill", "interrupt", "worker"])
    target, number = process.pid, signal.SIGKILL
    if what == "worker":
        target = next(iter(rng.sample(found := below(process.pid), min(1, len(found)))), 0)
    elif what == "interrupt":
        number = signal.SIGINT
    if target and process.is_alive():
        try:
            os.kill(target, number)
        except ProcessLookupError:
            what = "late"
    process.join()
    return what


def survive(
    arguments: list[object], kills: int, folder: Path, patience_s: float, rng: random.Random
) -> list[str]:
    """Run until `kills` disturbances came, over and over, then to the end; what happened."""
    happened: list[str] = []
    errors = folder / "errors.txt"
    for _ in range(kills):
        process = start([*arguments, "--resume"], errors)
        happened.append(disturb(process, rng, patience_s))
        assert "Traceback" not in errors.read_text(), errors.read_text()
        assert process.exitcode in (0, 130, -signal.SIGKILL, -signal.SIGINT), errors.read_text()
    process = start([*arguments, "--resume"], errors)
    process.join()
    assert process.exitcode == 0, errors.read_text()
    return happened
