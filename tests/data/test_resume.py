"""A run that is killed at any moment and gone on with is the uncut run, to the byte."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scored_run
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import grpo_rewards as gr
from grpo_rewards.data import file_scoring, resume
from grpo_rewards.data.file_scoring import Stopped, Task, score_file
from grpo_rewards.data.reader import Shard
from grpo_rewards.data.statistics import Totals
from grpo_rewards.scoring.dataset_checks import Checks

ENDINGS = ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"]
ROWS = scored_run.make_rows(300)


class Killed(BaseException):
    """Stands for a SIGKILL: nothing runs after it."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows as JSON lines and as Parquet, and what an uncut run makes of them."""
    folder = tmp_path_factory.mktemp("files")
    scored_run.write_rows(folder / "data.jsonl", ROWS)
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "data.parquet", row_group_size=70)
    return folder


def scored(
    ruleset: str,
    data: Path,
    target: Path,
    *,
    resume: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
    **task: Any,
) -> tuple[Totals, list[Any]]:
    """The totals and the checks' results."""
    grouped = {"group": "g"} if "group." in ruleset else {}
    with gr.loads(ruleset, workers=0) as scorer:
        checks = Checks(scorer)
        how = Task(batch_rows=16, **{**grouped, **task})
        totals = score_file(
            scorer, data, target, how, resume=resume, checks=checks, progress=progress
        )
        return totals, checks.results()


def without_times(totals: Totals) -> Any:
    state = totals.state()
    del state["stages"]
    for stats in state["stats"].values():
        del stats["seconds"], stats["hits"]  # a run that went on has an empty memory
    return state


def same(uncut: Path, cut: Path) -> bool:
    left = [path for path in cut.parent.iterdir() if path.name.startswith(f".{cut.name}")]
    return uncut.read_bytes() == cut.read_bytes() and not left


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "ruleset", [scored_run.RULESET, scored_run.GROUPED], ids=["rows", "groups"]
)
def test_stopped_after_every_batch_it_is_the_uncut_run(
    files: Path, tmp_path: Path, ruleset: str, ending: str
) -> None:
    for source in (files / "data.jsonl", files / "data.parquet"):
        folder = tmp_path / source.suffix
        folder.mkdir()
        uncut, cut = folder / f"uncut.{ending}", folder / f"cut.{ending}"
        whole = scored(ruleset, source, uncut)
        stops, kept = 0, 0
        while not cut.exists():
            begun = False

            def stop(rows: int) -> None:
                nonlocal begun
                if begun and rows:
                    raise KeyboardInterrupt
                begun = True

            try:
                found = scored(ruleset, source, cut, resume=True, progress=stop)
            except Stopped as stopped:
                stops += 1
                assert stopped.rows > kept
                kept = stopped.rows
        assert stops > 10
        assert same(uncut, cut)
        assert without_times(found[0]) == without_times(whole[0])
        assert found[1] == whole[1]


