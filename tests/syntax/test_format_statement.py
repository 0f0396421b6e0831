"""`format` statements with options, and formats in files of their own."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from typer.testing import CliRunner

import grpo_rewards as gr
from grpo_rewards.cli.main import app
from grpo_rewards.syntax.parser import parse

R1 = """start: "<think>" think "</think>" "<answer>" answer "</answer>"
think: TEXT
answer: TEXT
TEXT: /[^<]+/
"""
HEAD = "input completion: chat\n\n"
TAIL = "\n\nreward = match(f, completion).ok\n"
GOOD, OPENED = "<think>x</think><answer>4</answer>", "x</think><answer>4</answer>"


def scored(text: str) -> list[float]:
    return gr.loads(text, workers=0)(completion=[GOOD, OPENED, "no"]).reward.tolist()


def test_a_grammar_takes_options_in_a_call() -> None:
    assert scored(f"{HEAD}format f = lark'''{R1}'''{TAIL}") == [1, 0, 0]
    assert scored(f"{HEAD}format f = lark(text'''{R1}''', prefix=\"<think>\"){TAIL}") == [0, 1, 0]
    assert scored(f'{HEAD}format f = tags("think", "answer", prefix="<think>"){TAIL}') == [0, 1, 0]


def test_an_ambiguous_grammar_needs_earley_by_name() -> None:
    grammar = 'start: a\na: a a | "x"\n'
    with pytest.raises(gr.RulesetError):
        gr.loads(f"{HEAD}format f = lark'''{grammar}'''{TAIL}")
    text = f"{HEAD}format f = lark(text'''{grammar}''', engine=\"earley\"){TAIL}"
    with gr.loads(text) as scorer:
        assert scorer(completion=["xxx", "xy"]).reward.tolist() == [1, 0]


@pytest.mark.parametrize(
    "body",
    [
        'lark("""a\nb""", prefix="<think>")',
        'from "r1.lark"',
        'from "invoice.json"',
        'lark(file="r1.lark", prefix="<think>")',
        'lark(file="r1.txt")',
        'lark("start: \\"\'\'\'\\"")',
        "json'''{}'''",
    ],
)
def test_every_form_survives_its_own_text(body: str) -> None:
    ruleset = parse(f"{HEAD}format f = {body}{TAIL}")
    assert parse(str(ruleset)) == ruleset
    assert str(parse(str(ruleset))) == str(ruleset)


def test_options_are_part_of_the_identity_in_text_and_python() -> None:
    made = gr.compile(
        reward=gr.match(gr.lark_format("f", R1, prefix="<think>"), gr.completion).ok, workers=0
    )
    text = f"{HEAD}format f = lark(text'''{R1}''', prefix=\"<think>\"){TAIL}"
    assert made.hash == gr.loads(text).hash
    assert made.hash != gr.loads(f"{HEAD}format f = lark'''{R1}'''{TAIL}").hash


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("lark(1)", "S05", "is not a format"),
        ('lark("a", file="b")', "S05", "is not a format"),
        ("lark()", "S05", "is not a format"),
        ('from "r1.txt"', "S05", "ends with .lark"),
        ('from "r1.lark"', "N10", "cannot be read"),
        ("lark(text'''start: \"a\"''', engine=\"glr\")", "T30", "no engine"),
        ("lark(text'''start: \"a\"''', speed=1)", "N05", "does not take"),
    ],
)
def test_a_mistake_is_named(body: str, code: str, message: str) -> None:
    with pytest.raises(gr.RulesetError, match=rf"(?s)\[{code}\].*{message}"):
        gr.loads(f"{HEAD}format f = {body}{TAIL}")


# In a file of its own


def write(folder: Path, path: str = "formats/r1.lark", grammar: str = R1) -> Path:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(grammar)
    (ruleset := folder / "r.reward").write_text(f'{HEAD}format f = from "{path}"{TAIL}')
    return ruleset


def test_a_file_is_its_text(tmp_path: Path) -> None:
    with gr.load(write(tmp_path)) as scorer:
        assert scorer(completion=[GOOD, "no"]).reward.tolist() == [1, 0]
        assert scorer.hash == gr.loads(f"{HEAD}format f = lark'''{R1}'''{TAIL}").hash
        again = pickle.loads(pickle.dumps(scorer))
        assert again(completion=[GOOD]).reward.tolist() == [1]
    write(tmp_path, grammar=R1.replace("[^<]+", "[0-9]+"))
    assert gr.load(tmp_path / "r.reward").hash != scorer.hash


def test_a_file_stays_in_the_folder_tree(tmp_path: Path) -> None:
    (tmp_path / "up.lark").write_text(R1)
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "r.reward").write_text(f'{HEAD}format f = from "../up.lark"{TAIL}')
    with pytest.raises(gr.RulesetError, match="N10"):
        gr.load(inner / "r.reward")


def test_a_mistake_in_a_file_has_its_line(tmp_path: Path) -> None:
    ruleset = write(tmp_path, grammar=R1 + "extra: MISSING\n")
    with pytest.raises(gr.RulesetError, match=r"formats/r1\.lark:\d"):
        gr.load(ruleset)
    shown = CliRunner().invoke(app, ["check", str(ruleset)])
    assert shown.exit_code == 1


def test_a_saved_scorer_brings_the_files_that_it_names(tmp_path: Path) -> None:
    write(tmp_path / "a" / "sub")
    (tmp_path / "a" / "sub" / "r.reward").rename(tmp_path / "a" / "sub" / "base.reward")
    (tmp_path / "a" / "top.reward").write_text(
        f'import "sub/base.reward" as b\n{HEAD}reward = match(b.f, completion).ok\n'
    )
    with gr.load(tmp_path / "a" / "top.reward") as scorer:
        scorer.save(tmp_path / "b" / "ruleset.reward")
        with gr.load(tmp_path / "b" / "ruleset.reward") as copy:
            assert copy.hash == scorer.hash
            assert copy(completion=[GOOD]).reward.tolist() == [1]
