"""Metrics to TensorBoard, wandb and trackio, each through its own library."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_train.config import Config, TrackerName
from grpo_train.config_text import flat_config
from grpo_train.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Tracker:
    """An open tracker: `log` sends a step's metrics, `close` ends it."""

    log: Callable[[int, dict[str, float]], None]
    close: Callable[[], None]


def open_trackers(config: Config, folder: Path, step: int) -> list[Tracker]:
    """The trackers of `log.to`; those of a resumed run go on after `step`."""
    found = []
    for name in config.log.to:
        try:
            found.append(TRACKERS[name](config, folder, step))
        except ImportError as error:
            raise ConfigError(f"{error}: pip install {name} - at `log.to`") from error
    return found


def _tensorboard(config: Config, folder: Path, step: int) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def log(step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    return Tracker(log, writer.close)


def _wandb(config: Config, folder: Path, step: int) -> Tracker:
    import wandb

    # The id is that of the folder, so that a resumed run is the same one under another name too.
    ident = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()
    run = wandb.init(
        project=config.log.project,
        name=config.name,
        id=ident,
        resume="allow",
        dir=str(folder),
        config=flat_config(config),
    )
    return Tracker(lambda step, metrics: run.log(metrics, step=step), run.finish)


def _trackio(config: Config, folder: Path, step: int) -> Tracker:
    import trackio

    run = trackio.init(
        project=config.log.project,
        name=config.name,
        resume="allow",
        config=flat_config(config),
        embed=False,
    )
    return Tracker(lambda step, metrics: run.log(metrics, step=step), run.finish)


TRACKERS: dict[TrackerName, Callable[[Config, Path, int], Tracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