def _patched(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The `at`-th thing that is done to the file system does not happen, nor anything after it."""
    left = at

    def guard(function: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return function(*args, **options)

        return guarded

    real = resume._append

    def half(file: Any, data: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            real(file, data[: len(data) // 2])
            raise Killed
        real(file, data)

    monkeypatch.setattr(resume, "_append", half)
    monkeypatch.setattr(resume, "_SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(os, "replace", guard(os.replace))
    monkeypatch.setattr(os, "fsync", guard(os.fsync))
    monkeypatch.setattr(resume.shutil, "rmtree", guard(resume.shutil.rmtree))
    # files are closed by the system then
    monkeypatch.setattr(file_scoring._FileScoring, "keep", lambda run: run._journal._close() or 0)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_wherever_it_is_cut_it_goes_on_to_the_same_file(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    task = {"limit": 60}
    uncut = tmp_path / f"uncut.{ending}"
    scored(scored_run.GROUPED, files / "data.jsonl", uncut, **task)
    at = 0
    while True:
        cut = tmp_path / f"cut{at}.{ending}"
        with monkeypatch.context() as patch:
            _patched(patch, at)
            try:
                scored(scored_run.GROUPED, files / "data.jsonl", cut, **task)
                killed = False
            except Killed:
                killed = True
        if not killed:
            break
        scored(scored_run.GROUPED, files / "data.jsonl", cut, resume=True, **task)
        assert same(uncut, cut), at
        at += 1
    assert at > 20


def test_without_resume_a_run_starts_over(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(Stopped):
        scored(scored_run.RULESET, files / "data.jsonl", out, progress=_stop_at(100))
    assert not out.exists() and (tmp_path / ".out.jsonl.run").is_dir()
    seen: list[int] = []
    scored(scored_run.RULESET, files / "data.jsonl", out, progress=seen.append)
    assert seen[0] == 0 and sum(seen) == len(ROWS)


def _stop_at(rows: int) -> Callable[[int], None]:
    done = 0

    def stop(more: int) -> None:
        nonlocal done
        done += more
        if done >= rows:
            raise KeyboardInterrupt

    return stop


MISMATCHES: dict[str, Any] = {
    "ruleset": {"ruleset": scored_run.RULESET.replace("0.1", "0.2")},
    "limit": {"limit": 50},
    "shard": {"shard": Shard(0, 2)},
    "batch size": {"batch_rows": 32},
    "step": {"step": 3.0},
    "group": {"group": "id", "ruleset": scored_run.GROUPED},
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_another_run_is_not_gone_on_with(files: Path, tmp_path: Path, name: str) -> None:
    changes = dict(MISMATCHES[name])
    ruleset = scored_run.GROUPED if "ruleset" in changes and name == "group" else scored_run.RULESET
    out = tmp_path / "out.jsonl"
    with pytest.raises(Stopped):
        _scored_with(ruleset, files / "data.jsonl", out, progress=_stop_at(100))
    again = changes.pop("ruleset", ruleset)
    with pytest.raises(gr.BatchError, match=f"another {name}") as caught:
        _scored_with(again, files / "data.jsonl", out, resume=True, **changes)
    assert "hint: " in str(caught.value)
    _scored_with(ruleset, files / "data.jsonl", out, resume=True)  # nothing was lost
    assert out.exists()


def _scored_with(ruleset: str, data: Path, out: Path, **options: Any) -> None:
    task = {k: options.pop(k) for k in list(options) if k not in ("resume", "progress")}
    group = {"group": "g"} if "group." in ruleset else {}
    with gr.loads(ruleset, workers=0) as scorer:
        score_file(scorer, data, out, Task(**{"batch_rows": 16, **group, **task}), **options)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_other_data_are_not_gone_on_with(files: Path, tmp_path: Path, ending: str) -> None:
    data, out = tmp_path / f"data.{ending}", tmp_path / "out.jsonl"
    data.write_bytes((files / f"data.{ending}").read_bytes())
    with pytest.raises(Stopped):
        scored(scored_run.RULESET, data, out, progress=_stop_at(100))
    if ending == "jsonl":
        data.write_bytes(data.read_bytes().replace(b'"id": 3,', b'"id": 4,'))
    else:
        pq.write_table(pq.read_table(data).drop_columns(["n"]), data)
    with pytest.raises(gr.BatchError, match=r"first .* rows are not those that were scored"):
        scored(scored_run.RULESET, data, out, resume=True)


def test_a_mended_line_is_gone_on_with(files: Path, tmp_path: Path) -> None:
    """The rows before the mistake are as they were, so they need not be scored again."""
    whole = (files / "data.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    data, out, uncut = (tmp_path / name for name in ("data.jsonl", "out.jsonl", "uncut.jsonl"))
    data.write_bytes(b"".join([*lines[:200], lines[200][:40] + b"\n", *lines[201:]]))
    with pytest.raises(gr.BatchError, match=r"data.jsonl:201:\d+: not JSON") as caught:
        scored(scored_run.RULESET, data, out)
    assert "192 scored rows are kept: go on with --resume" in str(caught.value)
    data.write_bytes(whole)
    scored(scored_run.RULESET, data, out, resume=True)
    scored(scored_run.RULESET, data, uncut)
    assert same(uncut, out)


def test_a_group_from_before_the_stop_is_known_after_it(tmp_path: Path) -> None:
    rows = scored_run.make_rows(200)
    rows[150]["g"] = rows[3]["g"]
    data, out = scored_run.write_rows(tmp_path / "data.jsonl", rows), tmp_path / "out.jsonl"
    with pytest.raises(Stopped):
        scored(scored_run.GROUPED, data, out, progress=_stop_at(100))
    with pytest.raises(gr.BatchError, match=r"data.jsonl:151: group \d+ was there before"):
        scored(scored_run.GROUPED, data, out, resume=True)


def test_unreadable_lines_are_counted_once(files: Path, tmp_path: Path) -> None:
    lines = (files / "data.jsonl").read_bytes().splitlines(keepends=True)
    for place in (5, 90, 100, 250, 299):
        lines.insert(place, b"{\n")
    data, out = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    data.write_bytes(b"".join(lines))
    whole, _ = scored(scored_run.RULESET, data, tmp_path / "uncut.jsonl", on_bad_line="skip")
    for stop in (20, 80, 160):
        with contextlib.suppress(Stopped):
            scored(
                scored_run.RULESET, data, out,
                resume=True, on_bad_line="skip", progress=_stop_at(stop),
            )  # fmt: skip
    found, _ = scored(scored_run.RULESET, data, out, resume=True, on_bad_line="skip")
    assert found.skipped == whole.skipped == 5 and found.rows == whole.rows == len(ROWS)
    assert same(tmp_path / "uncut.jsonl", out)


def test_two_runs_do_not_write_one_file(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"

    def other(rows: int) -> None:
        with pytest.raises(gr.BatchError, match="another run is writing it"):
            scored(scored_run.RULESET, files / "data.jsonl", out)

    scored(scored_run.RULESET, files / "data.jsonl", out, progress=other, limit=32)
    assert out.exists()


def test_a_full_disk_loses_no_finished_row(files: Path, tmp_path: Path) -> None:
    rules, out, uncut = (tmp_path / n for n in ("r.reward", "out.jsonl", "uncut.jsonl"))
    rules.write_text(scored_run.RULESET)
    data = scored_run.write_rows(tmp_path / "data.jsonl", scored_run.make_rows(1500))
    _run("score", rules, data, "-o", uncut)
    limit = uncut.stat().st_size // 2

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    full = _run("score", rules, data, "-o", out, preexec_fn=small_disk)
    assert full.returncode == 1
    assert "out.jsonl: cannot be written: File too large" in full.stderr
    assert "512 scored rows are kept: go on with --resume" in full.stderr
    assert "Traceback" not in full.stderr and not out.exists()
    done = _run("score", rules, data, "-o", out, "--resume")
    assert done.returncode == 0, done.stderr
    assert same(uncut, out)


def _run(*args: object, **options: Any) -> Any:
    return subprocess.run(
        [sys.executable, "-c", "from grpo_rewards.cli.main import main; main()", *map(str, args)],
        capture_output=True, text=True, check=False, cwd=ROOT, **options,
    )  # fmt: skip


def test_a_broken_journal_is_one_clear_error(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(Stopped):
        scored(scored_run.RULESET, files / "data.jsonl", out, progress=_stop_at(100))
    kept = tmp_path / ".out.jsonl.run"
    for name, content in (("rows", b"x"), ("journal.json", b"{"), ("journal.json", b"[]")):
        before = (kept / name).read_bytes()
        (kept / name).write_bytes(content)
        with pytest.raises(gr.BatchError, match="start over without --resume"):
            scored(scored_run.RULESET, files / "data.jsonl", out, resume=True)
        (kept / name).write_bytes(before)
    scored(scored_run.RULESET, files / "data.jsonl", out, resume=True)


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(1, 300), min_size=1, max_size=4), size=st.integers(1, 64))
def test_any_stops_with_any_batch_size_give_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, files: Path, cuts: list[int], size: int
) -> None:
    folder = tmp_path_factory.mktemp("cuts")
    source, out, uncut = files / "data.jsonl", folder / "out.jsonl", folder / "uncut.jsonl"
    with gr.loads(scored_run.GROUPED, workers=0) as scorer:
        score_file(scorer, source, uncut, Task(group="g"))
        task = Task(group="g", batch_rows=size)
        for cut in sorted(cuts):
            if not out.exists():
                with contextlib.suppress(Stopped):
                    score_file(scorer, source, out, task, resume=True, progress=_stop_at(cut))
        score_file(scorer, source, out, task, resume=True)
    assert same(uncut, out)


def kill_at_random(tmp_path: Path, kills: int, count: int, patience_s: float) -> list[str]:
    """One output after the other, each disturbed a few times; what happened."""
    rng, happened = random.Random(7), []
    (tmp_path / "rows.reward").write_text(scored_run.RULESET)
    (tmp_path / "groups.reward").write_text(scored_run.GROUPED)
    data = scored_run.write_rows(
        tmp_path / "data.jsonl", scored_run.make_rows(count, slow_every=50)
    )
    cases = [(rules, ending) for ending in ENDINGS for rules in ("rows", "groups")]
    while len(happened) < kills:
        rules, ending = cases[rng.randrange(len(cases))]
        uncut, cut = tmp_path / f"uncut-{rules}.{ending}", tmp_path / f"cut-{rules}.{ending}"
        arguments = ["score", tmp_path / f"{rules}.reward", data, "--check", "--group", "g"]
        if not uncut.exists():
            process = scored_run.start([*arguments, "-o", uncut], tmp_path / "errors.txt")
            process.join()
            assert process.exitcode == 0, (tmp_path / "errors.txt").read_text()
        cut.unlink(missing_ok=True)
        some = min(5, kills - len(happened))
        happened += scored_run.survive([*arguments, "-o", cut], some, tmp_path, patience_s, rng)
        assert same(uncut, cut)
    return happened


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@linux
def test_five_random_kills_leave_no_trace_in_the_file(tmp_path: Path) -> None:
    assert len(kill_at_random(tmp_path, 5, 1500, 1.0)) == 5


@linux
@pytest.mark.slow
def test_two_hundred_random_kills_leave_no_trace_in_the_file(tmp_path: Path) -> None:
    happened = kill_at_random(tmp_path, 200, 6000, 3.0)
    assert min(happened.count(what) for what in ("kill", "interrupt", "worker")) >= 30
