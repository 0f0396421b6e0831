"""The pages open in a browser without a network and show what the files say."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import grpo_rewards as gr
from grpo_rewards.cli.main import app
from grpo_rewards.data.kinds import open_dataset
from grpo_rewards.explain.marks import format_failures, look
from grpo_rewards.report import charts
from grpo_rewards.report.page import Report
from grpo_rewards.report.scores_page import read_scores, scores_report
from grpo_train.run.report import run_report

ARITHMETIC = ROOT / "rulesets" / "arithmetic.reward"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
FOREIGN = "<think>We add the two numbers. Wir nehmen die beiden Zahlen zusammen.</think>"
TEXTS = [
    ("<think>3 and 6 make nine</think><answer>9</answer>", "9"),
    (f"{FOREIGN}<answer>9</answer>", "9"),
    ("𝟗😀<think>so</think><answer>9</answer> and more", "9"),
    ("</script><script>document.title='taken'</script><img src=x onerror=alert(1)>", "9"),
    ("\ud800 lone", "9"),
    ("", "9"),
    ("<think>no gold</think><answer>9</answer>", None),
    ("so " * 20_000, "9"),
    ("<think>😀😀 first three and six</think><answer>9</answer>", "9"),
    ("<think>3 and 6 make nine</think><answer>9</answer> trailing words", "9"),
]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One file of completions, scored as it is and with another weight."""
    folder = tmp_path_factory.mktemp("scores")
    lines = [json.dumps({"prompt": "3 + 6?", "completion": c, "gold": g}) for c, g in TEXTS * 6]
    (folder / "data.jsonl").write_text("\n".join(lines))
    other = ARITHMETIC.read_text("utf-8").replace("0.2 * form", "0.1 * form")
    (folder / "other.reward").write_text(other)
    files = []
    for name, ruleset in (("a", ARITHMETIC), ("b", folder / "other.reward")):
        files.append(folder / f"{name}.jsonl")
        command = ["score", str(ruleset), str(folder / "data.jsonl"), "-o", str(files[-1])]
        assert CliRunner().invoke(app, command).exit_code == 0
    return files[0], files[1]


def data_of(page: str) -> Any:
    return json.loads(re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)[0])


def test_a_report_holds_the_files_scores(scored: tuple[Path, Path]) -> None:
    with gr.load(ARITHMETIC) as scorer:
        report = scores_report([scored[0]], scorer)
        page = report.html()
        home = scorer(completion=[c for c, _ in TEXTS * 6], gold=[g for _, g in TEXTS * 6])
    rows = data_of(page)["rows"]
    found = [np.nan if row["scores"]["reward"] is None else row["scores"]["reward"] for row in rows]
    assert np.allclose(found, home.reward, equal_nan=True)
    assert [row["status"].get("reward", "ok") for row in rows] == home.status["reward"]
    assert rows[7]["cut"] == len(TEXTS[7][0])
    assert f"ruleset <b>{home.hash[:12]}</b>" in page


def test_nothing_that_a_completion_says_becomes_markup(scored: tuple[Path, Path]) -> None:
    page = scores_report([scored[0]]).html()
    assert "<img src=x" not in page
    assert "document.title='taken'</script>" not in page
    assert page.endswith("</script>\n</body></html>\n")
    assert "default-src 'none'" in page


def test_marks_stand_where_the_rules_saw_something() -> None:
    with gr.load(ARITHMETIC) as scorer:
        seen = {}
        for text, gold in (*TEXTS[:3], TEXTS[9]):
            why, marks = look(scorer, {"completion": text, "gold": gold})
            assert [tree["label"].partition(":")[0] for tree in why][-1] == "reward"
            seen[text] = {kind: text[start:end] for start, end, kind, _ in marks}
    first, second, third, fourth = seen.values()
    assert first == {"answer": "9"}
    assert second == {"answer": "9", "foreign": "Wir nehmen die beiden Zahlen zusammen"}
    assert third == {"fail": "𝟗"}
    assert fourth == {"fail": "t"}


