"""The language server, driven as an editor drives it: a real process, a real client."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from strategies import any_text

from grpo_rewards.lsp import queries
from grpo_rewards.syntax.formatter import format_text
from grpo_rewards.syntax.tree import KEYWORDS

pytest.importorskip("pygls")

from lsprotocol import types as lsp
from pygls.lsp.client import LanguageClient

GSM8K = ROOT / "rulesets" / "gsm8k.reward"
SHIPPED = sorted((ROOT / "rulesets").glob("*.reward"))


class Session:
    """An editor with one server: opens files, waits for their findings."""

    def __init__(self, client: LanguageClient) -> None:
        self.client = client
        self.found: dict[str, asyncio.Queue[list[lsp.Diagnostic]]] = {}

        @client.feature(lsp.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)
        def on_findings(params: lsp.PublishDiagnosticsParams) -> None:
            self.found.setdefault(params.uri, asyncio.Queue()).put_nowait(list(params.diagnostics))

    async def open(self, uri: str, text: str) -> list[lsp.Diagnostic]:
        queue = self.found.setdefault(uri, asyncio.Queue())
        item = lsp.TextDocumentItem(uri, "reward", 1, text)
        self.client.text_document_did_open(lsp.DidOpenTextDocumentParams(item))
        return await asyncio.wait_for(queue.get(), 60)

    async def change(self, uri: str, version: int, text: str) -> list[lsp.Diagnostic]:
        identifier = lsp.VersionedTextDocumentIdentifier(version=version, uri=uri)
        change = lsp.TextDocumentContentChangeWholeDocument(text)
        self.client.text_document_did_change(lsp.DidChangeTextDocumentParams(identifier, [change]))
        return await asyncio.wait_for(self.found[uri].get(), 60)


def drive(script: Callable[[Session], Awaitable[None]]) -> None:
    """Runs a script against a server of its own."""

    async def run() -> None:
        client = LanguageClient("test", "1")
        session = Session(client)
        code = "from grpo_rewards.cli.main import main; main()"
        await client.start_io(sys.executable, "-c", code, "lsp")
        server = client._server
        try:
            await client.initialize_async(
                lsp.InitializeParams(capabilities=lsp.ClientCapabilities())
            )
            client.initialized(lsp.InitializedParams())
            await script(session)
            await client.shutdown_async(None)
            client.exit(None)
        finally:
            if server.returncode is None and sys.exception() is not None:
                server.kill()  # a failed script leaves it waiting
            await client.stop()

    asyncio.run(run())


def at(text: str, needle: str, shift: int = 0) -> lsp.Position:
    offset = text.index(needle) + shift
    line = text.count("\n", 0, offset)
    start = text.rfind("\n", 0, offset) + 1
    return lsp.Position(line, len(text[start:offset].encode("utf-16-le")) // 2)


def test_an_editor_gets_findings_hover_completion_format_and_definition(tmp_path: Path) -> None:
    text = GSM8K.read_text("utf-8")
    uri = GSM8K.as_uri()
    document = lsp.TextDocumentIdentifier(uri)

    async def script(session: Session) -> None:
        client = session.client
        assert await session.open(uri, text) == []
        broken = text.replace("math.equal(", "math.equals(", 1)
        (finding,) = [f for f in await session.change(uri, 2, broken) if f.severity == 1]
        assert finding.code == "N08"
        assert "did you mean `math.equal`?" in finding.message
        assert finding.range.start == at(broken, "math.equals")
        assert await session.change(uri, 3, text) == []

        hover = await client.text_document_hover_async(
            lsp.HoverParams(document, at(text, "math.equal", 7))
        )
        assert "math.equal(answer: text?" in hover.contents.value
        hover = await client.text_document_hover_async(
            lsp.HoverParams(document, at(text, "score correct", 8))
        )
        assert "in 0..1, row" in hover.contents.value

        place = await client.text_document_definition_async(
            lsp.DefinitionParams(document, at(text, "expect correct", 9))
        )
        assert place.range.start == at(text, "score correct")

        messy = text.replace("\nreward", "\n\n\n\nreward", 1)
        await session.change(uri, 4, messy)
        options = lsp.FormattingOptions(tab_size=2, insert_spaces=True)
        edits = await client.text_document_formatting_async(
            lsp.DocumentFormattingParams(document, options)
        )
        assert [edit.new_text for edit in edits] == [text]

        typing = "input completion: chat\nreward = extract.b"
        await session.change(uri, 5, typing)
        items = await client.text_document_completion_async(
            lsp.CompletionParams(document, lsp.Position(1, len("reward = extract.b")))
        )
        assert [item.label for item in items] == ["extract.boxed"]

    drive(script)


def test_hostile_buffers_leave_the_server_alive(tmp_path: Path) -> None:
    texts = [
        "",
        "\x00" * 50,
        "reward = " + "(" * 9_000,
        "😀" * 300 + "\nreward = x",
        "'''",
        "\r\n\r\r",
    ]

    async def script(session: Session) -> None:
        uri = (tmp_path / "new.reward").as_uri()
        await session.open(uri, "")
        for i, text in enumerate(texts):
            assert await session.change(uri, i + 2, text)
            hover = lsp.HoverParams(lsp.TextDocumentIdentifier(uri), lsp.Position(0, 3))
            await session.client.text_document_hover_async(hover)
        assert await session.change(uri, 99, "reward = 1") == []

    drive(script)


def test_places_count_as_editors_count() -> None:
    text = 'input t: text\n# a line\u2028 \x0c\nreward = text.contains(t, "😀😀") + nothing'

    async def script(session: Session) -> None:
        for uri, source in (("untitled:new", text), ("untitled:crlf", text.replace("\n", "\r\n"))):
            (finding,) = [f for f in await session.open(uri, source) if f.severity == 1]
            assert finding.range.start == at(text, "nothing")
            hover = await session.client.text_document_hover_async(
                lsp.HoverParams(lsp.TextDocumentIdentifier(uri), at(text, "(t,", 1))
            )
            assert "t: text, prompt" in hover.contents.value

    drive(script)


@given(st.sampled_from(SHIPPED), st.data())
def test_any_edit_of_a_ruleset_can_be_asked_about(path: Path, data: st.DataObject) -> None:
    text = path.read_text("utf-8")
    cut = data.draw(st.integers(0, len(text)))
    text = text[:cut] + data.draw(any_text) + text[cut + data.draw(st.integers(0, 30)) :]
    buffer = queries.Buffer.of(text, path)
    offset = data.draw(st.integers(0, len(text)))
    queries.hover(buffer, offset)
    queries.definition(buffer, offset)
    for item in queries.suggestions(buffer, offset):
        assert item.text


def test_options_and_captures_are_offered() -> None:
    text = (
        'input completion: chat\nformat f = tags("think", "answer")\nlet m = match(f, completion)\n'
    )
    buffer = queries.Buffer.of(text + "reward = 1\n")
    end = len(text)

    def offered(line: str) -> set[str]:
        whole = queries.Buffer(text + line, buffer.parsed, buffer.graph, ())
        return {item.text for item in queries.suggestions(whole, end + len(line))}

    assert offered("score s = m.") == {"m.ok", "m.credit", "m.at", "m.think", "m.answer"}
    assert "n=" in offered("score s = text.repetition(completion, ")
    assert {"completion", "f", "m", "n_tokens", "math.equal"} <= offered("score s = ")
    assert offered("sc") == {"score"}


# Highlighting

GRAMMAR = json.loads((ROOT / "docs" / "editor" / "reward.tmLanguage.json").read_text("utf-8"))


def _patterns(node: Any) -> list[str]:
    if isinstance(node, list):
        return [p for item in node for p in _patterns(item)]
    if isinstance(node, dict):
        own = [node[key] for key in ("match", "begin", "end") if key in node]
        return own + [p for item in node.values() for p in _patterns(item)]
    return []


def test_the_grammar_for_highlighting_knows_every_statement_and_rule() -> None:
    for pattern in _patterns(GRAMMAR):
        re.compile(pattern)
    repository = GRAMMAR["repository"]
    statement = re.compile(repository["statement"]["match"])
    for keyword in KEYWORDS:
        assert statement.match(f"{keyword} x"), keyword
    rule = re.compile(repository["rule"]["match"])
    assert rule.search("score s = math.equal(a, b)")[0] == "math.equal"
    number = re.compile(repository["number"]["match"])
    for text in ("1", "60k", "2s", "500ms", "1e-6", "16_384", "0.25", "50%"):
        assert number.fullmatch(text), text


def test_the_shipped_rulesets_are_as_an_editor_would_save_them() -> None:
    for path in SHIPPED:
        text = path.read_text("utf-8")
        assert format_text(text) == text
