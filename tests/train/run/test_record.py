"""A run folder loses at most its last line, and a report is one page."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np

from grpo_train.data import Prompts
from grpo_train.run.record import Record, environment
from grpo_train.run.report import run_report
from grpo_train.scoring import Scored


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.metrics(1, {"a": math.nan, "b": math.inf, "c": 1.5})
    assert record.read() == [{"step": 1, "a": None, "b": None, "c": 1.5}]


def test_a_line_cut_short_is_forgotten(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.metrics(1, {"a": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "a"')
    assert [row["step"] for row in record.read()] == [1]
    record.truncate(5)
    record.metrics(2, {"a": 2.0})
    assert [row["step"] for row in record.read()] == [1, 2]


def test_a_resumed_run_does_not_write_a_step_twice(tmp_path: Path) -> None:
    record = Record(tmp_path)
    for step in range(1, 6):
        record.metrics(step, {"a": float(step)})
    record.truncate(3)
    assert [row["step"] for row in record.read()] == [1, 2, 3]


def test_samples_hold_any_text(tmp_path: Path) -> None:
    texts = ["a\ud800b", "\x00", "𝄞", "\n\u2028"]
    scored = Scored(
        np.array([1.0, math.nan, 0.0, 0.5]),
        {"s": np.array([1.0, math.nan, 0.0, 0.5])},
        {"s": ["ok", "missing", "ok", "ok"]},
        texts,
    )
    record = Record(tmp_path)
    record.samples(1, Prompts(["p"], [[1]], [{"gold": "g"}]), scored, [0.0] * 4)
    rows = record.read("samples.jsonl")
    assert [row["completion"] for row in rows] == texts
    assert rows[1]["reward"] is None
    assert rows[1]["status"] == {"s": "missing"}


def test_the_report_draws_every_metric_and_holds_hostile_samples(tmp_path: Path) -> None:
    rows = [{"step": i, "reward": i / 3, "score/<b>": 1.0, "eval/x": None} for i in range(5)]
    sample = {"step": 1, "prompt": "p", "completion": "</script><b>\ud800", "gold": "9"}
    sample |= {"reward": None, "advantage": 0.0, "scores": {"s": 1.0}, "status": {"s": "missing"}}
    alarm = {"step": 2, "alarm": "hacking", "text": "a < b", "rows": [1, 1]}
    last = {"step": 4, "eval/pass_at_1": 0.5}
    page = run_report(tmp_path, [*rows, last], [sample], [alarm]).html()
    data = json.loads(re.findall(r'id="data">(.*?)</script>', page)[0])
    # a metric that is never there is not drawn
    assert [c["title"] for c in data["charts"]] == ["reward", "score/<b>", "eval/pass_at_1"]
    assert [row["completion"] for row in data["rows"]] == ["</script><b>\ud800"]
    assert "step 2: a &lt; b" in page
    assert page.count("<b>\ud800") == 0


def test_the_environment_can_be_written_down() -> None:
    found = json.loads(json.dumps(environment()))
    assert {"torch", "transformers", "python"} <= set(found["versions"])
