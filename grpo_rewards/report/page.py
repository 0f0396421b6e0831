"""A report: one HTML page that needs no network: charts, and completions with their trees.

    page = Report("gsm8k", facts={"rows": "1,319"})
    page.add("Reward", "reward", charts.histogram("reward", rewards))
    page.rows([ReportRow(0, "…", {"reward": 1.0})])
    page.write("report.html")

The page holds its data and Vega, which draws what Altair describes; a security policy in the page
forbids it to load anything. The words of completions reach the page as text, never as markup.
"""

from __future__ import annotations

import functools
import html
import importlib
import importlib.resources
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grpo_rewards.errors import RewardError
from grpo_rewards.json_text import json_safe
from grpo_rewards.limits import MAX_REPORT_CHARS
from grpo_rewards.report import charts

if TYPE_CHECKING:
    from grpo_rewards.scoring.scorer import Scorer


@dataclass(slots=True)
class ReportRow:
    """One completion: its scores by name (the reward among them), why they are what they are, and
    what to show of it. `b` and `other` are the scores and the completion of a second run."""

    row: int
    completion: str
    scores: Mapping[str, float | None]
    status: Mapping[str, str] = field(default_factory=dict)
    prompt: str = ""
    gold: str | None = None
    marks: Sequence[tuple[int, int, str, str]] = ()
    why: Sequence[Mapping[str, Any]] | None = None
    b: Mapping[str, float | None] | None = None
    other: str | None = None

    def explain(
        self, scorer: Scorer, columns: Mapping[str, Any], mates: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Add why the row got its scores, and the marks in its completion. `columns` are the
        ruleset's inputs, `mates` those of the other rows of its group; BatchError where an input
        is missing."""
        from grpo_rewards.explain.marks import look

        self.why, self.marks = look(scorer, columns, mates)

    def as_json(self) -> dict[str, Any]:
        """For the page; long texts are cut, and say so."""
        cut = len(self.completion) if len(self.completion) > MAX_REPORT_CHARS else 0
        text = self.completion[:MAX_REPORT_CHARS]
        found: dict[str, Any] = {
            "row": self.row, "completion": text, "scores": dict(self.scores), "cut": cut,
            "status": dict(self.status), "prompt": self.prompt[:MAX_REPORT_CHARS],
            "gold": None if self.gold is None else self.gold[:MAX_REPORT_CHARS],
            "marks": sorted(mark for mark in self.marks if mark[1] <= len(text)),
        }  # fmt: skip
        if self.why is not None:
            found["why"] = self.why
        if self.b is not None:
            found["b"] = dict(self.b)
        if self.other is not None:
            found["other"] = self.other[:MAX_REPORT_CHARS]
        return found


class Report:
    """A page in the making: collects what it shows; `write` makes the file."""

    def __init__(self, title: str, *, facts: Mapping[str, str] | None = None) -> None:
        self.title = title
        self.facts = dict(facts or {})
        self.notes: list[str] = []
        self._summary: list[tuple[str, ...]] = []
        self._charts: list[dict[str, Any]] = []
        self._rows: list[ReportRow] = []

    def add(self, section: str, title: str, chart: Mapping[str, Any] | None) -> None:
        """Add a chart (Vega-Lite) under a heading; None is passed over."""
        if chart is not None:
            self._charts.append({"section": section, "title": title, "spec": dict(chart)})

    def curves(self, section: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> None:
        """Add a chart with a line for each name, of (step, value) points; empty ones are left
        out."""
        found = {name: points for name, points in series.items() if points}
        if found:
            self.add(section, ", ".join(found), charts.curves(found))

    def scores(
        self, columns: Mapping[str, Any], status: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """Add a summary, histograms and correlations of columns [B] of numbers with NaN for null,
        the reward last; with statuses, also why values are absent."""
        names = [*(name for name in columns if name != "reward"), "reward"]
        found = {name: np.asarray(columns[name], np.float64) for name in names if name in columns}
        why = status or {}
        self._summary = [_summary(name, found[name], why.get(name, ())) for name in found]
        for name in sorted(found, key=lambda name: name != "reward"):
            if not np.isnan(found[name]).all():
                self.add("Distribution", name, charts.histogram(name, found[name]))
        if len(found) > 1:
            self.add("Between scores", "correlation", charts.correlation(found))
        self.add("Between scores", "null and errors, by cause", charts.causes(why))

    def formats(self, scorer: Scorer, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add a chart of what completions lacked where they left a format; `rows` are the inputs of
        the ruleset."""
        from grpo_rewards.explain.marks import format_failures

        chart = charts.left_formats(format_failures(scorer, rows))
        self.add("Formats", "where completions leave them", chart)

    def rows(self, rows: Sequence[ReportRow]) -> None:
        """Set the completions of the table."""
        self._rows = list(rows)

    def html(self) -> str:
        """The whole page."""
        names = list(dict.fromkeys(name for row in self._rows for name in row.scores))
        data = {
            "names": sorted(names, key=lambda name: name != "reward"),
            "charts": self._charts,
            "rows": [row.as_json() for row in self._rows],
        }
        return _PAGE.format(
            title=html.escape(self.title), css=_asset("report.css"), bundle=_bundle(),
            js=_asset("report.js"), data=_embedded(data), facts=self._facts(),
            notes="".join(f'<p class="alarm">{html.escape(note)}</p>' for note in self.notes),
            summary=self._table(),
        )  # fmt: skip

    def write(self, path: str | Path) -> Path:
        """Write the page, whole or not at all."""
        target = Path(path)
        draft = target.with_name(f".{target.name}.draft")
        try:
            draft.write_text(self.html(), encoding="utf-8", errors="backslashreplace")
            draft.replace(target)
        except OSError as error:
            raise RewardError(f"{target}: {error.strerror or error}") from None
        return target

    def _facts(self) -> str:
        cells = (
            f"<span>{html.escape(k)} <b>{html.escape(v)}</b></span>" for k, v in self.facts.items()
        )
        return "".join(cells)

    def _table(self) -> str:
        if not self._summary:
            return ""
        heads = ("score", "mean", "std", "lowest", "highest", "null", "error")
        head = "".join(f'<th class="{"number" if i else ""}">{h}</th>' for i, h in enumerate(heads))
        body = ""
        for cells in self._summary:
            kind = ' class="reward"' if cells[0] == "reward" else ""
            tds = "".join(
                f'<td class="{"number" if i else ""}">{html.escape(cell)}</td>'
                for i, cell in enumerate(cells)
            )
            body += f"<tr{kind}>{tds}</tr>"
        return f'<table class="summary"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _summary(name: str, values: Any, status: Sequence[str]) -> tuple[str, ...]:
    present = values[~np.isnan(values)]
    errors = sum(label in ("timeout", "too_large", "failed") for label in status)
    absent = len(values) - len(present)
    if not len(present):
        return (name, "", "", "", "", f"{absent - errors:,}", f"{errors:,}")
    numbers = (present.mean(), present.std(), present.min(), present.max())
    return (name, *(f"{x:.4g}" for x in numbers), f"{max(0, absent - errors):,}", f"{errors:,}")


@functools.cache
def _asset(name: str) -> str:
    return (importlib.resources.files("grpo_rewards.report") / "web" / name).read_text("utf-8")


@functools.cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the package that Altair uses for it."""
    charts.altair()
    try:
        made: str = importlib.import_module("vl_convert").javascript_bundle()
    except ImportError:
        hint = 'pip install "grpo-rewards[report]"'
        raise RewardError("a report needs vl-convert-python", hint=hint) from None
    return made.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _embedded(data: Any) -> str:
    """JSON that cannot end its script element, whatever a completion says; ASCII, so that lone
    surrogates come through."""
    text = json.dumps(json_safe(data), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; img-src data:">
<title>{title}</title><style>{css}</style></head><body>
<h1>{title}</h1><div class="facts">{facts}</div>{notes}{summary}
<div id="charts"></div>
<section id="completions"><h2>Completions</h2>
<div class="tools">
<input id="search" type="search" placeholder="search completion, prompt, gold" aria-label="search">
<select id="show" aria-label="which rows"><option value="all">all rows</option>
<option value="top">highest reward</option><option value="zero">reward 0</option>
<option value="null">reward null</option><option value="reasons">with a status</option>
<option value="changed">reward changed</option></select>
<button id="back">back</button><button id="next">next</button><span class="count" id="count"></span></div>
<table><thead id="head"></thead><tbody id="rows"></tbody></table></section>
<script type="application/json" id="data">{data}</script>
<script>{bundle}</script><script>{js}</script>
</body></html>
"""  # noqa: E501 - a policy is one line
