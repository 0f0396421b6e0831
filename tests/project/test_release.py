"""What is published builds, says what it is, and works where nothing else is installed."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import ROOT

import grpo_rewards as gr
from grpo_rewards.scoring.scorer import library_versions
from grpo_rewards.server.openapi import document


def run(*command: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("material") is None, reason="mkdocs-material is absent"
)
def test_the_site_builds_and_its_links_hold(tmp_path: Path) -> None:
    run(sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path))
    assert "Rewards for reinforcement learning" in (tmp_path / "index.html").read_text("utf-8")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT))
    return folder


@pytest.mark.slow
def test_wheel_and_source_hold_what_they_should(built: Path) -> None:
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "grpo_rewards/py.typed",
        "grpo_train/py.typed",
        "grpo_rewards/grammars/reward.lark",
        "grpo_rewards/web/report.js",
        "grpo_rewards/web/report.css",
        "grpo_rewards/adapters/trl.py",
        "grpo_train/arithmetic.reward",
    ):
        assert name in names, name
    assert not [name for name in names if name.startswith(("tests", "examples", "benchmarks"))]
    with tarfile.open(source) as archive:
        assert any(name.endswith("/pyproject.toml") for name in archive.getnames())
    run(sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(source))


SCORE = "input completion: chat\\ninput gold: text\\nreward = math.equal(completion, gold)"
TYPED = """import grpo_rewards as gr

scores: gr.Scores = gr.loads("reward = 1")(completion=["x"])
reveal_type(scores.reward)
"""


@pytest.mark.slow
def test_the_wheel_works_in_a_bare_environment(built: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    bin_ = tmp_path / "env" / "bin"
    pip = [str(bin_ / "pip"), "install", "-q", "-c", str(ROOT / "constraints.txt")]
    wheel = str(next(built.glob("*.whl")))
    run(*pip, wheel)
    assert "Author, test and run" in run(str(bin_ / "grpo-rewards"), "--help", cwd=tmp_path)
    (tmp_path / "r.reward").write_text(SCORE.replace("\\n", "\n"))
    (tmp_path / "d.jsonl").write_text('{"completion": "1/2", "gold": "0.5"}\n')
    command = ("score", "r.reward", "d.jsonl", "--json")
    assert '"mean": 1.0' in run(str(bin_ / "grpo-rewards"), *command, cwd=tmp_path)
    run(*pip, f"{wheel}[train]", "torch==2.13.0", "mypy")
    said = run(str(bin_ / "grpo-train"), "demo", "--steps", "2", "--json", cwd=tmp_path)
    assert '"steps": 2' in said
    assert (tmp_path / "runs" / "demo-0" / "report.html").stat().st_size > 500_000
    (tmp_path / "typed.py").write_text(TYPED)
    said = run(str(bin_ / "mypy"), "--strict", "typed.py", cwd=tmp_path)
    assert 'note: Revealed type is "numpy.ndarray' in said


UNINSTALLED = """
import importlib.metadata as metadata, sys

def from_name(name):
    raise metadata.PackageNotFoundError(name)

metadata.Distribution.from_name = from_name
from grpo_rewards.cli.main import main

sys.argv = "grpo-rewards score r.reward d.jsonl -o o.jsonl --memo m --json".split()
main()
"""


def test_a_checkout_that_nobody_installed_scores(tmp_path: Path) -> None:
    (tmp_path / "r.reward").write_text(SCORE.replace("\\n", "\n"))
    (tmp_path / "d.jsonl").write_text('{"completion": "1/2", "gold": "0.5"}\n')
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path}
    said = run(sys.executable, "-c", UNINSTALLED, cwd=tmp_path, env=env)
    assert '"mean": 1.0' in said
    assert '"reward":true' in (tmp_path / "o.jsonl").read_text("utf-8")


def test_every_version_is_known_or_said_to_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    with gr.loads("reward = 1", workers=0) as scorer:
        assert document(scorer)["info"]["version"] == scorer.versions["grpo-rewards"]
        monkeypatch.setattr("importlib.metadata.version", missing)
        library_versions.cache_clear()
        try:
            assert scorer.versions["grpo-rewards"] == scorer.versions["lark"] == "unknown"
            assert document(scorer)["info"]["version"] == "unknown"
        finally:
            library_versions.cache_clear()


@pytest.mark.parametrize("folder", ["benchmarks", "examples", "experiments", "docs"])
def test_no_script_hides_a_module(folder: str) -> None:
    """Python looks for modules beside the script that it runs first."""
    names = {path.stem for path in (ROOT / folder).rglob("*.py")}
    known = sys.stdlib_module_names | importlib.metadata.packages_distributions().keys()
    assert names, folder
    assert not names & known


def test_every_required_package_is_imported() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        required = tomllib.load(file)["project"]["dependencies"]
    # What has a marker makes others faster where it has a wheel, and is not imported by name.
    always = [line for line in required if ";" not in line]
    needed = {re.split(r"[<>=!~;\[ ]", line)[0].lower().replace("_", "-") for line in always}
    imported = {
        name.split(".")[0]
        for path in (ROOT / "grpo_rewards").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
        )
        if name
    }
    distributions = importlib.metadata.packages_distributions()
    used = {
        dist.lower().replace("_", "-") for name in imported for dist in distributions.get(name, ())
    }
    assert needed <= used
