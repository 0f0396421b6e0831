"""The charts of a report as Vega-Lite, made with Altair; what they show is counted here.

A chart holds numbers and names of scores only, never a completion's text.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from grpo_rewards.errors import RewardError

Floats = npt.NDArray[np.float64]
Chart = dict[str, Any]
BINS = 24  # of a histogram: what an eye tells apart at this width
FEW = 12  # distinct values that get a bar each: as many labels as fit beside each other
WIDTH, HEIGHT = 338, 220


def altair() -> Any:
    """The plotting library; RewardError names the extra where it is not installed."""
    try:
        return importlib.import_module("altair")
    except ImportError:
        hint = 'pip install "grpo-rewards[report]"'
        raise RewardError("a report needs altair", hint=hint) from None


def _chart(rows: Sequence[Mapping[str, Any]]) -> Any:
    alt = altair()
    return alt.Chart(alt.Data(values=[dict(row) for row in rows]))


def _done(chart: Any, *, width: int = WIDTH, height: int = HEIGHT) -> Chart:
    """The finished chart, as large as it says with axes and legend, so that charts line up."""
    fit = altair().AutoSizeParams(type="fit", contains="padding")
    whole = chart.properties(width=width, height=height, autosize=fit)
    found: Chart = whole.to_dict(validate=False)
    return found


def histogram(name: str, values: Floats) -> Chart:
    """A histogram of a score; where it has few distinct values each gets a bar."""
    alt = altair()
    present = values[np.isfinite(values)]
    distinct, counts = np.unique(present, return_counts=True)
    if len(distinct) <= FEW:
        return _bar_each(name, _labels(distinct), counts)
    edges, heights = bins(present)
    if not _drawable(edges):
        return _bar_each(f"{name}, from", _labels(edges)[:-1], heights)
    rows = [
        {"from": float(low), "to": float(high), "rows": int(height)}
        for (low, high), height in zip(itertools.pairwise(edges), heights, strict=True)
    ]
    # no round corners: with them Vega-Lite 6.4 gives a bar between two numbers a width of 0
    return _done(
        _chart(rows).mark_bar().encode(
            x=alt.X("from:Q", title=name, bin="binned"), x2="to:Q",
            y=alt.Y("rows:Q", title="rows"),
            tooltip=[alt.Tooltip("from:Q", format=".4g"), alt.Tooltip("to:Q", format=".4g"),
                     "rows:Q"],
        )
    )  # fmt: skip


def bins(values: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """The edges of bins of equal width, and how many values each bin holds; the last one includes
    its upper edge. There are fewer than BINS where floats are too close for so many edges."""
    low, high = values.min(), values.max()
    part = np.linspace(0.0, 1.0, BINS + 1)
    # not low + part * (high - low): the difference may be more than a float holds
    edges = np.unique(np.clip(low * (1 - part) + high * part, low, high))
    places = np.searchsorted(edges, values, "right") - 1
    last = len(edges) - 2
    return edges, np.bincount(np.minimum(places, last), minlength=last + 1)


def _drawable(edges: Floats) -> bool:
    """Whether a linear axis can hold them: Vega computes with their difference and its inverse,
    and rounds the ends outwards to ten digits or so."""
    with np.errstate(over="ignore"):
        size, span = np.abs(edges).max(), edges[-1] - edges[0]
    return bool(1e-290 < span < 1e290 and span > 1e-9 * size)


def _labels(values: Floats) -> list[str]:
    """The values as texts, with as few digits as tell them apart (17 do for any two floats)."""
    for digits in range(4, 18):
        found = [f"{value:.{digits}g}" for value in values]
        if len(set(found)) == len(found):
            break
    return found


def _bar_each(name: str, labels: Sequence[str], counts: npt.NDArray[np.int64]) -> Chart:
    alt = altair()
    rows = [{"value": label, "rows": int(n)} for label, n in zip(labels, counts, strict=True)]
    many = len(labels) > FEW
    axis = alt.Axis(labelAngle=-45 if many else 0, labelOverlap="greedy" if many else False)
    return _done(
        _chart(rows).mark_bar(cornerRadiusEnd=2).encode(
            x=alt.X("value:N", title=name, sort=None, axis=axis),
            y=alt.Y("rows:Q", title="rows"), tooltip=["value:N", "rows:Q"],
        )
    )  # fmt: skip


def correlation(columns: Mapping[str, Floats]) -> Chart:
    """Pearson's correlation of every pair of scores over the rows that have both."""
    alt = altair()
    rows = [
        {"a": a, "b": b, "r": pearson(columns[a], columns[b])} for a in columns for b in columns
    ]
    side = max(WIDTH, min(560, 70 + 46 * len(columns)))
    base = _chart(rows).encode(
        x=alt.X("a:N", title=None, sort=list(columns), axis=alt.Axis(labelAngle=-30)),
        y=alt.Y("b:N", title=None, sort=list(columns)),
    )
    scale = alt.Scale(domain=[-1, 0, 1], range=["#c2410c", "#94a3b833", "#2563eb"])
    boxes = base.mark_rect().encode(
        color=alt.Color("r:Q", scale=scale, title="r"),
        tooltip=["a:N", "b:N", alt.Tooltip("r:Q", format=".3f")],
    )
    return _done(boxes + base.mark_text(fontSize=11).encode(text=alt.Text("r:Q", format=".2f")),
                 width=side, height=max(HEIGHT, side - 60))  # fmt: skip