def test_the_sample_is_even_and_the_charts_are_of_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    rows = [
        {"completion": f"{i}", "reward": float(i % 2), "reward_status": "ok"} for i in range(2_000)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    with open_dataset(path) as dataset:
        found = read_scores(dataset, sample=200)
    assert len(found) == 2_000
    kept = sorted(found.records)
    assert len(kept) == 200
    assert 700 < np.mean(kept) < 1_300
    assert all(found.records[i]["completion"] == str(i) for i in kept)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"completion": "x"}', "no scores in it"),
        ("", "empty"),
        ("{", "cut off"),
        ('{"reward": "much", "reward_status": "ok"}', "row 0: `reward` is a str"),
    ],
)
def test_a_file_without_scores_is_told_apart(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(content)
    with pytest.raises(gr.BatchError, match=message):
        scores_report([path])


def test_null_rewards_chats_and_a_broken_note_beside_the_file_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "hi"}]
    row = {"completion": chat, "reward": None, "reward_status": "missing", "c": None}
    path.write_text(json.dumps(row | {"c_status": "timeout"}))
    (tmp_path / "s.jsonl.meta.json").write_text("[1")
    page = scores_report([path]).html()
    (found,) = data_of(page)["rows"]
    assert (found["completion"], found["scores"]["reward"]) == ("hi", None)
    assert found["status"] == {"reward": "missing", "c": "timeout"}


def test_two_files_of_other_lengths_are_refused(scored: tuple[Path, Path], tmp_path: Path) -> None:
    short = tmp_path / "short.jsonl"
    short.write_text("\n".join(scored[0].read_text().splitlines()[:5]))
    with pytest.raises(gr.BatchError, match="60 rows"):
        scores_report([scored[0], short])


