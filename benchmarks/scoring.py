"""Batched scoring: ours beside TRL's reward functions and a verifiers Rubric, and at scale.

    python benchmarks/scoring.py [--data DIR] [--verifiers DIR] [--quick] [--json FILE]

Work: is the boxed answer right, and is the completion `<think>…</think><answer>…</answer>`; groups
of 8 completions of real GSM8K solutions, a part of them with other numbers or without their form.
Rivals: TRL's `accuracy_reward` + `think_format_reward`; a verifiers `Rubric` with the function of
its `MathRubric` (Math-Verify) in process and the format reward of its `XMLParser`.

Regime: the sides take turns, in one process with one thread, each on rows that it has not seen; a
ratio is that of the medians over the turns, by CPU seconds and by wall seconds. Two worker
processes count by wall seconds alone: a machine with fewer than two free cores hides what they do.
Then: files of growing size through the `score` command, in a process of its own, with its peak
memory; a batch with 16 hostile rows; Ray's actors beside worker processes. `--verifiers` names a
folder with verifiers < 0.4 (`pip install --target DIR "verifiers==0.1.14"`); without it, and
without Ray, those parts are left out. Ends in one line of JSON, which `--json` also writes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import grpo_rewards as gr
from grpo_rewards.data.file_scoring import score_file
from grpo_rewards.data.processes import BatchExecutor, Processes

SHARED = Path(__file__).parent.parent.parent / "shared"
GROUP, BATCH = 8, 512
RULES = """
input completion: chat
input gold: text from "answer"
score correct = math.equal(extract.boxed(completion), gold)
score form = format.tags(completion, "think", "answer")
"""
PLAIN = RULES + "reward = correct + form\n"
LANGUAGE = RULES + (
    'score language = language.share(extract.tag(completion, "think"), "en") ?? 0\n'
    "reward = correct + form + 0.1 * language * correct\n"
)


@dataclass(frozen=True, slots=True)
class Row:
    """A completion, its gold, and what is true of it."""

    completion: str
    gold: str
    correct: bool
    whole: bool


def read(data: Path) -> list[tuple[list[str], str]]:
    """The steps and the answer of every GSM8K training problem."""
    with (data / "gsm8k" / "train.jsonl").open(encoding="utf-8") as file:
        answers = [json.loads(line)["answer"] for line in file]
    parts = (answer.rpartition("\n#### ") for answer in answers)
    return [(steps.split("\n"), gold.replace(",", "")) for steps, _, gold in parts]


def made(problems: list[tuple[list[str], str]], seed: int) -> Iterator[Row]:
    """Groups of 8 completions, for ever; no two are alike in all parts."""
    rng = random.Random(seed)
    while True:
        for steps, gold in rng.sample(problems, len(problems)):
            yield from (completion(rng, steps, gold) for _ in range(GROUP))


def completion(rng: random.Random, steps: list[str], gold: str) -> Row:
    """A solution, sometimes with a step less, another answer, or a broken form."""
    kept = [step for step in steps if rng.random() < 0.8] or steps
    right = rng.random() < 0.6
    answer = gold if right else str(int(float(gold)) + rng.choice([-10, -2, -1, 1, 2, 10, 100]))
    thought, box = "\n".join(kept), rf"\boxed{{{answer}}}"
    form = rng.random()
    if form < 0.05:
        text = f"<think>\n{thought}\n\n<answer>{box}</answer>"
    elif form < 0.10:
        text = f"{thought}\nThe answer is {box}."
    elif form < 0.15:
        text = f"<think>\n{thought}\n</think>\nSo the answer is {box}."
    else:
        text = f"<think>\n{thought}\n</think>\n<answer>The answer is {box}.</answer>"
    return Row(text, gold, right, form >= 0.15)


Verdicts = list[tuple[Any, Any]]  # correct and form, a row


def ours(scorer: gr.Scorer) -> Callable[[list[Row]], Verdicts]:
    def run(rows: list[Row]) -> Verdicts:
        found: Verdicts = []
        for at in range(0, len(rows), BATCH):
            scores = scorer(**columns(rows[at : at + BATCH]))
            found += zip(scores["correct"].tolist(), scores["form"].tolist(), strict=True)
        return found

    return run


def pooled(engine: BatchExecutor) -> Callable[[list[Row]], Verdicts]:
    def run(rows: list[Row]) -> Verdicts:
        starts = range(0, len(rows), BATCH)
        pending = [engine.submit(columns(rows[at : at + BATCH])) for at in starts]
        found: Verdicts = []
        for one in pending:
            scores = one.result()
            found += zip(scores["correct"].tolist(), scores["form"].tolist(), strict=True)
        return found

    return run


def columns(rows: list[Row]) -> dict[str, list[str]]:
    return {"completion": [row.completion for row in rows], "gold": [row.gold for row in rows]}


def trl(rows: list[Row]) -> Verdicts:
    from trl.rewards import accuracy_reward, think_format_reward

    chats = [[{"role": "assistant", "content": row.completion}] for row in rows]
    right = accuracy_reward(chats, [f"${row.gold}$" for row in rows])
    return list(zip(right, think_format_reward(chats), strict=True))


def verifiers() -> Callable[[list[Row]], Verdicts]:
    """A Rubric of two functions, scored group by group as a trainer would."""
    import verifiers as vf
    from verifiers.rubrics.math_rubric import verify_response

    parser = vf.XMLParser(["think", "answer"], answer_field="answer")

    def correct(parser: Any, completion: Any, answer: str, **_: Any) -> float:
        box = vf.extract_boxed_answer(parser.parse_answer(completion) or "")
        return float(verify_response(box, answer, 50_000)[0])

    funcs = [correct, parser.get_format_reward_func()]
    rubric = vf.Rubric(funcs=funcs, weights=[1.0, 1.0], parser=parser)
    names = [function.__name__ for function in funcs]

    async def group(rows: list[Row]) -> Verdicts:
        states = []
        for row in rows:
            state = vf.State()
            state.update(
                prompt=[{"role": "user", "content": "?"}], answer=row.gold, info={}, task="",
                completion=[{"role": "assistant", "content": row.completion}], timing={},
                trajectory=[],
            )  # fmt: skip
            states.append(state)
        await rubric.score_group(states)
        return [tuple(state["metrics"][name] for name in names) for state in states]  # type: ignore

    async def every(rows: list[Row]) -> Verdicts:
        found: Verdicts = []
        for at in range(0, len(rows), GROUP):
            found += await group(rows[at : at + GROUP])
        return found

    return lambda rows: asyncio.run(every(rows))


def timed(run: Callable[[list[Row]], Verdicts], rows: list[Row]) -> tuple[Verdicts, float, float]:
    """Verdicts, and microseconds of CPU and of the wall a row."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = run(rows)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return found, 1e6 * cpu / len(rows), 1e6 * wall / len(rows)