def pearson(a: Floats, b: Floats) -> float | None:
    """Pearson's correlation over the rows that have both values; None where fewer than two rows do,
    or a side does not vary."""
    both = ~(np.isnan(a) | np.isnan(b))
    left, right = a[both], b[both]
    if both.sum() < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return None
    return float(np.corrcoef(left, right)[0, 1])


def causes(status: Mapping[str, Sequence[str]]) -> Chart | None:
    """Rows whose value has a reason, by score and reason; None where all are `ok`."""
    alt = altair()
    rows = [
        {"score": name, "status": label, "rows": labels.count(label)}
        for name, column in status.items()
        for labels in (list(column),)
        for label in sorted(set(labels) - {"ok"})
    ]
    if not rows:
        return None
    return _done(
        _chart(rows).mark_bar(cornerRadiusEnd=2).encode(
            y=alt.Y("score:N", title=None, sort=list(status)), x=alt.X("rows:Q", title="rows"),
            color=alt.Color("status:N", title="status"), tooltip=["score:N", "status:N", "rows:Q"],
        ),
        height=max(HEIGHT, 30 * len(status)),
    )  # fmt: skip


def left_formats(counts: Mapping[tuple[str, str], int]) -> Chart | None:
    """How many completions left which format for want of what, the twelve most frequent ones."""
    alt = altair()
    most = sorted(counts, key=lambda name: (-counts[name], name))[:12]
    if not most:
        return None
    several = len({shape for shape, _ in most}) > 1
    rows = [
        {"wanted": f"{shape}: {wanted}" if several else wanted, "rows": counts[shape, wanted]}
        for shape, wanted in most
    ]
    return _done(
        _chart(rows).mark_bar(cornerRadiusEnd=2).encode(
            y=alt.Y("wanted:N", title="wanted", sort=None), x=alt.X("rows:Q", title="rows"),
            tooltip=["wanted:N", "rows:Q"],
        ),
        height=max(HEIGHT, 24 * len(rows)),
    )  # fmt: skip


def by_length(lengths: Floats, values: Floats, name: str) -> Chart | None:
    """The mean of a score against the length of the completion, over up to ten parts of the rows,
    with twice its standard error."""
    alt = altair()
    there = ~np.isnan(values)
    lengths, values = lengths[there], values[there]
    if len(values) < 8 or np.ptp(lengths) == 0:
        return None
    parts = np.array_split(np.argsort(lengths, kind="stable"), min(10, len(values) // 4))
    rows = []
    for part in parts:
        mean, n = float(values[part].mean()), len(part)
        error = 2 * float(values[part].std()) / math.sqrt(n)
        rows.append({
            "characters": float(np.median(lengths[part])), "mean": mean, "rows": n,
            "low": mean - error, "high": mean + error,
        })  # fmt: skip
    x = alt.X("characters:Q", title="characters of the completion", scale=alt.Scale(zero=False))
    base = _chart(rows).encode(x=x)
    band = base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q", title=f"mean {name}"), y2="high:Q")
    line = base.mark_line(point=True).encode(
        y="mean:Q", tooltip=["characters:Q", alt.Tooltip("mean:Q", format=".3f"), "rows:Q"]
    )
    return _done(band + line)


def curves(series: Mapping[str, Sequence[tuple[float, float]]]) -> Chart:
    """A line for each name against the step, also smoothed where one has more than 20 points."""
    alt = altair()
    rows = []
    for name, points in series.items():
        trend = smooth([y for _, y in points])
        for (x, y), smoothed in zip(points, trend, strict=True):
            rows.append({"name": name, "step": x, "value": y, "trend": smoothed})
    long = max(map(len, series.values())) > 20
    base = _chart(rows).encode(
        x=alt.X("step:Q", title="step"),
        color=alt.Color("name:N", title=None, sort=list(series),
                        legend=alt.Legend(orient="top") if len(series) > 1 else None),
        tooltip=["name:N", "step:Q", alt.Tooltip("value:Q", format=".4g")],
    )  # fmt: skip
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False))
    raw = base.mark_line(opacity=0.35 if long else 1.0, point=not long).encode(y=y)
    return _done(raw + base.mark_line(strokeWidth=2.5).encode(y="trend:Q") if long else raw)


def smooth(values: Sequence[float]) -> list[float]:
    """The exponential running mean over about ten values, without the bias of its start."""
    out, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = 0.9 * total + 0.1 * value, 0.9 * weight + 0.1
        out.append(total / weight)
    return out


def against(a: Floats, b: Floats) -> Chart:
    """The rewards of two runs over the same rows: a bubble for each pair of values."""
    alt = altair()
    both = ~(np.isnan(a) | np.isnan(b))
    pairs, counts = np.unique(
        np.round(np.stack([a[both], b[both]], axis=1), 3), axis=0, return_counts=True
    )
    rows = [
        {"A": float(x), "B": float(y), "rows": int(n)}
        for (x, y), n in zip(pairs, counts, strict=True)
    ]
    room = alt.Scale(padding=24)
    return _done(
        _chart(rows).mark_circle(opacity=0.6).encode(
            x=alt.X("A:Q", title="reward in A", scale=room),
            y=alt.Y("B:Q", title="reward in B", scale=room),
            size=alt.Size("rows:Q", title="rows"), tooltip=["A:Q", "B:Q", "rows:Q"],
        )
    )  # fmt: skip
