"""The commands: exit codes, one-line errors, one JSON line last."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import tiny_run
import typer.testing
from commands import call

from grpo_train import cli
from grpo_train.config_text import dump_config


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


def test_a_ruleset_with_an_extern_needs_a_word_in_the_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Allowed, it runs, resumes, is evaluated and shown from any folder; else it is told how."""
    config = config_file(tmp_path)
    module = tmp_path / "rules" / "shortness.py"
    module.parent.mkdir()
    module.write_text("def short(text):\n    return float(len(text) < 30)\n")
    ruleset = module.with_name("own.reward")
    ruleset.write_text(
        'input completion: chat\nextern short(text): num in 0..1 from "shortness:short"\n'
        "score correct = short(completion)\nreward in 0..1 = correct\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "shortness", raising=False)
    run = ("run", config, f"reward.ruleset={ruleset}", "steps=2", "save.every=1", "name=own")
    code, _, err = call(capsys, monkeypatch, *run)
    assert code == 2
    assert "hint: if you trust it, set reward.allow_extern = true" in err
    assert "--allow-extern" not in err and "Traceback" not in err
    code, out, _ = call(capsys, monkeypatch, *run, "reward.allow_extern=true", "--json")
    folder = json.loads(out.splitlines()[-1])["run"]
    assert code == 0
    for verb in (("resume", folder), ("eval", folder), ("show", folder)):
        # A new process knows nothing of the module yet.
        monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(module.parent)])
        monkeypatch.delitem(sys.modules, "shortness", raising=False)
        assert call(capsys, monkeypatch, *verb)[0] == 0
    # The trees of its samples were made, for which the function has to be there.
    assert '"label": "correct: short"' in (Path(folder) / "report.html").read_text("utf-8")
    monkeypatch.delitem(sys.modules, "shortness")
    module.unlink()
    importlib.invalidate_caches()
    for verb in (("resume", folder), ("eval", folder)):
        code, _, err = call(capsys, monkeypatch, *verb)
        assert code == 2
        assert "`shortness:short` cannot be loaded" in err and "Traceback" not in err
    assert call(capsys, monkeypatch, "show", folder)[0] == 0


@pytest.mark.parametrize("body", ["return None", "return 2.0", "return 1 / 0"])
def test_an_extern_that_breaks_its_word_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    config = config_file(tmp_path)
    (tmp_path / "broken_at_once.py").write_text(
        "import grpo_rewards as gr\n\n\n@gr.rule(range=(0, 1), batch=True)\n"
        f"def judge(text: list[str]) -> list[float]:\n    {body}\n"
    )
    ruleset = tmp_path / "own.reward"
    ruleset.write_text(
        'input completion: chat\nextern judge(text): num in 0..1 from "broken_at_once:judge"\n'
        "score correct = judge(completion)\nreward in 0..1 = correct\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "broken_at_once", raising=False)
    words = (f"reward.ruleset={ruleset}", "reward.allow_extern=true")
    code, _, err = call(capsys, monkeypatch, "run", config, *words)
    assert code == 2
    assert "rule `judge` failed on row 0" in err and "Traceback" not in err


def test_every_verb_has_help_and_json() -> None:
    runner = typer.testing.CliRunner()
    for verb in ("run", "resume", "eval", "show", "demo", "init"):
        shown = runner.invoke(cli.app, [verb, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0
        assert "--json" in shown.output