def test_two_files_are_matched_by_a_key(scored: tuple[Path, Path], tmp_path: Path) -> None:
    """Keys that stand in several rows are told apart by their order."""
    lines = scored[0].read_text().splitlines()
    numbered = [json.dumps({**json.loads(line), "id": i // 2}) for i, line in enumerate(lines)]
    turned = [numbered[i ^ 1] for i in range(len(numbered))][::-1]  # groups turned, pairs in order
    for name, rows in (("a", numbered), ("b", turned[10:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    report = scores_report([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], key="id")
    assert report.facts["rewards changed"] == "0"
    assert "10 rows are only in A, 0 only in B." in report.notes
    rows = data_of(report.html())["rows"]
    assert [("b" in row) for row in rows] == [i < 50 for i in range(60)]
    assert all(row["other"] == row["completion"] for row in rows[:50])
    with pytest.raises(gr.BatchError, match="no column `name`"):
        scores_report([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], key="name")


@pytest.mark.parametrize("key", [None, "completion"])
def test_a_file_without_rows_is_compared_or_refused_in_a_line(
    scored: tuple[Path, Path], tmp_path: Path, key: str | None
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    empty = tmp_path / "empty.parquet"
    fields = {"completion": pa.string(), "reward": pa.float64(), "reward_status": pa.string()}
    pq.write_table(pa.schema(fields).empty_table(), empty)
    for files in ([empty, scored[0]], [scored[0], empty]):
        if key is None:
            with pytest.raises(gr.BatchError, match=r"0 (rows|\n)|has 0"):
                scores_report(files)
        else:
            assert "rows are only in" in scores_report(files, key=key).notes[-1]


def test_faults_are_counted_over_the_whole_file(scored: tuple[Path, Path]) -> None:
    with gr.load(ARITHMETIC, workers=0) as scorer:
        found = format_failures(scorer, [{"completion": text} for text, _ in TEXTS * 6])
        shape = next(n.value for n in scorer.graph.nodes if n.type.kind == "format")
    left = [shape.match(text).at for text, _ in TEXTS * 6]
    assert found.total() == sum(at is not None for at in left) > 0
    assert "Formats" in {
        chart["section"] for chart in data_of(scores_report([scored[0]], scorer).html())["charts"]
    }


def test_a_tree_of_a_ruleset_that_looks_at_groups_sees_the_group(tmp_path: Path) -> None:
    ruleset = tmp_path / "g.reward"
    ruleset.write_text(
        "ruleset g\n\ninput completion: chat\n\nscore long = text.length(completion)\n\n"
        "reward = long - group.mean(long)\n"
    )
    texts = ["a", "bbb", "cc", "dddddd"]
    rows = [{"completion": text, "q": i // 2} for i, text in enumerate(texts)]
    data, out = tmp_path / "d.jsonl", tmp_path / "s.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    command = ["score", str(ruleset), str(data), "--group", "q", "-o", str(out)]
    assert CliRunner().invoke(app, command).exit_code == 0
    with gr.load(ruleset) as scorer:
        page = data_of(scores_report([out], scorer, group="q").html())
        alone = data_of(scores_report([out], scorer).html())
    rewards = [row["scores"]["reward"] for row in page["rows"]]
    assert rewards == [-1, 1, -2, 2]
    assert [float(row["why"][-1]["value"]) for row in page["rows"]] == rewards
    assert [float(row["why"][-1]["value"]) for row in alone["rows"]] == [0] * 4
    told = ["explain", str(ruleset), str(data), "--row", "3"]
    assert "= 2" in CliRunner().invoke(app, [*told, "--group", "q"]).stdout
    assert "name the column of group ids" in CliRunner().invoke(app, told).stderr


def test_correlation_is_pearsons_and_null_without_variation() -> None:
    a, b = np.array([1.0, 2.0, 3.0, np.nan]), np.array([2.0, 4.0, 7.0, 1.0])
    assert charts.pearson(a, b) == pytest.approx(np.corrcoef(a[:3], b[:3])[0, 1])
    assert charts.pearson(a, np.ones(4)) is None
    assert charts.pearson(a[:1], b[:1]) is None


def test_curves_are_smoothed_without_bias() -> None:
    assert charts.smooth([2.0] * 30) == pytest.approx([2.0] * 30)


# -- as pictures ----------------------------------------------------------------------------------


def bars(chart: Any) -> list[tuple[float, float]]:
    """The width and height of every bar that is drawn, without a browser: those of its outline."""
    picture = pytest.importorskip("vl_convert").vegalite_to_svg(chart)
    outlines = re.findall(r'aria-roledescription="bar" d="([^"]*)"', picture)
    # a bar's outline is `M x,y h width v height h -width Z`
    sizes = [re.fullmatch(r"M[^h]*h([^v]*)v([^h]*)h[^Z]*Z", outline) for outline in outlines]
    assert all(sizes), outlines
    found = [(float(size[1]), float(size[2])) for size in sizes if size]
    return [size for size in found if min(size) > 0]


def counts_of(values: Any) -> list[int]:
    """How many values stand in each bar, counted one by one."""
    present = sorted(value for value in values.tolist() if np.isfinite(value))
    if len(set(present)) <= charts.FEW:
        return [len(list(same)) for _, same in itertools.groupby(present)]
    edges, _ = charts.bins(np.array(present))
    inner = edges[1:-1].tolist()
    return [
        len(list(same)) for _, same in itertools.groupby(present, lambda v: bisect_right(inner, v))
    ]


def assert_a_bar_each(values: Any) -> None:
    found, counts = bars(charts.histogram("s", values)), counts_of(values)
    assert len(found) == len(counts)
    widths, heights = np.array(found).T
    assert widths == pytest.approx(np.full(len(widths), widths[0]), rel=1e-3)
    assert widths[0] > 2  # pixels, what an eye sees
    assert heights / heights.sum() == pytest.approx(np.array(counts) / sum(counts), rel=1e-6)


RANDOM = np.random.default_rng(0).normal(size=500)
SCORES = {
    "one": np.array([3.0]),
    "two": np.array([0.0, 1.0, 1.0]),
    "twelve": np.arange(12.0),
    "thirteen": np.arange(13.0),
    "a hundred": np.arange(100.0),
    "continuous": RANDOM,
    "all equal": np.ones(50),
    "negative": -np.arange(30.0),
    "with nulls": np.where(RANDOM < 0, np.nan, RANDOM),
    "one far away": np.append(np.arange(30.0), 1e12),
    "huge": RANDOM * 1e307,
    "tiny": RANDOM * 1e-320,
    "next to each other": 1 + np.arange(20) * 2.0**-52,
    "labels alike": np.array([0.12345, 0.123451, 0.3]),
    "infinite": np.array([1.0, np.inf, -np.inf]),
}


@pytest.mark.parametrize("name", SCORES)
def test_a_histogram_draws_a_bar_for_every_bin_with_rows(name: str) -> None:
    assert_a_bar_each(SCORES[name])


MANY = st.lists(st.floats(-1e7, 1e7), min_size=20, max_size=60, unique=True)
SCALES = st.sampled_from([1.0, 1e-3, 1e9, 1e300, 1e-300, 5e-324])


@settings(max_examples=25)
@given(MANY | st.lists(st.integers(-3, 3), min_size=1, max_size=40), SCALES, st.integers(0, 3))
def test_its_bars_have_the_areas_of_the_counts(
    values: list[float], scale: float, nulls: int
) -> None:
    assert_a_bar_each(np.append(np.array(values) * scale, [np.nan] * nulls))


def test_every_chart_of_bars_draws_them() -> None:
    status = {"a": ["ok", "timeout", "timeout", "unparsed"], "b": ["missing", "ok", "ok", "ok"]}
    assert len(bars(charts.causes(status))) == 3
    assert len(bars(charts.left_formats({("f", "x"): 3, ("f", "y"): 1, ("g", "x"): 1}))) == 3


# -- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as kit:
        made = kit.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


def opened(browser: Any, path: Path, scheme: str = "light") -> tuple[Any, list[str]]:
    """The page with its charts drawn, and what went wrong or was asked of a network."""
    page = browser.new_page(color_scheme=scheme)
    faults: list[str] = []
    page.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else 0)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda r: faults.append(r.url) if r.url.startswith("http") else 0)
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-drawn=yes]", timeout=60_000)
    return page, faults


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_draws_filters_sorts_and_explains(
    browser: Any, scored: tuple[Path, Path], tmp_path: Path, scheme: str
) -> None:
    out = tmp_path / "r.html"
    command = ["report", str(scored[0]), "--ruleset", str(ARITHMETIC), "-o", str(out)]
    assert CliRunner().invoke(app, command).exit_code == 0
    page, faults = opened(browser, out, scheme)
    assert page.title() == "arithmetic"
    assert page.locator("figure svg").count() == page.locator("figure").count() >= 6
    rows = page.locator("tr.row")
    assert rows.count() == 50
    page.click("button[data-sort=reward]")
    first = page.locator("tr.row td").nth(1).inner_text()
    assert first == "1.3"
    page.click("button[data-sort=reward]")
    assert page.locator("tr.row td").nth(1).inner_text() == "0"
    page.fill("#search", "beiden zahlen")
    assert rows.count() == 6
    rows.nth(0).click()
    detail = page.locator("tr.detail")
    assert (
        detail.locator("pre mark.foreign").inner_text() == "Wir nehmen die beiden Zahlen zusammen"
    )
    assert "language.share en" in detail.locator("ul.tree").inner_text()
    page.fill("#search", "")
    page.select_option("#show", "null")
    assert rows.count() == 6
    page.select_option("#show", "all")
    page.fill("#search", "nine</think>")
    assert rows.count() == 12
    page.fill("#search", "<answer>9")
    for _ in range(2):  # null is last, whichever way
        assert rows.last.locator("td").nth(1).inner_text().startswith("null")
        page.click("button[data-sort=reward]")
    page.fill("#search", "😀😀")
    rows.nth(0).click()
    assert detail.locator("pre mark.answer").inner_text() == "9"
    page.fill("#search", "onerror")
    page.select_option("#show", "all")
    rows.nth(0).click()
    assert "<img src=x" in page.locator("tr.detail pre").nth(2).inner_text()
    assert page.title() == "arithmetic"
    assert faults == []
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_figure_of_a_page_has_marks_that_can_be_seen(
    browser: Any, tmp_path: Path, scheme: str
) -> None:
    pages = {"scores": Report("scores"), "run": Report("run")}
    columns = {name: SCORES[name][:30] for name in ("continuous", "thirteen", "two")}
    even = {name: np.resize(values, 30) for name, values in columns.items()}
    status = {"two": ["ok"] * 20 + ["timeout"] * 10}
    pages["scores"].scores(even | {"reward": even["continuous"]}, status)
    pages["scores"].add("Length", "two", charts.by_length(np.arange(30.0), even["two"], "two"))
    pages["scores"].add("A and B", "both", charts.against(even["two"], even["thirteen"]))
    pages["run"].curves("Run", {"reward": [(float(i), i / 30) for i in range(30)]})
    pages["run"].curves("Run", {"short": [(0.0, 1.0), (1.0, 2.0)], "kl": [(0.0, 1.0), (1.0, 3.0)]})
    pages["run"].add("Formats", "faults", charts.left_formats({("f", "x"): 3, ("f", "y"): 1}))
    for name, report in pages.items():
        page, faults = opened(browser, report.write(tmp_path / f"{name}.html"), scheme)
        seen = page.evaluate(_SEEN)
        assert len(seen) == page.locator("figure").count() > 2
        titles = page.locator("figcaption").all_inner_texts()
        assert min(seen) >= 1, dict(zip(titles, seen, strict=True))
        if name == "scores":  # the reward comes first, then a histogram for each score
            assert seen[:4] == [len(counts_of(even[n])) for n in ("continuous", *columns)]
        assert faults == []
        page.close()


#: For each figure, its marks that cover some pixels, or have a length where they are lines.
_SEEN = """() => [...document.querySelectorAll("figure")].map((figure) =>
  [...figure.querySelectorAll(".role-mark path")].filter((mark) => {
    const box = mark.getBBox();
    const line = mark.closest(".mark-line") !== null;
    return line ? Math.max(box.width, box.height) > 1 : Math.min(box.width, box.height) > 0;
  }).length)"""


def test_a_page_of_two_files_shows_what_changed(
    browser: Any, scored: tuple[Path, Path], tmp_path: Path
) -> None:
    out = scores_report(list(scored)).write(tmp_path / "d.html")
    page, faults = opened(browser, out)
    page.select_option("#show", "changed")
    changed = page.locator("tr.row").count()
    assert f"rewards changed {changed}" in page.locator(".facts").inner_text()
    page.locator("tr.row").nth(0).click()
    assert "A AND B" in page.locator("tr.detail").inner_text().upper()
    assert faults == []
    page.close()


def test_a_page_of_a_run_shows_curves_alarms_and_trees(browser: Any, tmp_path: Path) -> None:
    metrics = [
        {"step": i, "reward": i / 30, "score/correct": 1.0, "kl": None, "errors": 0}
        for i in range(30)
    ]
    text, gold = TEXTS[1]
    sample = {"step": 3, "prompt": "p", "completion": text, "gold": gold, "reward": 1.2}
    sample |= {"advantage": 0.5, "scores": {"correct": 1.0}, "status": {}}
    shutil.copy(ARITHMETIC, tmp_path / "ruleset.reward")
    shutil.copy(ROOT / "experiments" / "arithmetic.toml", tmp_path / "config.toml")
    alarm = {"step": 2, "text": "reward rises and `correct` falls"}
    bare = sample | {"completion": "no tags", "step": 4}
    out = run_report(tmp_path, metrics, [sample, bare], [alarm]).write(tmp_path / "report.html")
    page, faults = opened(browser, out)
    shown = ["reward", "score/correct", "where completions leave them"]
    assert page.locator("figcaption").all_inner_texts() == shown
    assert "errors 0" in page.locator(".facts").inner_text()  # what never moves gets no chart
    assert "correct` falls" in page.locator(".alarm").inner_text()
    page.locator("tr.row").nth(0).click()
    assert page.locator("tr.detail pre mark.foreign").count() == 1
    assert "math.equal" in page.locator("ul.tree").inner_text()
    assert faults == []
    page.close()


def test_a_page_of_gsm8k_scores_opens(browser: Any, shared: Path, tmp_path: Path) -> None:
    data = tmp_path / "gsm8k.jsonl"
    with (shared / "data" / "gsm8k" / "example_model_solutions.jsonl").open() as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, 300)]
    columns = ("6b_finetuning", "175b_finetuning")
    data.write_text(
        "\n".join(
            json.dumps(
                {
                    "prompt": row["question"],
                    "gold": row["ground_truth"],
                    **{name: row[name]["solution"] for name in columns},
                }
            )
            for row in rows
        )
    )
    ruleset, files = str(ROOT / "rulesets" / "gsm8k.reward"), []
    for name in columns:
        files.append(str(tmp_path / f"{name}.jsonl"))
        names = ["--map", f"completion={name}", "--map", "gold=gold", "--set", "marker=A:"]
        command = ["score", ruleset, str(data), "-o", files[-1], *names]
        assert CliRunner().invoke(app, command).exit_code == 0
    out = tmp_path / "r.html"
    command = ["report", *files, "--ruleset", ruleset, "-o", str(out), *names]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    page, faults = opened(browser, out)
    assert "rows 300" in page.locator(".facts").inner_text()
    page.locator("tr.row").nth(0).click()
    assert "extract.after" in page.locator("ul.tree").inner_text()
    assert faults == []
    page.close()