def race(problems: list[tuple[list[str], str]], turns: int, theirs: int, mine: int) -> Any:
    """All sides in turns; who was right where."""
    rivals: dict[str, Callable[[list[Row]], Verdicts]] = {"trl": trl}
    try:
        rivals["verifiers"] = verifiers()
    except (ImportError, AttributeError) as error:
        print(f"without verifiers: {error}")
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    with gr.loads(PLAIN) as scorer, gr.loads(LANGUAGE) as spoken, Processes(scorer, 2) as two:
        sides = {
            "ours": (ours(scorer), mine), "ours, 2 processes": (pooled(two), 2 * mine),
            "ours + language": (ours(spoken), mine),
            **{name: (run, theirs) for name, run in rivals.items()},
        }  # fmt: skip
        stream = made(problems, 0)
        for run, _ in sides.values():  # tables are built, processes started
            run([next(stream) for _ in range(2 * BATCH)])
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        agreement = {name: agreed() for name in rivals}
        for _ in range(turns):
            for name, (run, count) in sides.items():
                rows = [next(stream) for _ in range(count)]
                found, *cost = timed(run, rows)
                costs[name].append((cost[0], cost[1]))
                if name in rivals:
                    judge(agreement[name], rows, ours(scorer)(rows), found)
    return report_race(costs, agreement)


def agreed() -> dict[str, int]:
    keys = ("rows", "ours_wrong", "theirs_wrong", "lost", "form_wrong", "their_form_wrong")
    return dict.fromkeys((*keys, "form_lost"), 0)


def judge(tally: dict[str, int], rows: list[Row], mine: Verdicts, theirs: Verdicts) -> None:
    """`lost`: the rival is right and we are not."""
    for row, one, other in zip(rows, mine, theirs, strict=True):
        tally["rows"] += 1
        for key, at, truth in (("", 0, row.correct), ("form_", 1, row.whole)):
            we, they = (one[at] == 1) == truth, (other[at] == 1) == truth
            tally[f"{key}wrong" if key else "ours_wrong"] += not we
            tally[f"their_{key}wrong" if key else "theirs_wrong"] += not they
            tally[f"{key}lost"] += they and not we


