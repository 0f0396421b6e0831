"""Several gloo processes of one run on this machine, without torchrun's start-up time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def _enter(rank: int, size: int, port: int, function: Callable[..., None], args: Any) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    torch.set_num_threads(1)
    function(*args)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def run(size: int, function: Callable[..., None], *args: Any) -> None:
    """Call a function of a module in `size` processes; all must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed_run", "processes", "grpo_train.train"])
    started = [
        context.Process(target=_enter, args=(rank, size, port, function, args))
        for rank in range(size)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(600)  # a hang; a busy machine may take minutes
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in started] == [0] * size


def one_step(config: Any, out: Path) -> None:
    """The first step's whole gradient, its metrics, and what was drawn."""
    from grpo_train import distributed
    from grpo_train.session import start
    from grpo_train.train import train_step

    session = start(config)
    metrics = train_step(session)
    gradient = {
        name: distributed.whole(parameter.grad).clone()
        for name, parameter in session.policy.model.named_parameters()
        if parameter.grad is not None
    }
    if distributed.size() > 1 and config.shard_size != 1:
        parts: list[Any] = list(session.policy.model.parameters())
        assert sum(p.to_local().numel() for p in parts) < 0.6 * sum(p.numel() for p in parts)
    assert session.progress.drawn is not None and session.progress.batch is not None
    if distributed.rank() == 0:
        drawn = (session.progress.drawn.scored.texts, session.progress.drawn.scored.reward.tolist())
        torch.save((gradient, metrics, drawn, session.progress.drawn.advantage), out)


def whole_run(path: str, steps: int) -> None:
    """Start or resume the run of a config file, until some step."""
    from grpo_train.config import load_config
    from grpo_train.session import resume, start
    from grpo_train.train import train

    config = load_config(Path(path))
    folder = Path(config.runs) / config.name
    begun = (folder / "run.json").exists()
    session = resume(folder) if begun else start(config)

    def stop(step: int, _: dict[str, float]) -> None:
        if step == steps:
            raise SystemExit(0)

    train(session, stop)


def stopped_runs(folders: list[Path], moments: list[tuple[str, int]]) -> None:
    """A run of each folder's config, SIGTERM to one of the processes, to each in turn, after a
    part of the loop has done its work for some step; how it ended, in every process."""
    from grpo_train import distributed, session, train
    from grpo_train.config import load_config
    from grpo_train.run import signals

    owners = {"evaluate_session": train, "raised": train, "save": train, "agreed": signals.Stop}
    for i, (folder, (name, step)) in enumerate(zip(folders, moments, strict=True)):
        run = session.start(load_config(folder / "config.toml"))
        real, saved = getattr(owners[name], name), []

        def part(*args: Any) -> Any:
            found = real(*args)  # noqa: B023
            if (run.progress.step, distributed.rank()) == (step, i % 2):  # noqa: B023
                os.kill(os.getpid(), signal.SIGTERM)
            return found

        def keep(run: Any) -> Path:
            saved.append(run.progress.step)  # noqa: B023
            return session.save(run)

        train.save = keep
        real = getattr(owners[name], name)
        setattr(owners[name], name, part)
        result = train.train(run)
        setattr(owners[name], name, real)
        end = f"{result.stopped} after {result.steps}, saved {saved}"
        (folder / f"{distributed.rank()}.txt").write_text(end)
