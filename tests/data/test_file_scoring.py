"""One file, one set of scores: however it is cut, stored, remembered or shared out."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scored_run
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import grpo_rewards as gr
from grpo_rewards.cli.main import app
from grpo_rewards.data.file_scoring import Stopped, Task, score_file
from grpo_rewards.data.processes import Processes
from grpo_rewards.data.reader import Shard
from grpo_rewards.data.speedscope import speedscope, stacks
from grpo_rewards.data.statistics import Totals
from grpo_rewards.report.scores_page import scores_report
from grpo_rewards.scoring.dataset_checks import Checks

RULESETS = {"rows": scored_run.RULESET, "groups": scored_run.GROUPED}
ROWS = scored_run.make_rows(240, slow_every=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows as JSON lines and as Parquet, and their scores in `rows.json`, `groups.json`."""
    found = tmp_path_factory.mktemp("scoring")
    scored_run.write_rows(found / "data.jsonl", ROWS)
    pq.write_table(pa.Table.from_pylist(ROWS), found / "data.parquet", row_group_size=50)
    for name, text in RULESETS.items():
        with gr.loads(text, workers=0) as scorer:
            columns = {key: [row[key] for row in ROWS] for key in ("completion", "answer", "n")}
            scores = scorer(**columns, group=[row["g"] for row in ROWS])
            (found / f"{name}.json").write_text(json.dumps(scores.to_columns()))
    return found


