"""Wherever rows are scored, they score alike: files, frames, Dask, a Ray cluster of two nodes."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from typer.testing import CliRunner

import grpo_rewards as gr
from grpo_rewards.cli.main import app
from grpo_rewards.data.frames import frame_schema, score_frame

ray = pytest.importorskip("ray")

from grpo_rewards.data import ray_data  # noqa: E402 - after Ray is known to be there

BOXED = ROOT / "examples" / "boxed.reward"
GROUPED = """
input completion: chat
score long = text.length(completion)
score best = long == group.max(long)
reward = 1 * best
"""
ADDED = [f"{name}{end}" for end in ("", "_status") for name in ("correct", "brief", "reward")]
ANSWERS = [
    r"\boxed{3}",
    "3",
    r"\boxed{\frac{9}{3}}",
    r"\boxed{4}",
    "",
    r"x \boxed{3.0}",
    "\\boxed{",
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = 80 * 2**20
        found = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": store}
        )
        found.add_node(num_cpus=1, object_store_memory=store)
        ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield found
        ray.shutdown()
        found.shutdown()


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return [
        {
            "id": i,
            "prompt": f"p{i // 4}",
            "completion": ANSWERS[i % 7] + "." * (i % 3),
            "answer": "3",
        }
        for i in range(120)
    ]


@pytest.fixture
def data(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def _command(ruleset: Path, data: Path, out: Path, *more: str) -> None:
    result = CliRunner().invoke(app, ["score", str(ruleset), str(data), "-o", str(out), *more])
    assert result.exit_code == 0, result.output


def _scores(rows: list[dict[str, Any]], names: list[str]) -> list[Any]:
    return [[row[name] for name in ("id", *names)] for row in sorted(rows, key=lambda r: r["id"])]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_two_nodes_give_the_file_that_one_process_gives(cluster: Any, data: Path) -> None:
    assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    one, two = data.with_name("one.jsonl"), data.with_name("two.jsonl")
    _command(BOXED, data, one)
    _command(BOXED, data, two, "--engine", "ray", "--processes", "2")
    assert one.read_bytes() == two.read_bytes()


def test_groups_give_the_same_file_on_two_nodes(cluster: Any, data: Path) -> None:
    ruleset = data.with_name("groups.reward")
    ruleset.write_text(GROUPED, "utf-8")
    one, two = data.with_name("one.jsonl"), data.with_name("two.jsonl")
    _command(ruleset, data, one, "--group", "prompt")
    _command(ruleset, data, two, "--group", "prompt", "--engine", "ray")
    assert one.read_bytes() == two.read_bytes()


def test_jsonl_parquet_pandas_dask_and_ray_give_equal_scores(
    cluster: Any, data: Path, rows: list[dict[str, Any]]
) -> None:
    import pandas as pd
    import pyarrow.parquet as pq

    dd = pytest.importorskip("dask.dataframe")
    _command(BOXED, data, out := data.with_name("o.jsonl"))
    expected = _scores(_lines(out), ADDED)

    pq.write_table(_table(rows), data.with_suffix(".parquet"))
    _command(BOXED, data.with_suffix(".parquet"), out := data.with_name("o.parquet"))
    assert _scores(pq.read_table(out).to_pylist(), ADDED) == expected

    frame = pd.DataFrame(rows)
    with gr.load(BOXED, workers=0) as scorer:
        assert _framed(frame, score_frame(frame, scorer)) == expected
        parts = dd.from_pandas(frame, npartitions=5)
        dask = parts.map_partitions(score_frame, scorer, meta=frame_schema(scorer))
        assert _framed(frame, dask.compute(scheduler="threads")) == expected

    for dataset in (ray.data.from_pandas(frame).repartition(7), ray.data.read_json(str(data))):
        found = ray_data.score(dataset, BOXED, batch_rows=16).take_all()
        assert _scores(found, ADDED) == expected


def _table(rows: list[dict[str, Any]]) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist(rows)


def _framed(frame: Any, scores: Any) -> list[Any]:
    plain = frame.join(scores).astype(object)
    return _scores(plain.where(plain.notna(), None).to_dict("records"), ADDED)


def test_groups_are_brought_together_on_ray(cluster: Any, rows: list[dict[str, Any]]) -> None:
    import pandas as pd

    names = ["long", "best", "reward"]
    shuffled = pd.DataFrame(rows).sample(frac=1, random_state=0)
    with gr.loads(GROUPED) as scorer:
        whole = scorer(
            completion=[row["completion"] for row in rows], group=[row["prompt"] for row in rows]
        ).to_columns()
        expected = [[i, *(whole[name][i] for name in names)] for i in range(len(rows))]
        dataset = ray.data.from_pandas(shuffled).repartition(5)
        found = ray_data.score(dataset, scorer, group="prompt", parts=3).take_all()
        with pytest.raises(gr.BatchError, match="looks at whole groups"):
            ray_data.score(dataset, scorer)
    assert _scores(found, names) == expected
    assert set(found[0]) == {*rows[0], *names, *(f"{name}_status" for name in names)}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_scorer_works_inside_a_task(cluster: Any, workers: int) -> None:
    path, batch = str(BOXED), {"completion": [r"\boxed{\sin^2 a + \cos^2 a}"], "gold": ["1"]}

    def task() -> tuple[Any, str]:
        with gr.load(path, workers=workers) as scorer:
            return scorer(**batch).to_columns(), scorer.hash

    with gr.load(BOXED) as scorer:
        assert ray.get(ray.remote(task).remote()) == (scorer(**batch).to_columns(), scorer.hash)


def test_a_scorer_travels_into_tasks(cluster: Any) -> None:
    with gr.load(BOXED) as scorer:
        score = ray.remote(lambda it: it(completion=[r"\boxed{1}"], gold=["1"]).reward.tolist())
        assert ray.get(score.remote(scorer)) == [1.0]


def test_a_bad_row_is_told_as_in_one_process(cluster: Any, data: Path) -> None:
    lines = data.read_text("utf-8").splitlines()
    lines[30] = '{"id": 30, "prompt": 1, "completion": 5.5, "answer": "3"}'
    data.write_text("\n".join(lines), "utf-8")
    shown = []
    for more in ([], ["--engine", "ray"]):
        result = CliRunner().invoke(app, ["score", str(BOXED), str(data), *more])
        assert result.exit_code == 1
        shown.append(str(result.exception))
    assert shown[0] == shown[1] and "data.jsonl:31:" in shown[0]


def test_a_cluster_that_is_not_there_is_said_at_once(data: Path, tmp_path: Path) -> None:
    program = (
        "from grpo_rewards.cli.main import main; main()"  # of its own: here Ray may be connected
    )
    more = ["-o", str(tmp_path / "x.jsonl"), "--engine", "ray", "--address", "127.0.0.1:1"]
    command = [sys.executable, "-c", program, "score", str(BOXED), str(data), *more]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert found.returncode and "no Ray cluster at 127.0.0.1:1" in found.stderr
