"""A run in a process of its own that can be killed at any moment, started in milliseconds.

A fork server imports torch and the trainer once; each run is a fork of it.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from grpo_train.config import Config, load_config
from grpo_train.config_text import dump_config


def drive(path: str) -> None:
    """Start the run of a config file or go on with it, until it is done."""
    import torch

    from grpo_train.session import resume, start
    from grpo_train.train import train

    torch.set_num_threads(1)
    config = load_config(Path(path))
    folder = Path(config.runs) / config.name
    train(resume(folder) if (folder / "run.json").exists() else start(config))


def spawn(config: Config, folder: Path) -> BaseProcess:
    """The run, going."""
    path = folder / "killed.toml"
    path.write_bytes(dump_config(config))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed_run", "grpo_train.train", "grpo_train.demo"])
    process = context.Process(target=drive, args=(str(path),))
    process.start()
    return process


def steps_done(run: Path) -> int:
    """Lines of metrics so far."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def cut(process: BaseProcess, run: Path, lines: int, number: int, delay_s: float) -> int:
    """Send a signal some time after `lines` more lines of metrics; the exit code."""
    goal = steps_done(run) + lines
    while process.is_alive() and steps_done(run) < goal:
        time.sleep(0.002)
    time.sleep(delay_s)
    if process.is_alive() and process.pid is not None:
        os.kill(process.pid, number)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def kill_at_random(config: Config, folder: Path, run: Path, rng: random.Random) -> int:
    """Go on and die by SIGKILL, in the middle of whatever it does."""
    process = spawn(config, folder)
    return cut(process, run, rng.randint(0, 3), signal.SIGKILL, rng.uniform(0, 0.15))


def stop_and_kill(process: BaseProcess, run: Path, rng: random.Random) -> str:
    """Let it go on for some lines, ask it to stop, and kill it soon, while it saves, or never."""
    goal = steps_done(run) + rng.randint(1, 4)
    while process.is_alive() and steps_done(run) < goal:
        time.sleep(0.002)
    left = set(run.glob("checkpoints/.*"))  # of an earlier kill
    how = rng.choice(["soon", "saving", "never"])
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, number)
        while how == "saving" and process.is_alive() and left >= set(run.glob("checkpoints/.*")):
            time.sleep(0.0005)
        process.join(None if how == "never" else rng.uniform(0, 0.1))
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return how if process.exitcode else "never"