def report_race(costs: dict[str, list[tuple[float, float]]], agreement: Any) -> dict[str, Any]:
    middle = {
        name: [statistics.median(turn[i] for turn in turns) for i in (0, 1)]
        for name, turns in costs.items()
    }
    result: dict[str, Any] = {
        "us_a_row": {n: {"cpu": round(c, 1), "wall": round(w, 1)} for n, (c, w) in middle.items()},
        "rows_per_s": {name: round(1e6 / wall) for name, (_, wall) in middle.items()},
        "verdicts": agreement,
    }
    for rival in agreement:
        result[f"ratio_{rival}"] = {
            "cpu": round(middle[rival][0] / middle["ours"][0], 1),
            "wall": round(middle[rival][1] / middle["ours"][1], 1),
            "wall_2_processes": round(middle[rival][1] / middle["ours, 2 processes"][1], 1),
            "cpu_with_language": round(middle[rival][0] / middle["ours + language"][0], 1),
        }
    for name, (cpu, wall) in middle.items():
        print(f"{name:20}{1e6 / wall:10.0f} rows/s   {cpu:8.1f} us CPU, {wall:8.1f} us wall a row")
    for rival in agreement:
        print(f"over {rival}: {result[f'ratio_{rival}']}\n  verdicts: {agreement[rival]}")
    return result


# Files


PROGRAM = """
import sys
from grpo_rewards.cli.main import main
try:
    main()
finally:
    status = open("/proc/self/status").read()
    print(status.split("VmHWM:")[1].split()[0], file=sys.stderr)
"""


def files(problems: list[tuple[list[str], str]], sizes: list[int]) -> dict[str, Any]:
    """The command on files of growing size: peak memory and seconds."""
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        ruleset = Path(folder, "plain.reward")
        ruleset.write_text(PLAIN, "utf-8")
        for size in sizes:
            data, out = Path(folder, "data.jsonl"), Path(folder, "out.jsonl")
            write(data, problems, size)
            command = [sys.executable, "-c", PROGRAM, "score", str(ruleset), str(data)]
            before, started = os.times(), time.perf_counter()
            run = subprocess.run(
                [*command, "-o", str(out), "--json"], capture_output=True, text=True, check=False
            )
            if run.returncode:
                sys.exit(run.stderr)
            after = os.times()
            cpu = after.children_user - before.children_user
            cpu += after.children_system - before.children_system
            result[str(size)] = {
                "rows": json.loads(run.stdout)["rows"],
                "peak_mb": round(int(run.stderr.split()[-1]) / 1024, 1),
                "wall_s": round(time.perf_counter() - started, 2), "cpu_s": round(cpu, 2),
            }  # fmt: skip
            print(f"file of {size:,} rows: {result[str(size)]}")
            out.unlink()
    first, last = result[str(sizes[0])], result[str(sizes[-1])]
    result["peak_ratio"] = round(last["peak_mb"] / first["peak_mb"], 3)
    growth = last["rows"] / first["rows"]
    result["cpu_per_row_ratio"] = round(last["cpu_s"] / first["cpu_s"] / growth, 3)
    print(f"largest over smallest: memory {result['peak_ratio']}, CPU a row "
          f"{result['cpu_per_row_ratio']}")  # fmt: skip
    return result


def write(path: Path, problems: list[tuple[list[str], str]], size: int) -> None:
    stream = made(problems, 1)
    with path.open("w", encoding="utf-8") as file:
        for number in range(size):
            row = next(stream)
            record = {"id": number, "completion": row.completion, "answer": row.gold}
            file.write(json.dumps(record) + "\n")


# Hostile rows


def hostile_texts() -> list[str]:
    """16 answers that are meant to take for ever, or all memory."""
    wide = "x" * 10**6
    tower = r"9^{9^{9^9}}"
    bodies = [
        tower, f"{tower}!", rf"\frac{{{tower}}}{{{tower}}}", r"\sqrt{" * 5000 + "2" + "}" * 5000,
        "(" * 10**5 + "1" + ")" * 10**5, "{" * 10**6, wide, "9" * 10**6, "-" * 10**5 + "1",
        "+".join(rf"\sin({i} x)" for i in range(2000)), r"\int_0^1 x^x \, dx",
        r"\sum_{n=1}^{10^{9}} \frac{1}{n^n}", r"(x+y+z)^{99999}", "1,000" * 10**5,
        r"\left" * 10**5, r"\binom{10^9}{5\cdot 10^8}",
    ]  # fmt: skip
    return [rf"<think>{body[:100]}</think><answer>\boxed{{{body}}}</answer>" for body in bodies]


