"""The documentation is true: its blocks run and print what it says; nothing is left out."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT
from typer.testing import CliRunner

import grpo_rewards as gr
from grpo_rewards.audit.examine import attack
from grpo_rewards.audit.test_blocks import run_tests
from grpo_rewards.cli.main import COMMANDS, app
from grpo_rewards.compiler.statements import check
from grpo_rewards.rules.catalog import CATALOG
from grpo_rewards.syntax.parser import parse_all

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text("utf-8"))


def _ids(page: Path) -> str:
    return page.name


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_python_blocks_run_and_print_what_the_page_shows(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    found = blocks(page)
    names: dict[str, object] = {}
    for i, (kind, code) in enumerate(found):
        if kind != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"{page.name}[{i}]", "exec"), names)
        following = found[i + 1] if i + 1 < len(found) else ("", "")
        if printed.getvalue().strip() and following[0] == "":
            assert printed.getvalue().strip() == following[1].strip()


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_rulesets_on_the_pages_compile_and_pass_their_tests(page: Path) -> None:
    for kind, text in blocks(page):
        if kind == "reward":
            with gr.loads(text) as scorer:
                assert not [result for result in run_tests(scorer) if not result.passed]
                rows = [dict(row) for test in scorer.tests for row in test.rows]
                assert not attack(scorer, rows).breaches if rows else True


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_commands_print_what_the_page_shows(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for kind, text in blocks(page):
        if kind == "console" and text.startswith("$ grpo-rewards "):
            command, _, shown = text.partition("\n")
            result = CliRunner().invoke(app, shlex.split(command)[2:])
            assert _without_times(result.output) == _without_times(shown)


def _without_times(printed: str) -> str:
    """Seconds, at the end of a table's row, differ from run to run."""
    return re.sub(r"[\d.]+ │$", "#.## │", printed.strip(), flags=re.MULTILINE)


def test_the_first_ruleset_of_the_readme_is_the_example_that_it_loads() -> None:
    rulesets = [text for _, text in blocks(ROOT / "README.md") if text.startswith("input ")]
    assert rulesets[0] == (ROOT / "examples" / "boxed.reward").read_text("utf-8")


def test_the_rulesets_of_the_tutorial_are_the_files_that_it_runs() -> None:
    rulesets = [text for kind, text in blocks(ROOT / "docs" / "tutorial.md") if kind == "reward"]
    for text, name in zip(rulesets, ("first", "second"), strict=True):
        assert text == (ROOT / "examples" / "tutorial" / f"{name}.reward").read_text("utf-8")


FINDINGS = re.findall(
    r"^\| ([SNTW]\d\d) \| .*? \| (.*?) \| (.*?) ?\|$",
    (ROOT / "docs" / "findings.md").read_text("utf-8"),
    re.MULTILINE,
)
INPUTS = "input completion: chat\ninput gold: text\ninput a: num\ninput p: bool\n"


def _codes(cell: str) -> list[str]:
    """The finding codes of a cell of the page, its code spans taken as lines of a ruleset."""
    text = INPUTS + "\n".join(re.findall(r"`(.+?)`(?=<br>|$)", cell))
    if not re.search(r"^reward", text, re.MULTILINE):
        text += "\nreward = p"
    return [finding.code for finding in check(parse_all(text))[1]]


def test_every_code_is_documented_and_every_documented_code_exists() -> None:
    used = {
        code
        for path in (ROOT / "grpo_rewards").rglob("*.py")
        for code in re.findall(r'"([SNTW]\d\d)"', path.read_text("utf-8"))
    }
    assert used == {code for code, _, _ in FINDINGS}


@pytest.mark.parametrize(("code", "example", "cure"), FINDINGS, ids=[row[0] for row in FINDINGS])
def test_an_example_causes_its_finding_and_the_cure_cures_it(
    code: str, example: str, cure: str
) -> None:
    if example.startswith("`"):
        assert code in _codes(example)
    if cure:
        cured = _codes(cure)
        assert cured.count(code) < max(1, _codes(example).count(code))
        assert not [other for other in cured if not other.startswith("W")]


def test_the_readme_lists_every_command_in_their_order_and_each_has_help() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert re.findall(r"^\| `grpo-rewards (\w+)", readme, re.MULTILINE) == [
        command.verb for command in COMMANDS
    ]
    assert all(command.function.__doc__ for command in COMMANDS)


@pytest.mark.parametrize("rule", CATALOG.values(), ids=lambda rule: rule.name)
def test_every_rule_is_explained_and_its_example_runs(rule: object) -> None:
    assert CATALOG[rule.name].doc
    if rule.example:
        scorer = gr.loads(f"input t: text\nreward = 0 * (({rule.example}) == null)")
        assert scorer(t=["x"], step=7).reward[0] == 0


EXAMPLED = [rule for rule in CATALOG.values() if rule.example and rule.returns.is_numeric]


@pytest.mark.parametrize("rule", EXAMPLED, ids=lambda rule: rule.name)
def test_the_example_of_a_rule_has_a_value(rule: object) -> None:
    scorer = gr.loads(
        f"input t: text\nreward = {rule.example}".replace("schedule(step", "schedule(7")
    )
    assert scorer(t=["x"]).columns["reward"].present[0]
