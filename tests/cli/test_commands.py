"""The commands as a user runs them: what they print, what they leave behind, how they exit."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT
from typer.testing import CliRunner

import grpo_rewards as gr
from grpo_rewards.cli.main import COMMANDS, app
from grpo_rewards.data.file_scoring import score_file
from grpo_rewards.errors import OverwriteError

RULESET = ROOT / "rulesets" / "gsm8k.reward"
ROWS = [
    {"id": 1, "completion": "so\n#### 9", "answer": "x\n#### 9"},
    {"id": 2, "completion": "so\n#### 8", "answer": "x\n#### 9"},
    {"id": 3, "completion": "so\n#### 9", "answer": None},
    {"id": 4, "completion": "y" * 1_000_000, "answer": "9"},
]


def run(*args: object) -> Any:
    return subprocess.run(
        [sys.executable, "-c", "from grpo_rewards.cli.main import main; main()", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "parquet"])
def test_scores_stand_behind_the_inputs_own_columns(
    data: Path, tmp_path: Path, ending: str
) -> None:
    out = tmp_path / f"scores.{ending}"
    result = run("score", RULESET, data, "-o", out)
    assert result.returncode == 0, result.stderr
    if ending == "parquet":
        frame = pd.read_parquet(out)
    else:
        text = gzip.decompress(out.read_bytes()) if ending.endswith("gz") else out.read_bytes()
        frame = pd.DataFrame([json.loads(line) for line in text.splitlines()])
    names = ["id", "completion", "answer", "correct", "answered", "reward"]
    assert list(frame.columns)[:6] == names
    assert frame["reward"].fillna(-1).tolist() == [1, 0, -1, 0]
    assert frame["correct_status"].tolist() == ["ok", "ok", "missing", "missing"]
    assert "4 rows" in result.stdout and "correct" in result.stdout


def test_an_input_that_is_not_there_names_its_option(data: Path) -> None:
    missing = run("score", RULESET, data, "--map", "completion=text")
    assert missing.returncode == 1
    assert "no column `text`" in missing.stderr
    assert missing.stderr.splitlines()[-1] == "  hint: pass --map completion=COLUMN"
    unknown = run("score", RULESET, data, "--map", "completions=completion")
    assert unknown.returncode == 2 and "no input 'completions'" in unknown.stderr


@pytest.mark.parametrize("verb", ["check", "fmt", "test", "explain"])
def test_a_ruleset_that_is_not_there_is_wrong_usage(verb: str) -> None:
    result = run(verb, "no-such.reward")
    assert (result.returncode, result.stderr) == (2, "no-such.reward: no such file\n")


def test_dotted_paths_reach_into_nested_fields(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    row = {"x": {"c": [{"text": "A: 4"}]}}
    path.write_text(json.dumps({"m": row, "gold": 4}) + "\n")
    result = run(
        "score", RULESET, path, "--map", "completion=m.x.c.0.text", "--set", "marker=A:", "--json"
    )
    assert json.loads(result.stdout)["scores"]["reward"]["mean"] == 1


BAD_DATA = {
    "missing.jsonl": None,
    "empty.jsonl": b"",
    "binary.jsonl": bytes(range(256)) * 20,
    "half.jsonl": b'{"completion": "#### 1", "answer": "1"}\n{"completion": "#### 1", "ans',
    "list.jsonl": b"[1, 2]\n",
    "columns.jsonl": b'{"completoin": "#### 1", "answer": "1"}\n',
    "kind.csv": b"a,b\n1,2\n",
    "fake.parquet": b"not parquet at all",
    "type.jsonl": b'{"completion": {"a": 1}, "answer": "1"}\n',
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_is_one_clear_error_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    content = BAD_DATA[name]
    if content is not None:
        path.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    result = run("score", RULESET, path, "-o", tmp_path / "out.parquet")
    assert result.returncode == (2 if content is None else 1)
    assert "Traceback" not in result.stderr
    assert 1 <= len(result.stderr.strip().splitlines()) <= 3, result.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_half_written_last_line_can_be_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "half.jsonl"
    path.write_bytes(BAD_DATA["half.jsonl"] or b"")
    result = run("score", RULESET, path, "--skip-bad-lines", "--json")
    assert json.loads(result.stdout)["rows"] == 1


def test_check_reports_three_mistakes_with_carets_and_hints() -> None:
    result = run("check", ROOT / "examples" / "mistakes.reward")
    assert result.returncode == 1
    assert result.stderr.count("error[") == 3
    assert result.stderr.count("^") >= 3 and result.stderr.count("hint:") == 3


def test_check_as_json_is_one_object_a_file() -> None:
    result = run("check", RULESET, ROOT / "examples" / "mistakes.reward", "--json")
    good, bad = (json.loads(line) for line in result.stdout.splitlines())
    assert good["ok"] and good["scores"]["reward"]["range"] == [0, 1]
    assert not bad["ok"] and bad["findings"][0]["line"] == 3


def test_fmt_writes_only_what_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.reward"
    path.write_text("reward=1 # one\n")
    assert run("fmt", "--check", path).returncode == 1
    assert path.read_text() == "reward=1 # one\n"
    assert run("fmt", path).returncode == 0
    assert path.read_text() == "reward = 1  # one\n"
    assert run("fmt", "--check", path).returncode == 0


def test_a_failing_test_shows_every_score(tmp_path: Path) -> None:
    path = tmp_path / "a.reward"
    path.write_text('input a: num\nscore s = a\nreward = s\ntest "t" { a: 2 expect s == 3 }\n')
    result = run("test", path)
    assert result.returncode == 1
    assert "expect s == 3" in result.stderr and "s = 2" in result.stderr


def test_tests_come_from_files_and_groups(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1, "want": 2}\n{"a": 2, "want": 5}\n')
    path = tmp_path / "a.reward"
    path.write_text(
        "input a: num\nreward = 2 * a\n"
        'test "many" each from "rows.jsonl" { expect reward == want }\n'
        'test group "both" { row { a: 1 } row { a: 2 } expect reward >= 2 }\n'
    )
    result = run("test", path)
    assert "1 passed, 1 failed" in result.stdout
    assert "(row 1)" in result.stderr


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["check", "nowhere.reward"], 2),
        (["score", RULESET], 2),
        (["score", RULESET, "x.jsonl", "--set", "marker"], 2),
        (["nonsense"], 2),
        (["rules", "nope"], 1),
        (["rules", "math.equal"], 0),
        (["rules"], 0),
        (["explain", RULESET], 0),
        (["grade", "--gold", "1/2", "--text", "0.5"], 0),
        (["grade"], 2),
        (["format", ROOT / "rulesets" / "r1_zero.reward", "nope", "--text", "x"], 1),
        (["format", ROOT / "rulesets" / "r1_zero.reward", "r1", "--text", "x"], 1),
        (["attack", RULESET], 0),
        (["attack", ROOT / "tests" / "weak" / "open_thought.reward"], 1),
    ],
)
def test_exit_codes(args: list[object], code: int) -> None:
    result = run(*args)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr


def test_a_binary_ruleset_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "a.reward"
    path.write_bytes(b"\xff\xfe\x00")
    result = run("check", path)
    assert result.returncode == 1 and "not UTF-8" in result.stderr


MODELS = ["6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"]


@pytest.mark.parametrize("model", MODELS)
def test_gsm8k_agrees_with_the_labels_of_real_completions(shared: Path, model: str) -> None:
    import grpo_rewards as gr

    path = shared / "data" / "gsm8k" / "example_model_solutions.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    scorer = gr.load(RULESET, params={"marker": "A:"})
    scores = scorer(
        completion=[row[model]["solution"] for row in rows],
        gold=[row["ground_truth"] for row in rows],
    )
    labels = [row[model]["is_correct"] for row in rows]
    agree = sum(a == b for a, b in zip(scores["correct"], labels, strict=True))
    assert agree >= 0.995 * len(rows)


def test_help_reads_for_every_verb() -> None:
    for command in COMMANDS:
        result = CliRunner().invoke(app, [command.verb, "--help"])
        assert result.exit_code == 0 and "Usage" in result.output


def test_a_case_file_is_graded_by_kind(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    cases = [("4", "2 + 2", True, "expr"), ("4", "5", False, "expr"), ("x", "y", True, "wrong")]
    rows = [{"gold": g, "pred": p, "expect": e, "kind": k} for g, p, e, k in cases]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("grade", path, "--json")
    assert result.returncode == 1
    found = json.loads(result.stdout)
    assert found["cases"] == 3 and len(found["failures"]) == 1
    assert "missed" in run("grade", path).stdout


def test_a_case_brings_its_options(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    rows = [
        {"gold": "1/3", "answer": "0.333", "expect": True, "options": {"decimals": 3}},
        {"gold": "1/3", "answer": "0.333", "expect": False, "options": None},
        {"gold": None, "answer": None, "expect": False, "options": {}},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("grade", path).returncode == 0
    path.write_text(json.dumps({**rows[0], "options": {"digits": 3}}))
    assert "math.equal has no option `digits`" in run("grade", path).stderr


def test_the_cases_of_this_project_are_graded_by_the_command() -> None:
    assert run("grade", ROOT / "tests" / "cases" / "math.jsonl").returncode == 0


def test_golds_are_checked_beforehand(tmp_path: Path) -> None:
    path = tmp_path / "golds.jsonl"
    path.write_text('{"gold": "4"}\n{"gold": "see figure"}\n')
    result = run("grade", "--golds", path)
    assert result.returncode == 1 and "row 1" in result.stdout


def test_calibrate_and_diff_print_tables(data: Path) -> None:
    labelled = data.with_name("labelled.jsonl")
    rows = [{**row, "ok": row["id"] == 1} for row in ROWS]
    labelled.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("calibrate", RULESET, labelled, "--label", "ok")
    assert result.returncode == 0 and "AUC 1.0000" in result.stdout and "1 null" in result.stdout
    assert run("calibrate", RULESET, labelled, "--label", "ok", "--score", "x").returncode == 2
    result = run("diff", RULESET, RULESET, data)
    assert result.returncode == 0 and "reward" in result.stdout


# What is read is never written over

SCORED = [{"completion": "#### 9", "answer": "9"}, {"completion": "#### 8", "answer": "9"}]


def _symlink(file: Path) -> Path:
    (file.parent / "linked.jsonl").symlink_to(file)
    return file.parent / "linked.jsonl"


def _hard_link(file: Path) -> Path:
    os.link(file, file.parent / "hard.jsonl")
    return file.parent / "hard.jsonl"


def _other_path(file: Path) -> Path:
    return file.parent / ".." / file.parent.name / "." / file.name


ALIASES = {
    "itself": lambda file: file, "symlink": _symlink, "hard link": _hard_link,
    "other path": _other_path, "relative": lambda file: Path(os.path.relpath(file, ROOT)),
}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A ruleset, data and scores: what commands read."""
    rules, data, scores = (tmp_path / f"{n}" for n in ("r.reward", "data.jsonl", "scores.jsonl"))
    rules.write_bytes(RULESET.read_bytes())
    data.write_text("".join(json.dumps(row) + "\n" for row in SCORED))
    with gr.load(rules, workers=0) as scorer:
        score_file(scorer, data, scores)
    return {"rules": rules, "data": data, "scores": scores}


