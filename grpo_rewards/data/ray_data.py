"""Ray: datasets of Ray Data scored by one scorer per actor, and files by actors of a cluster.

    import grpo_rewards.data.ray_data as distributed

    scored = distributed.score(ray.data.read_parquet("completions/"), "rulesets/gsm8k.reward")

Needs the extra `ray`; the nodes of a cluster need `grpo-rewards` too.
"""

from __future__ import annotations

import itertools
import pickle
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_rewards.data.bindings import BATCH_ROWS
from grpo_rewards.data.frames import group_ids, no_group_column, score_table
from grpo_rewards.data.group_ids import group_digest
from grpo_rewards.data.processes import Pending
from grpo_rewards.data.reader import lookup
from grpo_rewards.errors import BatchError, RewardError
from grpo_rewards.scoring.scorer import Scorer, load
from grpo_rewards.scoring.scores import Scores

_BATCHES_EACH = 2  # in flight for every actor: one that it works on, one that waits for it
_PART = "__part"  # the column that says which part a row is dealt to


def score(
    dataset: Any,
    ruleset: Scorer | str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    group: str | None = None,
    step: float | None = None,
    progress: float | None = None,
    status: bool = True,
    batch_rows: int = BATCH_ROWS,
    actors: int | tuple[int, int] | None = None,
    parts: int = 32,
    cpus_per_actor: float = 1,
) -> Any:
    """A `ray.data.Dataset` with its scores behind its own columns, one scorer per actor.

    `columns`, `group`, `step`, `progress` and `status` are those of `frames.score_frame`. `actors`
    is their number, or (least, most). A ruleset that looks at whole groups has its rows dealt into
    `parts` by the `group` column, and they come back in another order; a part must fit into one
    actor.
    """
    ray = _ray()
    scorer = ruleset if isinstance(ruleset, Scorer) else load(ruleset)
    if scorer.needs_groups and group is None:
        raise no_group_column()
    if actors is None:
        actors = (1, max(1, int(_cpus(ray) / cpus_per_actor)))
    options: dict[str, Any] = {"columns": columns, "group": group, "status": status}
    options |= {"step": step, "progress": progress}
    run: dict[str, Any] = {
        "fn_constructor_args": (_packed(scorer), options),
        "batch_format": "pyarrow",
        "num_cpus": cpus_per_actor,
        "concurrency": actors,
    }
    if not scorer.needs_groups:
        return dataset.map_batches(_TableScorer, batch_size=batch_rows, **run)
    dealt = dataset.map_batches(_deal, batch_format="pyarrow", fn_args=(str(group), parts))
    return dealt.groupby(_PART, num_partitions=parts).map_groups(_TableScorer, **run)


class _TableScorer:
    """What an actor does: Arrow tables in, with scores out."""

    def __init__(self, packed: tuple[list[str], bytes], options: Mapping[str, Any]) -> None:
        self._scorer = _unpacked(packed)
        self._options = dict(options)

    def __call__(self, table: Any) -> Any:
        if _PART in table.column_names:
            table = table.drop_columns([_PART])
        return score_table(table, self._scorer, **self._options)


def _deal(table: Any, group: str, parts: int) -> Any:
    """Every row with the number of its part; equal group ids have equal ones everywhere."""
    import pyarrow as pa

    top = group if group in table.column_names else group.partition(".")[0]
    if top not in table.column_names:
        names = ", ".join(table.column_names) or "none"
        raise BatchError(f"no column `{group}`; the dataset has {names}")
    keys = group_ids([lookup(row, group) for row in table.select([top]).to_pylist()], group)
    numbers = [int.from_bytes(group_digest(key), "little") % parts for key in keys]
    return table.append_column(_PART, pa.array(numbers, pa.int64()))


class RayActors:
    """Actors that score the batches of a file; a `processes.BatchExecutor`.

    Joins the cluster at `address`, or the one that this program is in already, or starts one on
    this machine. `actors` defaults to one per CPU. Use it as a context manager, or call `close`.
    """

    def __init__(
        self, scorer: Scorer, *, actors: int | None = None, address: str | None = None
    ) -> None:
        ray = _ray()
        self._ours = not ray.is_initialized()
        if self._ours:
            _join(ray, address, actors)
        count = actors or max(1, int(_cpus(ray)))
        self.ahead = _BATCHES_EACH * count
        remote = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(_BatchScorer)
        packed = ray.put(_packed(scorer))
        self._actors = [remote.remote(packed) for _ in range(count)]
        self._turn = itertools.cycle(self._actors)

    def submit(self, columns: Mapping[str, Any]) -> Pending:
        return _Remote(next(self._turn).score.remote(dict(columns)))

    def close(self) -> None:
        """End the actors, and the cluster where it was started here."""
        ray = _ray()
        for actor in self._actors:
            ray.kill(actor)
        if self._ours:
            ray.shutdown()

    def __enter__(self) -> RayActors:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _BatchScorer:
    def __init__(self, packed: tuple[list[str], bytes]) -> None:
        self._scorer = _unpacked(packed)

    def score(self, columns: Mapping[str, Any]) -> Scores:
        return self._scorer(**columns)


class _Remote:
    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def result(self) -> Scores:
        ray = _ray()
        try:
            scores: Scores = ray.get(self._reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, RewardError):
                raise error.cause from None
            raise
        except ray.exceptions.RayActorError as error:
            hint = "see the logs of its node; a node needs grpo-rewards, and memory"
            cause = str(error).strip().splitlines()[0]
            raise RewardError(f"a scoring actor died: {cause}", hint=hint) from None
        return scores


def _packed(scorer: Scorer) -> tuple[list[str], bytes]:
    """A scorer, with the path on which the modules of its `extern` functions are found."""
    return sys.path, pickle.dumps(scorer)


def _unpacked(packed: tuple[list[str], bytes]) -> Scorer:
    path, scorer = packed
    sys.path += [entry for entry in path if entry not in sys.path]
    found: Scorer = pickle.loads(scorer)
    return found


def _join(ray: Any, address: str | None, actors: int | None) -> None:
    """The cluster at an address, or one of this machine alone."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        ray.init(address="local", num_cpus=actors, include_dashboard=False, **quiet)
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():  # Ray itself would try for a minute
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            cause = error.strerror or str(error)
            raise RewardError(f"no Ray cluster at {address}: {cause}") from None
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        cause = str(error).strip().splitlines()[0]
        raise RewardError(f"no Ray cluster at {address}: {cause}") from None


def _cpus(ray: Any) -> float:
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    return float(ray.cluster_resources().get("CPU", 1))


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        hint = 'pip install "grpo-rewards[ray]"'
        raise RewardError("Ray is not installed", hint=hint) from None
    return ray