def hostile(problems: list[tuple[list[str], str]]) -> dict[str, Any]:
    """512 rows with and without 16 hostile ones among them."""
    stream = made(problems, 2)
    honest = [next(stream) for _ in range(BATCH - 16)]
    mixed, places = list(honest), []
    for i, text in enumerate(hostile_texts()):
        places.append(31 * i)
        mixed.insert(31 * i, Row(text, r"\sqrt{2} x^2", False, True))
    honest_places = np.setdiff1d(np.arange(BATCH), places)
    with gr.loads(PLAIN) as scorer:
        scorer(**columns([next(stream) for _ in range(BATCH)]))
        started = time.perf_counter()
        alone = scorer(**columns(honest))
        honest_s = time.perf_counter() - started
        started = time.perf_counter()
        together = scorer(**columns(mixed))
        mixed_s = time.perf_counter() - started
        deadline_s = scorer.graph.settings.timeout_s
    same = np.array_equal(alone.reward, together.reward[honest_places], equal_nan=True)
    paid = int((together["correct"][places] == 1).sum())
    result = {
        "honest_s": round(honest_s, 3), "mixed_s": round(mixed_s, 3), "deadline_s": deadline_s,
        "within_bound": bool(mixed_s <= 2 * deadline_s + honest_s), "same_honest_scores": same,
        "hostile_paid": paid,
    }  # fmt: skip
    print("16 hostile rows among 512:", result)
    return result


# Ray


def on_ray(problems: list[tuple[list[str], str]], size: int) -> dict[str, Any]:
    """One file through two worker processes and through two actors, in turns."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        print(f"without Ray: {error}")
        return {}
    from grpo_rewards.data.ray_data import RayActors

    seconds: dict[str, list[float]] = {"processes": [], "ray": []}
    with tempfile.TemporaryDirectory() as folder, gr.loads(PLAIN) as scorer:
        data, small = Path(folder, "data.jsonl"), Path(folder, "small.jsonl")
        write(data, problems, size)
        write(small, problems, 4 * BATCH)
        with Processes(scorer, 2) as processes, RayActors(scorer, actors=2) as actors:
            engines: dict[str, BatchExecutor] = {"processes": processes, "ray": actors}
            outputs = {name: Path(folder, f"{name}.jsonl") for name in engines}
            for name, engine in engines.items():
                score_file(scorer, small, outputs[name], executor=engine)
            for _ in range(3):
                for name, engine in engines.items():
                    started = time.perf_counter()
                    score_file(scorer, data, outputs[name], executor=engine)
                    seconds[name].append(time.perf_counter() - started)
            same = outputs["ray"].read_bytes() == outputs["processes"].read_bytes()
    middle = {name: statistics.median(found) for name, found in seconds.items()}
    result = {
        "rows": size, "same_file": same,
        **{f"{name}_rows_per_s": round(size / found) for name, found in middle.items()},
        "efficiency": round(middle["processes"] / middle["ray"], 2),
    }  # fmt: skip
    print("Ray beside worker processes:", result)
    return result


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", type=Path, default=SHARED / "data")
    options.add_argument("--verifiers", type=Path, help="a folder with verifiers < 0.4")
    options.add_argument("--quick", action="store_true", help="a tenth of the work")
    options.add_argument("--only", choices=["race", "files", "hostile", "ray"])
    options.add_argument("--json", type=Path, help="write the numbers here")
    given = options.parse_args()
    if given.verifiers is not None:
        sys.path.append(str(given.verifiers))
    problems = read(given.data)
    part = 10 if given.quick else 1
    sizes = [200_000 // part, 2_000_000 // part]
    parts: dict[str, Callable[[], Any]] = {
        "race": lambda: race(problems, 5, 8 * BATCH // min(part, 8), 32 * BATCH // min(part, 8)),
        "hostile": lambda: hostile(problems),
        "ray": lambda: on_ray(problems, 100_000 // part),
        "files": lambda: files(problems, sizes),
    }
    report: dict[str, Any] = {}
    if given.only is not None and given.json is not None and given.json.exists():
        report = json.loads(given.json.read_text("utf-8"))  # one part is measured anew
    for name, run in parts.items():
        if given.only in (None, name):
            report[name] = run()
        if given.json is not None:
            given.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