@pytest.mark.parametrize("alias", ALIASES)
@pytest.mark.parametrize(
    ("command", "source"),
    [
        ("score {rules} {data} -o {new}", "data"),
        ("score {rules} {data} -o {new} --resume", "data"),
        ("score {rules} {data} --profile {new}", "data"),
        ("score {rules} {data} --profile {new}", "rules"),
        ("report {scores} -o {new}", "scores"),
        ("report {data} {scores} -o {new}", "scores"),
        ("report {scores} --ruleset {rules} -o {new}", "rules"),
    ],
)
def test_no_command_writes_over_what_it_reads(
    files: dict[str, Path], tmp_path: Path, command: str, source: str, alias: str
) -> None:
    new = ALIASES[alias](files[source])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OverwriteError, match=r"^[^\n]*which is read$"):
        arguments = [part.format(**files, new=new) for part in command.split()]
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_refusal_is_one_line_and_exit_2(files: dict[str, Path]) -> None:
    before = files["data"].read_bytes()
    result = run("score", files["rules"], files["data"], "-o", files["data"])
    assert result.returncode == 2
    said = "".join(result.stderr.splitlines())  # a narrow terminal breaks the line
    assert said == f"{files['data']}: it would overwrite {files['data']}, which is read"
    assert files["data"].read_bytes() == before


