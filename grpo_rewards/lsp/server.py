"""The command `lsp`: the Language Server Protocol on standard input and output, with pygls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from grpo_rewards.errors import Finding, Place, RewardError, RulesetError
from grpo_rewards.lsp import queries
from grpo_rewards.scoring.scorer import version_of
from grpo_rewards.syntax.formatter import format_text

if TYPE_CHECKING:
    from lsprotocol import types as lsp
    from pygls.lsp.server import LanguageServer
    from pygls.workspace import TextDocument


def lsp_command() -> None:
    """Serve editors: findings while typing, hover, completion, formatting, go to definition.

    docs/editor/README.md tells how to connect VS Code, Neovim and Helix.
    """
    try:
        server = make_server()
    except ImportError:
        hint = "pip install 'grpo-rewards[lsp]'"
        raise RewardError("the language server needs pygls", hint=hint) from None
    server.start_io()


def make_server() -> LanguageServer:
    """The server with its features, not yet listening. Raises ImportError without pygls."""
    from lsprotocol import types as lsp
    from pygls.lsp.server import LanguageServer

    server = LanguageServer(
        "grpo-rewards",
        version_of("grpo-rewards"),
        # Whole texts, since pygls cuts lines for partial edits at U+2028, too, and editors do not.
        text_document_sync_kind=lsp.TextDocumentSyncKind.Full,
    )

    @server.feature(lsp.TEXT_DOCUMENT_DID_OPEN)
    @server.feature(lsp.TEXT_DOCUMENT_DID_CHANGE)
    @server.feature(lsp.TEXT_DOCUMENT_DID_SAVE)
    def on_text(params: Any) -> None:
        document = server.workspace.get_text_document(params.text_document.uri)
        found = [_diagnostic(document, finding) for finding in _buffer(document).findings]
        server.text_document_publish_diagnostics(
            lsp.PublishDiagnosticsParams(document.uri, found, version=document.version)
        )

    @server.feature(lsp.TEXT_DOCUMENT_HOVER)
    def on_hover(params: lsp.HoverParams) -> lsp.Hover | None:
        document = server.workspace.get_text_document(params.text_document.uri)
        found = queries.hover(_buffer(document), _offset(document, params.position))
        if found is None:
            return None
        text, place = found
        content = lsp.MarkupContent(lsp.MarkupKind.Markdown, text)
        return lsp.Hover(content, _range(document, place))

    @server.feature(
        lsp.TEXT_DOCUMENT_COMPLETION, lsp.CompletionOptions(trigger_characters=[".", "("])
    )
    def on_completion(params: lsp.CompletionParams) -> list[lsp.CompletionItem]:
        document = server.workspace.get_text_document(params.text_document.uri)
        offset = _offset(document, params.position)
        return [_completion(item) for item in queries.suggestions(_buffer(document), offset)]

    @server.feature(lsp.TEXT_DOCUMENT_FORMATTING)
    def on_formatting(params: lsp.DocumentFormattingParams) -> list[lsp.TextEdit]:
        document = server.workspace.get_text_document(params.text_document.uri)
        source = _text(document)
        try:
            text = format_text(source)
        except RulesetError:
            return []  # its findings are on the screen already
        whole = _range(document, Place(0, len(source)))
        return [] if text == source else [lsp.TextEdit(whole, text)]

    @server.feature(lsp.TEXT_DOCUMENT_DEFINITION)
    def on_definition(params: lsp.DefinitionParams) -> lsp.Location | None:
        document = server.workspace.get_text_document(params.text_document.uri)
        offset = _offset(document, params.position)
        place = queries.definition(_buffer(document), offset)
        return None if place is None else lsp.Location(document.uri, _range(document, place))

    return server


def _text(document: TextDocument) -> str:
    """The text of the document with each line end as one character, as Python reads a file."""
    return document.source.replace("\r\n", "\n").replace("\r", "\n")


def _buffer(document: TextDocument) -> queries.Buffer:
    url = urlparse(document.uri)
    path = Path(unquote(url.path)) if url.scheme == "file" else None
    return queries.Buffer.of(_text(document), path)


def _offset(document: TextDocument, position: lsp.Position) -> int:
    """The offset of a client's line and column; that of the line's end for a column beyond it."""
    lines = _text(document).split("\n")
    if position.line >= len(lines):
        return len(_text(document))
    before = sum(len(line) + 1 for line in lines[: position.line])
    units = 0
    for column, char in enumerate(lines[position.line]):
        if units >= position.character:
            return before + column
        units += document.position_codec.client_num_units(char)
    return before + len(lines[position.line])


def _range(document: TextDocument, place: Place) -> lsp.Range:
    from lsprotocol import types as lsp

    text = _text(document)

    def position(offset: int) -> lsp.Position:
        line = text.rfind("\n", 0, offset) + 1
        column = document.position_codec.client_num_units(text[line:offset])
        return lsp.Position(text.count("\n", 0, offset), column)

    return lsp.Range(position(place.start), position(place.end))


def _diagnostic(document: TextDocument, finding: Finding) -> lsp.Diagnostic:
    from lsprotocol import types as lsp

    severity = lsp.DiagnosticSeverity
    return lsp.Diagnostic(
        _range(document, finding.place),
        finding.message + (f"\nhint: {finding.hint}" if finding.hint else ""),
        severity=severity.Error if finding.severity == "error" else severity.Warning,
        code=finding.code,
        source="grpo-rewards",
    )


def _completion(item: queries.Item) -> lsp.CompletionItem:
    from lsprotocol import types as lsp

    kinds = {
        "rule": lsp.CompletionItemKind.Function, "name": lsp.CompletionItemKind.Variable,
        "option": lsp.CompletionItemKind.Property, "keyword": lsp.CompletionItemKind.Keyword,
        "capture": lsp.CompletionItemKind.Field,
    }  # fmt: skip
    return lsp.CompletionItem(
        item.text, kind=kinds[item.kind], detail=item.detail, documentation=item.doc or None
    )
