"""Math answers: ours against Math-Verify, on the same rows, interleaved in one process.

    python benchmarks/answers.py [--cases DIR] [--data DIR] [--rows N] [--hostile]

Regime: one process, one thread, each distinct gold read once by both sides. Accuracy counts a row
as right when "correct is True" agrees with the label; *core* leaves out the rows on which the
sources disagree. Speeds are medians over batches of 512 rows, so that a busy machine slows both.
Ends in one line of JSON.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpo_rewards.rules.math.equality import compile_gold
from grpo_rewards.scoring.grading import grade_batch

Row = dict[str, Any]
CHUNK = 512  # a scorer's batch
SHARED = Path(__file__).parent.parent.parent / "shared"


def read(path: Path) -> list[Row]:
    with gzip.open(path) as file:
        return [json.loads(line) for line in file]


def ours(rows: list[Row], golds: dict[str, Any]) -> list[bool | None]:
    plain = [row for row in rows if row.get("config", {}).get("precision", 6) == 6]
    if len(plain) == len(rows):
        found = grade_batch([golds[row["gold"]] for row in rows], [row["pred"] for row in rows])
        return [one.correct for one in found]
    return [
        grade_batch([golds[row["gold"]]], [row["pred"]], **_options(row))[0].correct for row in rows
    ]


def _options(row: Row) -> dict[str, Any]:
    precision = row.get("config", {}).get("precision", 6)
    return {} if precision == 6 else {"decimals": precision}


def theirs() -> tuple[Callable[[str, bool], Any], Callable[[list[Row], dict[str, Any]], Any]]:
    """Math-Verify with its timeouts on; bare text is given the dollars that it needs."""
    import logging

    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)

    def dressed(text: str, bare: bool) -> str:
        return f"${text}$" if bare and "$" not in text and "boxed" not in text else text

    def read_gold(text: str, bare: bool) -> Any:
        return parse(dressed(text, bare))

    def check(rows: list[Row], golds: dict[str, Any]) -> list[bool | None]:
        out: list[bool | None] = []
        for row in rows:
            options = {"float_rounding": row.get("config", {}).get("precision", 6)}
            try:
                answer = parse(dressed(row["pred"], row.get("bare", False)))
                out.append(verify(golds[row["gold"]], answer, **options))
            except Exception:
                out.append(None)
        return out

    return read_gold, check


def race(rows: list[Row]) -> dict[str, Any]:
    """Both sides over the rows, chunk by chunk."""
    read_gold, check = theirs()
    our_golds = {row["gold"]: compile_gold(row["gold"]) for row in rows}
    their_golds = {row["gold"]: read_gold(row["gold"], True) for row in rows}
    speeds: dict[str, list[float]] = {"ours": [], "math-verify": []}
    verdicts: dict[str, list[bool | None]] = {"ours": [], "math-verify": []}
    for at in range(0, len(rows), CHUNK):
        chunk = rows[at : at + CHUNK]
        for name, run, golds in (("ours", ours, our_golds), ("math-verify", check, their_golds)):
            start = time.perf_counter()
            verdicts[name] += run(chunk, golds)
            speeds[name].append(len(chunk) / (time.perf_counter() - start))
    result: dict[str, Any] = {"rows": len(rows)}
    for name, found in verdicts.items():
        right = [(v is True) == row["expect"] for v, row in zip(found, rows, strict=True)]
        paid = sum(v is True and not row["expect"] for v, row in zip(found, rows, strict=True))
        result[name] = {
            "accuracy": round(100 * sum(right) / len(rows), 3), "false_positives": paid,
            "false_negatives": len(rows) - sum(right) - paid,
            "per_second": round(statistics.median(speeds[name])),
        }  # fmt: skip
    result["speedup"] = round(result["ours"]["per_second"] / result["math-verify"]["per_second"], 1)
    lost = [
        row["id"]
        for row, a, b in zip(rows, verdicts["ours"], verdicts["math-verify"], strict=True)
        if (a is True) != row["expect"] and (b is True) == row["expect"]
    ]
    result["lost_to_rival"] = lost if len(lost) <= 20 else len(lost)
    return result


def hostile(rows: list[Row]) -> dict[str, Any]:
    """Ours alone: Math-Verify needs minutes and a gigabyte here."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    crashes, slow, paid, worst = 0, 0, [], 0.0
    kinds: Counter[str] = Counter()
    for row in rows:
        start = time.perf_counter()
        try:
            found = grade_batch([row["gold"]], [row["pred"]])[0]
        except Exception:
            crashes += 1
            continue
        took = time.perf_counter() - start
        worst, slow = max(worst, took), slow + (took > 2)
        kinds["agrees" if (found.correct is True) == row["expect"] else "differs"] += 1
        if found.correct is True and not row["expect"] and not row.get("policy"):
            paid.append(row["id"])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "rows": len(rows), "crashes": crashes, "over_2s": slow, "paid": paid,
        "worst_s": round(worst, 3), "grown_mb": grown // 1024, **kinds,
    }  # fmt: skip


def start_up() -> dict[str, float]:
    """Seconds of `import grpo_rewards` beyond Python's own, and MB after a first pair."""
    program = (
        "import time; t = time.perf_counter(); import grpo_rewards; s = time.perf_counter() - t\n"
        "from grpo_rewards.scoring.grading import grade; grade('x^2', r'\\frac{x^3}{x}')\n"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(s, int(peak.split()[1]) / 1024)"  # ru_maxrss would count the parent's memory
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    numbers = [tuple(map(float, run.stdout.split())) for run in runs]
    return {"import_s": round(min(n[0] for n in numbers), 2), "rss_mb": round(numbers[0][1])}


def show(title: str, result: dict[str, Any]) -> None:
    print(f"\n{title} ({result['rows']} rows)")
    print(f"{'':14}{'right %':>9}{'false +':>9}{'false -':>9}{'pairs/s':>10}")
    for name in ("ours", "math-verify"):
        one = result[name]
        print(
            f"{name:14}{one['accuracy']:9.2f}{one['false_positives']:9}"
            f"{one['false_negatives']:9}{one['per_second']:10}"
        )
    print(f"speedup {result['speedup']} x; right only there: {result['lost_to_rival']}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cases", type=Path, default=SHARED / "cases")
    options.add_argument("--data", type=Path, default=SHARED / "data")
    options.add_argument("--rows", type=int, default=0, help="at most so many of each data file")
    given = options.parse_args()
    report: dict[str, Any] = {}
    cases = read(given.cases / "math_dev.jsonl.gz")
    core = [row for row in cases if not row.get("policy") and not row.get("disputed")]
    for tier in ("llm", "real", "cas"):
        report[tier] = race([row for row in core if row["tier"] == tier])
        show(f"{tier} core", report[tier])
    for name in ("gsm_like", "math_like"):
        rows = read(given.data / f"{name}.jsonl.gz")
        report[name] = race(rows[: given.rows or len(rows)])
        show(name, report[name])
    report["hostile"] = hostile(read(given.cases / "math_adversarial_dev.jsonl.gz"))
    print("\nhostile, ours alone:", report["hostile"])
    report["start_up"] = start_up()
    print("start-up:", report["start_up"])
    print(json.dumps(report))


if __name__ == "__main__":
    main()