def test_a_run_or_a_memo_does_not_take_its_data_away(
    files: dict[str, Path], tmp_path: Path
) -> None:
    kept, memo = tmp_path / ".out.jsonl.run", tmp_path / "memo"
    for folder, name in ((kept, "rows"), (memo, "verdicts.sqlite3")):
        folder.mkdir()
        (folder / name).write_bytes(files["data"].read_bytes())
        (tmp_path / f"{name}.jsonl").symlink_to(folder / name)
    for name, option in (("rows", ["-o", "out.jsonl"]), ("verdicts.sqlite3", ["--memo", "memo"])):
        data = tmp_path / f"{name}.jsonl"
        places = [option[0], str(tmp_path / option[1])]
        with pytest.raises(OverwriteError):
            arguments = ["score", str(files["rules"]), str(data), *places]
            CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert data.read_bytes() == files["data"].read_bytes()


def test_python_refuses_too(files: dict[str, Path], tmp_path: Path) -> None:
    with gr.load(files["rules"], workers=0) as scorer:
        for alias in ("itself", "symlink", "hard link", "other path"):
            with pytest.raises(gr.BatchError, match="which is read"):
                score_file(scorer, files["data"], ALIASES[alias](files["data"]))
    (tmp_path / "outer.reward").write_text('import "r.reward" as r\nreward = r.correct')
    with gr.load(tmp_path / "outer.reward", workers=0) as outer, pytest.raises(OverwriteError):
        outer.save(tmp_path / "r.reward")
    assert files["rules"].read_bytes() == RULESET.read_bytes()
