"""A file is the same to the byte, however many processes scored it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from typer.testing import CliRunner

import grpo_rewards as gr
from grpo_rewards.cli.main import app
from grpo_rewards.data.file_scoring import Task, score_file
from grpo_rewards.data.processes import Processes
from grpo_rewards.scoring.dataset_checks import Checks

BOXED = ROOT / "examples" / "boxed.reward"
GROUPED = """
input completion: chat
score long = text.length(completion)
score best = long == group.max(long)
reward = 1 * best
"""


def _alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _data(path: Path, rows: int) -> Path:
    lines = (
        {
            "id": i,
            "prompt": i // 4,
            "completion": rf"so {'x' * (i % 7)} \boxed{{{i % 5}}}",
            "answer": 3,
        }
        for i in range(rows)
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


@pytest.mark.parametrize("batch_rows", [3, 64])
def test_processes_give_the_file_that_one_gives(tmp_path: Path, batch_rows: int) -> None:
    data = _data(tmp_path / "data.jsonl", 200)
    task = Task(batch_rows=batch_rows)
    with gr.load(BOXED) as scorer, Processes(scorer, 2) as engine:
        alone = score_file(scorer, data, tmp_path / "a.jsonl", task)
        shared = score_file(scorer, data, tmp_path / "b.jsonl", task, executor=engine)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    for one, other in zip(alone.summary(scorer.graph), shared.summary(scorer.graph), strict=True):
        assert (one.name, one.rows, one.mean, one.std, one.null) == (
            other.name, other.rows, other.mean, other.std, other.null,
        )  # fmt: skip


def test_groups_stay_whole_in_processes(tmp_path: Path) -> None:
    data = _data(tmp_path / "data.jsonl", 200)
    task = Task(batch_rows=6, group="prompt")
    with gr.loads(GROUPED) as scorer, Processes(scorer, 2) as engine:
        score_file(scorer, data, tmp_path / "a.parquet", task)
        score_file(scorer, data, tmp_path / "b.parquet", task, executor=engine)
    import pyarrow.parquet as pq

    assert pq.read_table(tmp_path / "a.parquet").equals(pq.read_table(tmp_path / "b.parquet"))


def test_a_bad_row_is_told_by_its_place_and_what_stood_before_it_is_kept(tmp_path: Path) -> None:
    data = _data(tmp_path / "data.jsonl", 60)
    lines = data.read_text("utf-8").splitlines()
    lines[40] = '{"completion": 5.5e3, "answer": [1]}'
    data.write_text("\n".join(lines), "utf-8")
    messages = []
    with gr.load(BOXED) as scorer, Processes(scorer, 2) as engine:
        for where in (None, engine):
            with pytest.raises(gr.BatchError) as error:
                score_file(scorer, data, tmp_path / "o.jsonl", Task(batch_rows=8), executor=where)
            messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert "data.jsonl:41:" in messages[0] and "40 scored rows are kept" in messages[0]


def test_an_unreadable_line_costs_no_more_than_in_one_process(tmp_path: Path) -> None:
    data = _data(tmp_path / "data.jsonl", 40)
    data.write_text(data.read_text("utf-8") + '{"completion": "cut', "utf-8")
    messages = []
    with gr.load(BOXED) as scorer, Processes(scorer, 2) as engine:
        for where in (None, engine):
            with pytest.raises(gr.BatchError, match=r"data\.jsonl:41") as error:
                score_file(scorer, data, tmp_path / "o.jsonl", Task(batch_rows=8), executor=where)
            messages.append(str(error.value))
    assert messages[0] == messages[1] and "32 scored rows are kept" in messages[0]


def test_checks_of_a_dataset_stay_in_one_process(tmp_path: Path) -> None:
    data = _data(tmp_path / "data.jsonl", 8)
    text = BOXED.read_text("utf-8") + "\ncheck some: dataset.mean(reward) >= 0\n"
    with (
        gr.loads(text) as scorer,
        Processes(scorer, 2) as engine,
        pytest.raises(gr.BatchError, match="in one process"),
    ):
        score_file(scorer, data, None, checks=Checks(scorer), executor=engine)


def _pids(engine: Processes) -> list[int]:
    return [worker.pid for worker in engine._workers._idle]


def test_the_work_of_a_process_that_dies_is_done_again(tmp_path: Path) -> None:
    data = _data(tmp_path / "data.jsonl", 400)
    task = Task(batch_rows=8)
    with gr.load(BOXED) as scorer, Processes(scorer, 2) as engine:
        score_file(scorer, data, tmp_path / "a.jsonl", task)
        assert len(engine.submit({"completion": ["x"], "gold": ["1"]}).result()) == 1
        for pid in _pids(engine):
            os.kill(pid, signal.SIGKILL)
        score_file(scorer, data, tmp_path / "b.jsonl", task, executor=engine)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


SLOW = r"""
input completion: text
format slow = lark'''
  start: T
  T: /(a+)+b/
'''
score fits = match(slow, completion).ok
reward = fits
policy { timeout 1s }
"""


def test_a_slow_check_is_cut_short_in_its_row_alone() -> None:
    with gr.loads(SLOW) as scorer, Processes(scorer, 2) as engine:
        scores = engine.submit({"completion": ["aab", "a" * 40 + "c", "ab", "c"]}).result()
    assert scores.status["fits"] == ["ok", "timeout", "ok", "ok"]
    assert scores["fits"].tolist()[0::2] == [1, 1] and scores["fits"][3] == 0


KILLED = """
import sys
import grpo_rewards as gr
from grpo_rewards.data.processes import Processes

if __name__ == "__main__":
    engine = Processes(gr.load(sys.argv[1]), 2)
    pending = [engine.submit({"completion": ["x"], "gold": ["1"]}) for _ in range(4)]
    for one in pending:
        one.result()
    print(*(worker.pid for worker in engine._workers._idle), flush=True)
    sys.stdin.read()
"""


def test_no_process_outlives_a_killed_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(KILLED, "utf-8")
    with subprocess.Popen(
        [sys.executable, str(program), str(BOXED)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        assert run.stdout is not None
        pids = [int(pid) for pid in run.stdout.readline().split()]
        assert len(pids) == 2 and all(_alive(pid) for pid in pids)
        os.kill(run.pid, signal.SIGKILL)
    for _ in range(600):
        if not any(_alive(pid) for pid in pids):
            return
        time.sleep(0.1)
    raise AssertionError("processes were left behind")


def test_the_command_takes_processes_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    data = _data(tmp_path / "data.jsonl", 30)
    score = ["score", str(BOXED), str(data), "-o"]
    for name, more in (("a.jsonl", []), ("b.jsonl", ["--processes", "2"])):
        result = CliRunner().invoke(app, [*score, str(tmp_path / name), *more])
        assert result.exit_code == 0, result.output
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    out = str(tmp_path / "c.jsonl")
    assert CliRunner().invoke(app, [*score, out, "--engine", "spark"]).exit_code == 2
    assert CliRunner().invoke(app, [*score, out, "--address", "auto"]).exit_code == 2
