"""The server beside a scorer in the same process: what HTTP costs.

    .venv/bin/python benchmarks/serving.py [--rows 6400]

Regime: `grpo-rewards serve rulesets/gsm8k.reward` as a process of its own on loopback, a client
with 32 requests in flight, requests of 1, 16 and 64 rows; in turns with the scorer in this process,
on rows that neither has seen.
Prints rows per second and ends in one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

import grpo_rewards as gr

RULESET = Path(__file__).parent.parent / "rulesets" / "gsm8k.reward"
SIZES = (1, 16, 64)


def made(count: int, seed: int) -> dict[str, list[str]]:
    """Short solutions, half of them right, none twice."""
    rng = random.Random(seed)
    rows = [(rng.randrange(10**6), rng.randrange(10**6)) for _ in range(count)]
    texts = [f"{a} + {b} = {a + b}, so\n#### {a + b + i % 2}" for i, (a, b) in enumerate(rows)]
    return {"completion": texts, "gold": [str(a + b) for a, b in rows]}


def parts(columns: dict[str, list[str]], size: int) -> list[dict[str, list[str]]]:
    count = len(columns["gold"])
    return [{k: v[i : i + size] for k, v in columns.items()} for i in range(0, count, size)]


async def send(url: str, batches: list[dict[str, list[str]]]) -> list[float]:
    """All rewards, with 32 requests in flight."""
    places = asyncio.Semaphore(32)
    kept = httpx.Limits(max_keepalive_connections=32)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=kept) as client:

        async def one(columns: dict[str, list[str]]) -> Any:
            async with places:
                reply = await client.post("/score", json={"columns": columns})
                return reply.raise_for_status().json()["reward"]

        return [value for part in await asyncio.gather(*map(one, batches)) for value in part]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=6400)
    count = options.parse_args().rows
    code = "from grpo_rewards.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", str(RULESET), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    url = re.search(r"http://\S+", server.stderr.readline())[0]
    seconds: dict[str, list[float]] = {name: [] for name in ("in process", *map(str, SIZES))}
    scorer = gr.load(RULESET)
    try:
        for turn in range(3):
            for i, size in enumerate(SIZES):
                columns = made(count, turn * len(SIZES) + i)
                started = time.perf_counter()
                found = asyncio.run(send(url, parts(columns, size)))
                seconds[str(size)].append(time.perf_counter() - started)
                started = time.perf_counter()
                home = [r for part in parts(columns, 512) for r in scorer(**part).reward.tolist()]
                seconds["in process"].append(time.perf_counter() - started)
                assert found == home
    finally:
        server.terminate()
        server.wait(60)
        scorer.close()
    rates = {name: count / statistics.median(times) for name, times in seconds.items()}
    for name, rate in rates.items():
        label = name if name == "in process" else f"served, {name} rows a request"
        print(f"{label:28} {rate:10,.0f} rows/s")
    ratio = {size: round(rates[str(size)] / rates["in process"], 3) for size in SIZES}
    print(json.dumps({"rows_per_s": {k: round(v) for k, v in rates.items()}, "ratio": ratio}))


if __name__ == "__main__":
    main()
