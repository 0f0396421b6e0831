"""Conversations as text: a completion is what the assistant said last, a prompt what the user did.

Nothing that another role says is read in their place, by whatever door the conversation comes in.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import grpo_rewards as gr
from grpo_rewards.cli.main import app
from grpo_rewards.data.file_scoring import score_file
from grpo_rewards.data.frames import score_frame
from grpo_rewards.report.scores_page import scores_report
from grpo_rewards.scoring.inputs import bind, chat_text

RULESET = ROOT / "rulesets" / "gsm8k.reward"
GSM8K = gr.load(RULESET, workers=0)

Message = dict[str, Any]


def said(role: str, content: Any, **more: Any) -> Message:
    return {"role": role, "content": content, **more}


CALL = said("assistant", None, tool_calls=[{"type": "function", "function": {"name": "f"}}])
#: Conversations in which the answer 18 is never the assistant's last word.
UNPAID = {
    "a tool after a call": [CALL, said("tool", "#### 18")],
    "a user alone": [said("user", "#### 18")],
    "a tool alone": [said("tool", "#### 18")],
    "a user after the answer": [said("assistant", "#### 17"), said("user", "#### 18")],
    "an answer before the last turn": [said("assistant", "#### 18"), said("assistant", "#### 17")],
    "an answer before a call": [said("assistant", "#### 18"), CALL, said("tool", "done")],
    "no content at all": [said("user", "#### 18"), {"role": "assistant"}],
    "parts without text": [said("assistant", [{"type": "image_url", "url": "#### 18"}])],
    "no role": [{"content": "#### 18"}],
    "no message": [],
}
#: Conversations in which it is.
PAID = {
    "one message": [said("assistant", "#### 18")],
    "a tool between": [CALL, said("tool", "#### 17"), said("assistant", "#### 18")],
    "a tool after": [said("assistant", "#### 18"), said("tool", "#### 17")],
    "parts": [said("assistant", [{"type": "text", "text": "####"}, {"text": " 18"}])],
}


def _through_a_call(chats: list[Any]) -> list[float]:
    return [float(value) for value in GSM8K(completion=chats, gold=["18"] * len(chats)).reward]


def _through_text(chats: list[Any]) -> list[float]:
    text = RULESET.read_text("utf-8").replace("completion: chat", "completion: text")
    scorer = gr.loads(text, workers=0)
    return [float(value) for value in scorer(completion=chats, gold=["18"] * len(chats)).reward]


def _through_trl(chats: list[Any]) -> list[float]:
    golds = ["18"] * len(chats)
    found = GSM8K.as_trl()(prompts=["p"] * len(chats), completions=chats, gold=golds)
    return [value or 0.0 for value in found]


def _through_verifiers(chats: list[Any]) -> list[float]:
    reward = GSM8K.as_verifiers().funcs[0]
    return [reward(prompt="p", completion=chat, answer="18", info={}) for chat in chats]


def _through_lm_eval(chats: list[Any]) -> list[float]:
    process_results = GSM8K.as_lm_eval(gold="gold")
    return [process_results({"gold": "18"}, [chat])["reward"] for chat in chats]


def _through_verl(chats: list[Any]) -> list[float]:
    found = GSM8K.as_verl()(solution_strs=chats, ground_truths=["18"] * len(chats))
    return [row["score"] for row in found]  # type: ignore[index]


def _through_pandas(chats: list[Any]) -> list[float]:
    frame = pd.DataFrame({"completion": chats, "gold": "18"})
    return [float(value) for value in score_frame(frame, GSM8K)["reward"]]


def _through_the_server(chats: list[Any]) -> list[float]:
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("starlette")
    from grpo_rewards.server.app import make_app

    async def ask() -> list[float]:
        served = make_app(gr.load(RULESET))
        transport = httpx.ASGITransport(app=served)
        async with (
            served.router.lifespan_context(served),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            columns = {"completion": chats, "gold": ["18"] * len(chats)}
            reply = await client.post("/score", json={"columns": columns})
            return [float(value) for value in reply.json()["reward"]]

    return asyncio.run(ask())


DOORS = [
    _through_a_call, _through_text, _through_trl, _through_verifiers, _through_lm_eval,
    _through_verl, _through_pandas, _through_the_server,
]  # fmt: skip


@pytest.mark.parametrize("score", DOORS, ids=lambda door: door.__name__.removeprefix("_through_"))
def test_only_the_assistants_last_words_are_paid(
    score: Callable[[list[Any]], list[float]],
) -> None:
    chats = [*UNPAID.values(), *PAID.values()]
    paid = dict(zip([*UNPAID, *PAID], score(chats), strict=True))
    assert paid == {**dict.fromkeys(UNPAID, 0), **dict.fromkeys(PAID, 1)}


def test_arrays_of_messages_and_parts_are_read_as_lists_are() -> None:
    content = np.array([{"type": "text", "text": "#### 18"}], object)  # as pandas reads Parquet
    assert chat_text(np.array([said("assistant", content)], object)) == "#### 18"


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_file_of_conversations_is_paid_and_reported_alike(tmp_path: Path, kind: str) -> None:
    data, out = tmp_path / f"chats.{kind}", tmp_path / "scores.jsonl"
    chats = [UNPAID["a tool after a call"], PAID["a tool between"]]
    rows = pd.DataFrame({"completion": chats, "prompt": [_ASKED_TWICE] * 2, "gold": "18"})
    if kind == "jsonl":
        rows.to_json(data, orient="records", lines=True)
    else:
        rows.to_parquet(data)
    score_file(GSM8K, data, out)
    scored = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [row["reward"] for row in scored] == [0, 1]
    assert [row["correct_status"] for row in scored] == ["missing", "ok"]
    shown = scores_report([out])._rows
    assert [(row.completion, row.prompt) for row in shown] == [("", "q2"), ("#### 18", "q2")]
    explained = CliRunner().invoke(app, ["explain", str(RULESET), str(data), "--row", "0"])
    assert explained.exit_code == 0 and "18" not in explained.output.replace("gold = '18'", "")


_ASKED_TWICE = [said("user", "q1"), said("assistant", "a1"), said("user", "q2")]


@pytest.mark.parametrize(
    "declaration",
    ["", "input prompt: chat\n", "input prompt: text\n", 'input asked: chat from "prompt"\n'],
)
def test_a_prompt_is_what_the_user_asked_last(declaration: str) -> None:
    name = "asked" if "asked" in declaration else "prompt"
    scorer = gr.loads(f'{declaration}reward = {name} == "q2" ?? 0.25', workers=0)
    prompts = [_ASKED_TWICE, [*_ASKED_TWICE, said("assistant", "a2")], [said("system", "q2")], "q2"]
    assert scorer(prompt=prompts).reward.tolist() == [1, 1, 0.25, 1]


def test_an_inspect_prompt_without_a_user_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = SimpleNamespace(
        mean=lambda: None, stderr=lambda: None, scorer=lambda **_: lambda make: make,
        Score=SimpleNamespace,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "inspect_ai.scorer", kit)
    scorer = gr.loads('input completion: chat\nreward = prompt == "q2" ?? 0.25', workers=0)
    asked = [SimpleNamespace(role=m["role"], text=m["content"]) for m in _ASKED_TWICE]
    found = []
    for prompt in (asked, asked[1:2], "q2"):
        output = SimpleNamespace(completion="a2")
        state = SimpleNamespace(metadata={}, input=prompt, output=output)
        target = SimpleNamespace(text="18")
        found.append(asyncio.run(scorer.as_inspect()(state, target)).value["reward"])
    assert found == [1, 0.25, 1]


# Laws, over conversations of any shape

roles = st.sampled_from(["system", "user", "assistant", "tool", "developer", "", None])
texts = st.sampled_from(["#### 18", "#### 17", "", "18", "\ud800"])
parts = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, texts),
    st.builds(lambda text: {"type": "image_url", "image_url": {"url": text}}, texts),
    texts,
)
contents = st.one_of(st.none(), texts, st.lists(parts, max_size=3))
messages = st.builds(said, roles, contents)
conversations = st.lists(messages, max_size=6)


def _others(conversation: list[Message], role: str) -> list[int]:
    return [i for i, message in enumerate(conversation) if message["role"] != role]


@pytest.mark.parametrize("role", ["assistant", "user"])
@given(data=st.data())
def test_what_other_roles_say_changes_no_text(role: str, data: st.DataObject) -> None:
    before = data.draw(conversations)
    strange = messages.filter(lambda message: message["role"] != role)
    after = list(before)
    for _ in range(data.draw(st.integers(1, 3))):
        others = _others(after, role)
        change = data.draw(st.sampled_from(["add", "remove", "replace"] if others else ["add"]))
        at = data.draw(st.integers(0, len(after)) if change == "add" else st.sampled_from(others))
        after[at : at + (change != "add")] = [data.draw(strange)] if change != "remove" else []
    name = {"user": "prompt", "assistant": "completion"}[role]
    spec = gr.loads(f"input {name}: chat\nreward = text.length({name})").graph.inputs[name]
    read = bind(spec, {name: [before, after]}, 2)
    assert read.row(0) == read.row(1) == chat_text(before, role)
    assert read.status[0] == read.status[1]


@given(conversations)
def test_a_conversation_scores_as_the_assistants_last_text(conversation: list[Message]) -> None:
    mine = [message for message in conversation if message["role"] == "assistant"]
    last = mine[-1]["content"] if mine else None
    if isinstance(last, list):
        written = [part["text"] for part in last if isinstance(part, dict) and "text" in part]
        last = "".join(written) if written else None
    chat, text = (GSM8K(completion=[given], gold=["18"]) for given in (conversation, last))
    for name in (*GSM8K.names, "reward"):
        assert chat.to_columns()[name] == text.to_columns()[name]
        assert chat.status[name] == text.status[name]
