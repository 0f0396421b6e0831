"""Whatever bytes stand in a ruleset: it loads, or there are findings with a place inside of it."""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT

import grpo_rewards as gr
from grpo_rewards.audit.test_blocks import run_tests
from grpo_rewards.compiler.statements import check
from grpo_rewards.syntax.formatter import format_text
from grpo_rewards.syntax.parser import parse_all

SEEDS = [
    path.read_text("utf-8")
    for folder in ("rulesets", "tests/weak", "examples")
    for path in sorted((ROOT / folder).glob("*.reward"))
]
TOKENS = [token for text in SEEDS for token in re.findall(r"\w+|\s+|[^\w\s]+", text)]
TOKENS += ["'''", '"""', 're"', *"?? |> ** -> .. { } ( ) [ ] \\ #".split()]
ODD = ["\x00", "\ud800", "\U0001f600", "\u202e", "\ufeff", "\r", "\x0c", "\u2028", "1e999"]
ODD += ["9" * 400, "(" * 200]

#: CPU seconds; far over the one that a ruleset is allowed, so that only a hang is found.
SLOW_S = 20


def _cut(text: str, rng: random.Random) -> str:
    start = rng.randrange(len(text) + 1)
    return text[:start] + text[start + rng.randrange(80) :]


def _insert(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(rng.choice((TOKENS, ODD))) + text[at:]


def _swap(text: str, rng: random.Random) -> str:
    pieces = re.findall(r"\w+|\s+|[^\w\s]+", text) or [""]
    i, j = rng.randrange(len(pieces)), rng.randrange(len(pieces))
    pieces[i], pieces[j] = pieces[j], pieces[i]
    return "".join(pieces)


def _splice(text: str, rng: random.Random) -> str:
    other = rng.choice(SEEDS)
    return text[: rng.randrange(len(text) + 1)] + other[rng.randrange(len(other)) :]


def _replace(text: str, rng: random.Random) -> str:
    return text.replace(rng.choice(TOKENS), rng.choice(TOKENS))


def _flip(text: str, rng: random.Random) -> str:
    if not text:
        return text
    at = rng.randrange(len(text))
    return (
        text[:at] + chr(rng.choice((rng.randrange(128), rng.randrange(0x11000)))) + text[at + 1 :]
    )


CHANGES: list[Callable[[str, random.Random], str]] = [
    _cut, _insert, _swap, _splice, _replace, _flip,
]  # fmt: skip


def hostile_texts(count: int, seed: int) -> Iterator[str]:
    """Mutated rulesets for the most part, then bags of tokens, then noise."""
    rng = random.Random(seed)
    for _ in range(count):
        kind = rng.random()
        if kind < 0.8:
            text = rng.choice(SEEDS)
            for _ in range(rng.randint(1, 4)):
                text = rng.choice(CHANGES)(text, rng)
            yield text
        elif kind < 0.95:
            yield " ".join(rng.choice(TOKENS) for _ in range(rng.randrange(80)))
        else:
            yield bytes(rng.randrange(256) for _ in range(rng.randrange(300))).decode("latin-1")


def judge(text: str) -> None:
    """A ruleset that loads and formats to itself, or findings with places inside the text."""
    started = time.process_time()
    parsed = parse_all(text, name="hostile.reward")
    _, findings = check(parsed)
    for finding in findings:
        assert 0 <= finding.place.start <= finding.place.end <= len(text), finding
        assert finding.show(parsed.source)
    if not parsed.findings:
        assert format_text(format_text(text)) == format_text(text)
    errors = [finding for finding in findings if finding.severity == "error"]
    try:
        gr.loads(text)
    except gr.RulesetError as error:
        refused = error.findings[0].code == "T80"  # Python code, which `check` does not run
        assert error.findings and (errors or refused)
    else:
        assert not errors
    assert time.process_time() - started < SLOW_S


@pytest.mark.parametrize("seed", range(4))
def test_any_text_is_a_ruleset_or_findings_inside_of_it(seed: int) -> None:
    for text in hostile_texts(100, seed):
        judge(text)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_twenty_thousand_texts_are_rulesets_or_findings(seed: int) -> None:
    for text in hostile_texts(1_000, seed):
        judge(text)


@pytest.mark.parametrize("char", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_a_comment_goes_on_over_what_only_looks_like_a_line_end(char: str) -> None:
    judge(f"# one{char}two\nreward = 1  # three{char}four\n")


NOISE = random.Random(0).randbytes(2_000)


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"reward = 1\n# \xff\n", b"\xfe\xff\x00r", b"reward = \xe9", NOISE],
    ids=["byte", "comment", "utf-16", "latin-1", "noise"],
)
def test_bytes_that_are_no_text_have_their_place(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bytes.reward"
    path.write_bytes(data)
    with pytest.raises(gr.RulesetError, match="is not UTF-8") as raised:
        gr.load(path)
    (finding,) = raised.value.findings
    assert 0 <= finding.place.start < len(raised.value.source.text)


@pytest.mark.parametrize("seed", range(2))
def test_any_bytes_are_a_ruleset_or_findings(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    path = tmp_path / "bytes.reward"
    for text in hostile_texts(40, seed):
        data = bytearray(text.encode("utf-8", "surrogatepass"))
        for _ in range(rng.randrange(4)):
            data.insert(rng.randrange(len(data) + 1), rng.randrange(256))
        path.write_bytes(bytes(data))
        with contextlib.suppress(gr.RulesetError), gr.load(path):
            pass


# Files that lead elsewhere


def _folder(root: Path, files: dict[str, str]) -> Path:
    """A folder `in` with files, and beside it one that nothing in it may read."""
    (root / "in").mkdir()
    (root / "secret.reward").write_text("score secret = 1\nreward = secret\n")
    for name, text in files.items():
        (root / "in" / name).write_text(text)
    return root / "in"


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_cycle_of_imports_is_a_finding(length: int, tmp_path: Path) -> None:
    names = [f"{i}.reward" for i in range(length)]
    following = [*names[1:], names[0]]
    texts = [f'import "{name}" as other\nreward = other.reward\n' for name in following]
    folder = _folder(tmp_path, dict(zip(names, texts, strict=True)))
    cycle = " → ".join([*names, names[0]])
    with pytest.raises(gr.RulesetError, match=f"cannot be imported: that is a cycle, {cycle}"):
        gr.load(folder / names[0])


@pytest.mark.parametrize("path", ["../secret.reward", "../in/../secret.reward", "link.reward", "/"])
def test_an_import_stays_in_the_folder_tree(path: str, tmp_path: Path) -> None:
    path = path if path != "/" else str(tmp_path / "secret.reward")
    text = f'import "{path}" as other\nreward = other.secret\n'
    folder = _folder(tmp_path, {"a.reward": text})
    (folder / "link.reward").symlink_to(tmp_path / "secret.reward")
    with pytest.raises(gr.RulesetError, match="cannot be imported"):
        gr.load(folder / "a.reward")


def test_files_that_import_without_end_are_refused(tmp_path: Path) -> None:
    chain = {
        f"{i}.reward": f'import "{i + 1}.reward" as other\nreward = other.reward\n'
        for i in range(50)
    }
    folder = _folder(tmp_path, {**chain, "50.reward": "reward = 1\n"})
    with pytest.raises(gr.RulesetError):
        gr.load(folder / "0.reward")


@pytest.mark.parametrize("path", ["../secret.jsonl", "/etc/passwd"])
def test_the_rows_of_a_test_stay_in_the_folder_tree(path: str, tmp_path: Path) -> None:
    text = f'input a: num\nreward = a\ntest "t" each from "{path}" {{ expect reward == 1 }}\n'
    folder = _folder(tmp_path, {"a.reward": text})
    (tmp_path / "secret.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(gr.BatchError, match="outside of the ruleset's folder tree"):
        run_tests(gr.load(folder / "a.reward"), folder=folder)


# Formats and patterns

FORMATS = {
    "ambiguous": 'start: a | b\n  a: "x"\n  b: "x"',
    "conflict": 'start: e\n  e: e "+" e | "1"',
    "collision": "start: (A | B)+\n  A: /[a-c]+/\n  B: /[b-d]+/",
    "left recursion": "start: start start | X\n  X: /x/",
    "reads a file": "%import .secret.X\n  start: X",
    "reads a file by its path": "%import /etc/passwd (X)\n  start: X",
    "extends a file": "%extend common.WS: /x/\n  start: WS",
    "no start": "begin: /x/",
    "unknown": "start: nothing",
    "bad pattern": "start: X\n  X: /(a/",
    "empty": "",
    "empty terminal": "start: X+\n  X: /a*/",
    "many states": "start: " + " ".join(f'("a{i}"? "b{i}"?)~0..9' for i in range(60)),
    "choices in a row": "start: " + '("a" | "b") ' * 40,
    "many rules": "start: r0\n" + "\n".join(f'  r{i}: r{i + 1} "x"' for i in range(400)),
}


@pytest.mark.parametrize("grammar", FORMATS.values(), ids=FORMATS)
def test_a_grammar_that_cannot_be_used_is_a_finding_inside_of_it(grammar: str) -> None:
    text = f"input t: text\nformat f = lark'''\n  {grammar}\n'''\nreward = match(f, t).ok\n"
    _, findings = check(parse_all(text))
    (error,) = [finding for finding in findings if finding.severity == "error"]
    assert error.code == "T30"
    assert text.index("format") <= error.place.start <= text.index("reward")
    judge(text)


@pytest.mark.parametrize(
    "schema",
    [
        '{"$ref": "file:///etc/passwd"}', '{"$ref": "http://localhost:1/x"}', "[]", "{", "nul",
        '{"type": "thing"}', '{"$ref": "#"}', '{"$dynamicRef": "http://localhost:1/x"}',
        "[" * 5_000,
    ],
    ids=["file", "network", "list", "open", "word", "type", "itself", "dynamic", "deep"],
)  # fmt: skip
def test_a_schema_reads_nothing_else(schema: str) -> None:
    judge(f"input t: text\nformat f = json'''{schema}'''\nreward = match(f, t).ok\n")


def test_patterns_that_backtrack_elsewhere_take_linear_time() -> None:
    text = 'input t: text\nreward = t matches re"(a+)+$" and t matches re"(a|a)*b"\n'
    judge(text)
    started = time.process_time()
    assert gr.loads(text)(t=["a" * 100_000 + "!"]).reward[0] == 0
    assert time.process_time() - started < SLOW_S


@pytest.mark.parametrize("regexp", ["(a+)+b", "(a|a)*b", "(a|ab?b?)*c", "(a|b|ab)*c"])
def test_a_terminal_that_may_backtrack_is_a_warning_and_never_a_hang(regexp: str) -> None:
    text = f"""input t: text\nformat f = lark'''\n  start: X "!"\n  X: /{regexp}/\n'''\n"""
    text += "reward = match(f, t).ok\npolicy { timeout 500ms on timeout -> 0 }\n"
    judge(text)
    with gr.loads(text) as scorer:
        assert scorer(t=["a" * 60 + "!", "ab" * 30 + "!"]).reward.tolist() == [0, 0]


@pytest.mark.parametrize(
    "text",
    [
        "reward = " + "(" * 10_000 + "1" + ")" * 10_000,
        "reward = " + "[" * 10_000,
        "reward = " + "1 if true else " * 10_000 + "1",
        "reward = " + "case { true -> " * 3_000 + "1" + " }" * 3_000,
        "reward = " + "f(" * 10_000,
        "reward = 1" + " |> abs()" * 10_000,
        "let a = 1\n" + "".join(f"let a{i} = a + 1\n" for i in range(3_000)) + "reward = a",
        "#" * 5_000_000,
        "reward = 1 " * 450_000,
        "reward = " + "9" * 300_000,
        'test "t" { ' * 3_000,
        "",
    ],
    ids=[
        "brackets", "lists", "ifs", "cases", "calls", "pipes", "lets", "5 MB", "5 MB of rewards",
        "digits", "tests", "nothing",
    ],
)  # fmt: skip
def test_deep_and_large_texts_are_judged_at_once(text: str) -> None:
    judge(text)
