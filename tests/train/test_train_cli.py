"""The commands: exit codes, one-line errors, one JSON line last."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_run
import typer.testing
from commands import call

from grpo_train import cli
from grpo_train.config import dump_config


def config_file(tmp_path: Path) -> str:
    path = tmp_path / "config.toml"
    path.write_bytes(dump_config(tiny_run.make_config(tmp_path)))
    return str(path)


def test_run_resume_eval_and_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_file(tmp_path)
    code, out, _ = call(capsys, monkeypatch, "run", config, "steps=2", "name=other", "--json")
    assert code == 0
    last = json.loads(out.splitlines()[-1])
    assert last["steps"] == 2
    assert 0 <= last["pass_at_1_before"] <= 1
    assert 0 <= last["pass_at_1_after"] <= 1
    assert last["seconds"] > 0
    code, out, _ = call(capsys, monkeypatch, "resume", last["run"], "--json")
    assert (code, json.loads(out.splitlines()[-1])["steps"]) == (0, 2)
    code, out, _ = call(capsys, monkeypatch, "eval", last["run"], "--samples", "4", "--json")
    assert code == 0
    assert set(json.loads(out)["pass_at_k"]) == {"2", "4"}
    code, out, _ = call(capsys, monkeypatch, "show", last["run"], "--json")
    assert (code, json.loads(out)["step"]) == (0, 2)


def test_a_dry_run_scores_a_batch_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_file(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = call(capsys, monkeypatch, "run", config, "--dry-run", "--json")
    assert code == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert set(json.loads(out)["scores"]) == {"short", "correct"}
    assert "self-test" in err
    assert "memory" in err


def test_init_writes_a_starter_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "c.toml")
    assert call(capsys, monkeypatch, "init", path)[0] == 0
    code, _, err = call(capsys, monkeypatch, "init", path)
    assert code == 2
    assert "exists already" in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("run", "absent.toml"), "cannot read `absent.toml`"),
        (("run", "CONFIG", "sampling.group_sze=3"), "did you mean `group_size`?"),
        (("run", "CONFIG", "data.train=absent.jsonl"), "`absent.jsonl` does not exist"),
        (("run", "CONFIG", "model=./absent"), "cannot load the model `./absent`"),
        (("run", "CONFIG", "reward.ruleset=absent.reward"), "`reward.ruleset`"),
        (("run", "CONFIG", "eval.score=corect", "name=n"), "no score `corect`"),
        (("show", "absent"), "holds no run"),
        (("resume", "absent"), "`absent` holds no run"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    filled = [config_file(tmp_path) if word == "CONFIG" else word for word in arguments]
    code, _, err = call(capsys, monkeypatch, *filled)
    assert code == 2
    assert expected in " ".join(err.split())
    assert "Traceback" not in err


def test_every_verb_has_help_and_json() -> None:
    runner = typer.testing.CliRunner()
    for verb in ("run", "resume", "eval", "show", "demo", "init"):
        shown = runner.invoke(cli.app, [verb, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0
        assert "--json" in shown.output
