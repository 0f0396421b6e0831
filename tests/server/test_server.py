"""The server answers everything that is sent to it, and rows score as they do at home."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

import grpo_rewards as gr
from grpo_rewards.limits import MAX_UPLOADS

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from grpo_rewards.server.app import ServeConfig, make_app  # noqa: E402

RULESET = ROOT / "rulesets" / "gsm8k.reward"
HOSTILE = [
    "\ud800", "\x00" * 50, "#### " + "9" * 10_000, "#### 9" * 2_000, "#### " + "(" * 3_000 + "9",
    "#### 9^9^9^9^9", "𝟗" * 500, "<think>" * 1_000, "#### \\frac{1}{0}", "",
]  # fmt: skip


def call(
    steps: Callable[[Any], Any], config: ServeConfig | None = None, text: str | None = None
) -> Any:
    """Runs a coroutine function with a client of the application, in this process."""

    async def run() -> Any:
        scorer = gr.loads(text) if text else gr.load(RULESET)
        app = make_app(scorer, config)
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            return await steps(client)

    return asyncio.run(run())


@contextmanager
def served(*options: str, ruleset: Path = RULESET) -> Iterator[tuple[str, Any]]:
    """The command itself, on a free port: its address and its process."""
    env = {name: value for name, value in os.environ.items() if name != "GRPO_REWARDS_TOKEN"}
    code = "from grpo_rewards.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", str(ruleset), "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"http://[\d.]+:\d+", line)
        assert found, line + process.stderr.read()
        yield found[0], process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_what_is_missing_is_asked_for_in_the_words_of_a_request() -> None:
    reply = call(lambda client: client.post("/score", json={"columns": {"completion": ["x"]}}))
    message = reply.json()["error"]
    assert reply.status_code == 422 and message.endswith("hint: send `gold` among the columns")
    assert "--map" not in message and "pass gold" not in message


def test_columns_and_rows_score_as_at_home() -> None:
    texts = ["#### 9", "#### 8", *HOSTILE]
    golds = ["9"] * (len(texts) - 1) + [None]
    with gr.load(RULESET) as scorer:
        home = scorer(completion=texts, gold=golds)

    async def steps(client: Any) -> Any:
        columns = {"completion": texts, "gold": golds}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(texts, golds, strict=True)]
        bodies = (json.dumps({"columns": columns}), json.dumps({"rows": rows}))
        kind = {"Content-Type": "application/json"}
        return [await client.post("/score", content=body, headers=kind) for body in bodies]

    for reply in call(steps):
        assert reply.status_code == 200
        found = reply.json()
        assert found["hash"] == home.hash
        assert found["reward"] == [None if value != value else value for value in home.reward]
        assert found["status"] == home.status


def test_openrlhf_and_verl_get_their_formats() -> None:
    async def steps(client: Any) -> Any:
        query = {"query": ["p#### 9", "p#### 8"], "prompts": ["p", "p"], "labels": ["9", "9"]}
        row = {"data_source": "d", "solution_str": "#### 9", "ground_truth": "9"}
        rows = {"solution_strs": ["#### 9", "8"], "ground_truths": ["9", "9"]}
        return (
            (await client.post("/openrlhf", json=query)).json(),
            (await client.post("/verl", json=row)).json(),
            (await client.post("/verl", json=rows)).json(),
        )

    openrlhf, row, rows = call(steps)
    assert openrlhf["rewards"] == openrlhf["scores"] == [1.0, 0.0]
    assert openrlhf["extra_logs"]["answered"] == [1.0, 1.0]
    assert row == {"score": 1.0, "correct": 1.0, "answered": 1.0}
    assert [one["score"] for one in rows] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/score", b"{", 400),
        ("/score", b"[" * 200_000, 400),
        ("/score", b"\xff\xfe", 400),
        ("/score", b"1" * 10_000, 400),
        ("/score", b"[]", 422),
        ("/score", b"{}", 422),
        ("/score", b'{"columns": {}}', 422),
        ("/score", b'{"columns": 3}', 422),
        ("/score", b'{"columns": {"completion": "x", "gold": ["9"]}}', 422),
        ("/score", b'{"columns": {"completion": ["x"]}}', 422),
        ("/score", b'{"columns": {"completion": ["x", "y"], "gold": ["9"]}}', 422),
        ("/score", b'{"columns": {"completion": [{"\\ud800": 1}], "gold": ["9"]}}', 422),
        ("/score", b'{"columns": {"completion": [[[1]]], "gold": ["9"]}}', 422),
        ("/score", b'{"rows": [1]}', 422),
        ("/score", b'{"rows": [{"completion": "x", "gold": "9", "group": [1]}]}', 422),
        ("/score?ruleset=abc", b"{}", 404),
        ("/openrlhf", b'{"query": "x"}', 422),
        ("/openrlhf", b'{"query": [1], "prompts": ["x"]}', 422),
        ("/openrlhf", b'{"query": ["x"], "prompts": ["a", "b"]}', 422),
        ("/openrlhf", b'{"query": ["x"], "prompts": ["not in it"], "labels": ["9"]}', 422),
        ("/verl", b"[]", 422),
        ("/verl", b'{"solution_str": 3}', 422),
        ("/verl", b'{"solution_strs": ["x"], "extra_infos": [3]}', 422),
    ],
)
def test_what_is_wrong_with_a_request_is_told_and_is_never_a_5xx(
    path: str, body: bytes, code: int
) -> None:
    async def steps(client: Any) -> Any:
        return await client.post(path, content=body, headers={"Content-Type": "application/json"})

    reply = call(steps)
    assert (reply.status_code, bool(reply.json()["error"])) == (code, True)


def test_bodies_rows_and_kinds_are_bounded() -> None:
    async def steps(client: Any) -> Any:
        async def drip() -> Any:
            for _ in range(100):
                yield b" " * 100

        kind = {"Content-Type": "application/json"}
        many = {"columns": {"completion": ["x"] * 4, "gold": ["9"] * 4}}
        return [
            (await client.post("/score", content=b" " * 2_000, headers=kind)).status_code,
            (await client.post("/score", content=drip(), headers=kind)).status_code,
            (await client.post("/score", json=many)).status_code,
            (await client.post("/score", content=b"{}", headers={"Content-Type": "text/plain"}))
            .status_code,
        ]  # fmt: skip

    config = ServeConfig(max_body_bytes=1_000, max_rows=3)
    assert call(steps, config) == [413, 413, 413, 415]


def test_a_full_queue_is_a_429_and_a_late_reply_a_504(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    score = gr.Scorer.__call__
    monkeypatch.setattr(gr.Scorer, "__call__", lambda s, **c: go.wait(60) and score(s, **c))
    body = {"columns": {"completion": ["#### 9"], "gold": ["9"]}}

    async def steps(client: Any) -> Any:
        running = [asyncio.create_task(client.post("/score", json=body)) for _ in range(2)]
        while "queue 2.0" not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.01)
        full = await client.post("/score", json=body)
        waited = await asyncio.gather(*running)
        go.set()
        return full, waited, await client.post("/score", json=body)

    full, waited, after = call(steps, ServeConfig(max_queue=2, deadline_s=2))
    assert (full.status_code, full.headers["retry-after"]) == (429, "1")
    assert [reply.status_code for reply in waited] == [504, 504]
    assert after.json()["reward"] == [1.0]


def test_a_token_guards_all_but_the_health() -> None:
    async def steps(client: Any) -> Any:
        codes = {}
        for name, sent in (("none", ""), ("wrong", "Bearer no"), ("right", "Bearer s3cret")):
            headers = {"Authorization": sent} if sent else {}
            codes[name] = [
                (await client.get(path, headers=headers)).status_code
                for path in ("/healthz", "/metrics", "/openapi.json")
            ]
        return codes

    found = call(steps, ServeConfig(token="s3cret"))
    assert found == {"none": [200, 401, 401], "wrong": [200, 401, 401], "right": [200] * 3}


def test_metrics_count_and_the_document_names_the_columns() -> None:
    async def steps(client: Any) -> Any:
        await client.post("/score", json={"columns": {"completion": ["8", "9"], "gold": ["9"] * 2}})
        await client.post("/score", json={})
        return (await client.get("/metrics")).text, (await client.get("/openapi.json")).json()

    metrics, document = call(steps)
    assert 'grpo_rewards_requests_total{code="200",path="/score"} 1.0' in metrics
    assert 'grpo_rewards_requests_total{code="422",path="/score"} 1.0' in metrics
    assert "grpo_rewards_rows_total 2.0" in metrics
    assert "grpo_rewards_queue 0.0" in metrics
    post = document["paths"]["/score"]["post"]
    columns = post["requestBody"]["content"]["application/json"]["schema"]["properties"]["columns"]
    assert set(columns["properties"]) == {"completion", "gold"}


def test_rulesets_are_taken_only_where_allowed_and_never_run_extern() -> None:
    good = 'input completion: chat\nreward in 0..1 = text.contains(completion, "{}")'
    extern = 'input completion: chat\nextern f(text): num in 0..1 from "os:getcwd"\n'
    extern += "reward = f(completion)"

    async def steps(client: Any) -> Any:
        sent = await client.put("/rulesets", content=good.format("9"))
        if sent.status_code != 200:
            return sent.status_code
        digest = sent.json()["hash"]
        body = {"columns": {"completion": ["a 9", "b"]}}
        scored = await client.post(f"/score?ruleset={digest}", json=body)
        broken = await client.put("/rulesets", content="reward = boxd")
        imported = await client.put("/rulesets", content='import "/etc/passwd" as p\nreward = 1')
        ran = await client.put("/rulesets", content=extern)
        for i in range(MAX_UPLOADS):
            await client.put("/rulesets", content=good.format(f"x{i}"))
        gone = await client.post(f"/score?ruleset={digest}", json=body)
        return [scored.json()["reward"], broken, imported, ran, gone.status_code]

    assert call(steps) == 403
    reward, broken, imported, ran, gone = call(steps, ServeConfig(allow_upload=True))
    assert reward == [1.0, 0.0]
    assert broken.status_code == 422
    assert "unknown name `boxd`" in broken.json()["error"]
    assert imported.status_code == 422
    assert "root:" not in imported.text
    assert ran.status_code == 422
    assert gone == 404


def test_500_requests_at_32_lose_no_reply_and_give_the_offline_scores() -> None:
    rng = random.Random(0)
    batches = []
    for _ in range(500):
        honest = [f"so\n#### {rng.randrange(5)}" for _ in range(rng.randrange(1, 9))]
        texts = honest + rng.sample(HOSTILE, rng.randrange(3))
        rng.shuffle(texts)
        batches.append({"completion": texts, "gold": [str(rng.randrange(5))] * len(texts)})

    async def drive(url: str) -> list[Any]:
        places = asyncio.Semaphore(32)
        kind = {"Content-Type": "application/json"}
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:

            async def one(columns: dict[str, Any]) -> Any:
                async with places:
                    body = json.dumps({"columns": columns})
                    return await client.post("/score", content=body, headers=kind)

            return await asyncio.gather(*map(one, batches))

    with served() as (url, process):
        replies = asyncio.run(drive(url))
        assert process.poll() is None
    assert Counter(reply.status_code for reply in replies) == {200: 500}
    with gr.load(RULESET) as scorer:
        for columns, reply in zip(batches, replies, strict=True):
            home = [None if value != value else value for value in scorer(**columns).reward]
            assert reply.json()["reward"] == home


def test_sigterm_lets_a_running_request_end_and_leaves_with_0(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\ndef slow(t: str) -> float:\n"
        f"    pathlib.Path({str(begun)!r}).touch()\n"
        "    time.sleep(1.5)\n    return 1.0\n"
    )
    ruleset = tmp_path / "slow.reward"
    ruleset.write_text(
        'extern slow(text): num in 0..1 from "slow:slow"\ninput completion: chat\n'
        "reward = slow(completion)\n"
    )
    with served("--allow-extern", ruleset=ruleset) as (url, process):
        replies: list[Any] = []
        body = {"columns": {"completion": ["x"]}}
        client = threading.Thread(
            target=lambda: replies.append(httpx.post(f"{url}/score", json=body, timeout=60))
        )
        client.start()
        while not begun.exists() and client.is_alive():
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        client.join(60)
        assert process.wait(60) == 0
    assert [reply.json()["reward"] for reply in replies] == [[1.0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "no token"),
        (["--host", "example.org"], "no token"),
    ],
)
def test_listening_to_others_needs_a_token(options: list[str], message: str) -> None:
    from typer.testing import CliRunner

    from grpo_rewards.cli.main import app

    result = CliRunner().invoke(app, ["serve", str(RULESET), *options])
    assert isinstance(result.exception, gr.RewardError)
    assert message in str(result.exception)


def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    from typer.testing import CliRunner

    from grpo_rewards.cli.main import app

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(app, ["serve", str(RULESET), "--port", port])
    assert isinstance(result.exception, gr.RewardError)
    assert f"127.0.0.1:{port}: Address already in use" in str(result.exception)