def columns_of(path: Path, names: list[str]) -> dict[str, list[Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).select(names).to_pydict()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {name: [row[name] for row in rows] for name in names}


@settings(max_examples=15)
@given(
    ruleset=st.sampled_from(sorted(RULESETS)),
    source=st.sampled_from(["data.jsonl", "data.parquet"]),
    ending=st.sampled_from(["jsonl", "parquet"]),
    workers=st.sampled_from([0, 1, 2]),
    batch_rows=st.integers(1, 300),
    memo=st.booleans(),
    shards=st.integers(1, 4),
)
def test_scores_do_not_depend_on_how_a_file_is_scored(
    folder: Path, ruleset: str, source: str, ending: str, workers: int, batch_rows: int,
    memo: bool, shards: int,
) -> None:  # fmt: skip
    expected = json.loads((folder / f"{ruleset}.json").read_text())
    found: dict[int, tuple[Any, ...]] = {}
    kept = folder / "memo" if memo else None
    with gr.loads(RULESETS[ruleset], workers=workers, memo=kept) as scorer:
        for index in range(shards):
            out = folder / f"out.{ending}"
            shard = Shard(index, shards) if shards > 1 else None
            task = Task(group="g", batch_rows=batch_rows, shard=shard)
            score_file(scorer, folder / source, out, task)
            columns = columns_of(out, ["id", *expected])
            ids = columns.pop("id")
            found |= dict(zip(ids, zip(*columns.values(), strict=True), strict=True))
    rows = list(zip(*expected.values(), strict=True))
    assert [found[i] for i in range(len(ROWS))] == rows


def totals_of(folder: Path, ruleset: str = scored_run.RULESET, **task: Any) -> tuple[Totals, Any]:
    with gr.loads(ruleset, workers=0) as scorer:
        how = Task(batch_rows=32, **task)
        return score_file(scorer, folder / "data.jsonl", None, how), scorer.graph


def test_the_summary_is_that_of_all_rows_at_once(folder: Path) -> None:
    totals, graph = totals_of(folder)
    with gr.loads(scored_run.RULESET, workers=0) as scorer:
        columns = {key: [row[key] for row in ROWS] for key in ("completion", "answer")}
        whole = scorer(**columns).summary()
    for ours, theirs in zip(totals.summary(graph), whole, strict=True):
        assert (ours.name, ours.rows, ours.null, ours.error) == (
            theirs.name, theirs.rows, theirs.null, theirs.error,
        )  # fmt: skip
        assert ours.mean == pytest.approx(theirs.mean, abs=1e-12)
        assert ours.std == pytest.approx(theirs.std, abs=1e-12)


def test_every_op_is_accounted_for_once(folder: Path) -> None:
    totals, graph = totals_of(folder)
    ops = totals.ops(graph)
    assert len({op.number for op in ops}) == len(ops)
    assert {op.score for op in ops} <= set(graph.columns)
    equal = next(op for op in ops if op.does.startswith("math.equal"))
    assert equal.stats.rows == len(ROWS) and equal.stats.deferred == 6
    assert 0 < equal.stats.hits < len(ROWS)
    by_score = Counter[str]()
    for op in ops:
        by_score[op.score] += op.stats.hits
    assert {row.name: row.hits for row in totals.summary(graph)} == {
        name: by_score[name] for name in graph.columns
    }


def test_a_profile_adds_up_to_the_time_of_the_run(folder: Path) -> None:
    totals, graph = totals_of(folder)
    assert sum(seconds for _, seconds in stacks(totals, graph)) == pytest.approx(
        sum(totals.stages.values())
    )
    found = speedscope(totals, graph)
    (profile,) = found["profiles"]
    assert len(profile["samples"]) == len(profile["weights"])
    assert profile["endValue"] == pytest.approx(sum(profile["weights"]))
    names = [frame["name"] for frame in found["shared"]["frames"]]
    assert all(0 <= i < len(names) for stack in profile["samples"] for i in stack)
    assert any("math.equal" in name for name in names) and "read" in names


def test_checks_see_every_row_once_in_one_pass(folder: Path) -> None:
    text = scored_run.RULESET + "check all: dataset.count(tags) == 240\n"
    with gr.loads(text, workers=0) as scorer:
        checks = Checks(scorer)
        score_file(scorer, folder / "data.jsonl", None, Task(batch_rows=7), checks=checks)
        assert all(result.verdict for result in checks.results())


# The command


def run(*args: object, **options: Any) -> Any:
    return subprocess.run(
        [sys.executable, "-c", "from grpo_rewards.cli.main import main; main()", *map(str, args)],
        capture_output=True, text=True, check=False, cwd=ROOT, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def rules(folder: Path) -> Path:
    (folder / "rows.reward").write_text(scored_run.RULESET)
    (folder / "groups.reward").write_text(scored_run.GROUPED)
    return folder / "rows.reward"


def test_the_summary_says_what_ops_cost(folder: Path, rules: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    result = run("score", rules, folder / "data.jsonl", "--ops", "--profile", profile)
    assert result.returncode == 0, result.stderr
    assert "hits" in result.stdout and "kills" in result.stdout and "math.equal" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert json.loads(profile.read_text())["exporter"] == "grpo-rewards"


def test_the_memo_spares_the_second_run_the_slow_work(
    folder: Path, rules: Path, tmp_path: Path
) -> None:
    def deferred() -> tuple[int, Any]:
        result = run("score", rules, folder / "data.jsonl", "--memo", tmp_path, "--json")
        assert result.returncode == 0, result.stderr
        found = json.loads(result.stdout)
        scores = {name: score["mean"] for name, score in found["scores"].items()}
        return sum(op["deferred"] for op in found["ops"]), scores

    first, again = deferred(), deferred()
    assert first[0] == 6 and again[0] == 0 and first[1] == again[1]


USAGE = {
    "shard": ["--shard", "3/2"],
    "no shard": ["--shard", "0/2"],
    "words": ["--shard", "a/b"],
    "resume into nothing": ["--resume"],
}


@pytest.mark.parametrize("options", USAGE.values(), ids=list(USAGE))
def test_wrong_usage_is_told(folder: Path, rules: Path, options: list[str]) -> None:
    result = run("score", rules, folder / "data.jsonl", *options)
    assert result.returncode == 2 and "Traceback" not in result.stderr


def test_a_group_level_ruleset_asks_for_its_group_column(folder: Path, rules: Path) -> None:
    result = run("score", folder / "groups.reward", folder / "data.jsonl")
    assert result.returncode == 1
    assert "no column of group ids" in result.stderr and "--group COLUMN" in result.stderr


@pytest.mark.parametrize(
    "out", ["nowhere/o.jsonl", "folder", "o.csv", "o.parquet.gz"], ids=lambda name: name
)
def test_an_output_that_cannot_be_is_told_at_once(
    folder: Path, rules: Path, tmp_path: Path, out: str
) -> None:
    (tmp_path / "folder").mkdir()
    result = run("score", rules, folder / "data.jsonl", "-o", tmp_path / out)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert 1 <= len(result.stderr.strip().splitlines()) <= 2
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.skipif(sys.platform != "linux", reason="signals as Linux has them")
def test_an_interrupt_says_what_is_kept(tmp_path: Path, rules: Path) -> None:
    data = scored_run.write_rows(tmp_path / "data.jsonl", scored_run.make_rows(40_000))
    arguments = ["score", rules, data, "-o", tmp_path / "o.jsonl"]
    code = "import signal; signal.signal(2, signal.default_int_handler)\n"
    program = subprocess.Popen(
        [sys.executable, "-c", f"{code}from grpo_rewards.cli.main import main; main()",
         *map(str, arguments)],
        stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    while not (tmp_path / ".o.jsonl.run" / "journal.json").exists():
        assert program.poll() is None
        time.sleep(0.005)
    program.send_signal(signal.SIGINT)
    _, message = program.communicate()
    assert program.returncode == 130
    assert "rows are kept\n  hint: go on with --resume" in message and "Traceback" not in message
    done = run(*arguments, "--resume", "--json")
    assert json.loads(done.stdout)["rows"] == 40_000
    assert [path.name for path in sorted(tmp_path.glob("*o.jsonl*"))] == [
        "o.jsonl", "o.jsonl.meta.json",
    ]  # fmt: skip


# -- what is warned of ----------------------------------------------------------------------------

GSM8K = ROOT / "rulesets" / "gsm8k.reward"
MARKED = [{"completion": f"so\nA: {i}\n ", "gold": f"#### {i}"} for i in range(700)]


def test_an_answer_that_is_marked_otherwise_is_warned_of(tmp_path: Path) -> None:
    data, out = scored_run.write_rows(tmp_path / "d.jsonl", MARKED), tmp_path / "s.jsonl"
    command = ["score", str(GSM8K), str(data), "-o", str(out)]
    shown = CliRunner().invoke(app, command).stdout
    assert (
        "warning: `correct`: extract.after(completion, '####') found something in none of 700 "
        in shown
    )
    assert "hint: `completion` of the first row ends in 'A: 0'; " in shown
    (told,) = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["warnings"]
    assert (told["score"], told["reads"], told["rows"], told["found"]) == (
        "correct",
        "completion",
        700,
        0,
    )
    (note,) = scores_report([out]).notes
    assert "found something in none of 700 rows. `completion` of the first row ends in" in note
    right = CliRunner().invoke(app, [*command, "--set", "marker=A:", "--json"]).stdout
    assert json.loads(right)["warnings"] == []
    assert scores_report([out]).notes == []


def test_a_parquet_file_keeps_the_warnings_for_its_report(tmp_path: Path) -> None:
    data, out = scored_run.write_rows(tmp_path / "d.jsonl", MARKED[:20]), tmp_path / "s.parquet"
    with gr.load(GSM8K, workers=0) as scorer:
        score_file(scorer, data, out)
    assert len(scores_report([out]).notes) == 1


@pytest.mark.parametrize(
    ("score", "warned"),
    [
        ("math.equal(extract.boxed(completion), gold)", ["extract.boxed(completion)"]),
        ("math.equal(completion, extract.after(gold, '####'))", []),
        ("math.equal(completion, extract.boxed(gold))", ["extract.boxed(gold)"]),
        ("extract.fence(completion) == null", []),  # there shall be none
        ("text.length(extract.fence(completion) ?? completion)", []),  # there is another way
        ("text.length(extract.fence(completion) ?? '')", ["extract.fence(completion)"]),
        (
            "math.equal(extract.boxed(completion) ?? extract.fence(completion), gold)",
            ["extract.boxed(completion) ?? extract.fence(completion)"],
        ),
        ("math.equal(extract.boxed(completion) ?? extract.after(completion, 'A:'), gold)", []),
        (  # the first that finds nothing is to blame
            "math.equal(extract.last_number(extract.tag(completion, 'x', which='first')), gold)",
            ["extract.tag(completion, 'x', which='first')"],
        ),
    ],
)
def test_an_extraction_is_warned_of_where_its_null_goes_on(
    tmp_path: Path, score: str, warned: list[str]
) -> None:
    data = scored_run.write_rows(tmp_path / "d.jsonl", MARKED[:30])
    head = "input completion: chat\ninput gold: text\nlet used = gold\n"
    text = f"{head}reward = {score}\n".replace("'", '"')
    with gr.loads(text, workers=0) as scorer:
        found = score_file(scorer, data, None).warnings
    assert [warning.does for warning in found] == warned


@pytest.fixture(scope="module")
def gsm8k() -> Iterator[tuple[gr.Scorer, Processes]]:
    with gr.load(GSM8K, workers=0) as scorer, Processes(scorer, 2) as engine:
        yield scorer, engine


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 350) | st.sampled_from([100, 200, 300]),
    right=st.integers(0, 5),
    size=st.integers(20, 200),
    at=st.integers(0, 9),
)
def test_the_warning_is_there_if_and_only_if_less_than_one_in_a_hundred_is_found(
    folder: Path, gsm8k: tuple[gr.Scorer, Processes], rows: int, right: int, size: int, at: int
) -> None:
    """In one process, in two, and in a run that is cut off and gone on with."""
    right = min(right, rows)
    texts = ["#### 1"] * right + ["A: 1"] * (rows - right)
    data = folder / "warned.jsonl"
    scored_run.write_rows(data, [{"completion": text, "gold": "1"} for text in texts])
    scorer, engine = gsm8k
    out, task = folder / "warned.out.jsonl", Task(batch_rows=size)
    whole = score_file(scorer, data, out, task).warnings
    assert len(whole) == (100 * right < rows)
    assert [(w.rows, w.found) for w in whole] == [(rows, right)] * len(whole)
    meta = out.with_name(f"{out.name}.meta.json")
    kept = meta.read_text()
    assert score_file(scorer, data, out, task, executor=engine).warnings == whole
    assert meta.read_text() == kept
    with contextlib.suppress(Stopped):
        score_file(scorer, data, out, task, progress=_stop_after(at))
    assert score_file(scorer, data, out, task, resume=True).warnings == whole
    assert meta.read_text() == kept


def _stop_after(batches: int) -> Callable[[int], None]:
    left = [batches]

    def progress(rows: int) -> None:
        left[0] -= rows > 0
        if left[0] < 0:
            raise KeyboardInterrupt

    return progress
