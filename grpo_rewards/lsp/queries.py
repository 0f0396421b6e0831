"""What an editor asks of a ruleset that is being written: findings, hover, suggestions, definition.

The answers are plain functions of a text and an offset into it; `lsp.server` speaks the protocol.
They work on a text that does not check, too: what is broken is left out, the rest still answers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from grpo_rewards.compiler.graph import Graph
from grpo_rewards.compiler.nodes import AMBIENT
from grpo_rewards.compiler.scope import Function
from grpo_rewards.compiler.statements import check
from grpo_rewards.errors import Finding, Place
from grpo_rewards.rules.catalog import CATALOG
from grpo_rewards.rules.rule import Rule
from grpo_rewards.syntax import tree as x
from grpo_rewards.syntax.files import parse_file
from grpo_rewards.syntax.parser import Parsed, parse_all

_DOTTED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_TYPED = re.compile(r"[A-Za-z0-9_.]*\Z")
_CALL = re.compile(r"([a-z_][a-z0-9_.]*)\s*\(")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that may be written: its text, what kind of thing, and a line about it."""

    text: str
    kind: str  # rule, name, option, keyword, capture
    detail: str = ""
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A text as the checker sees it."""

    text: str
    parsed: Parsed
    graph: Graph
    findings: tuple[Finding, ...]

    @staticmethod
    def of(text: str, path: Path | None = None) -> Buffer:
        """The text of a file; `path` is where its imports are looked for."""
        parsed = parse_all(text) if path is None else parse_file(path, text=text)
        graph, findings = check(parsed)
        return Buffer(text, parsed, graph, tuple(findings))


def word_at(text: str, offset: int) -> tuple[str, Place] | None:
    """The dotted word that an offset stands in or behind."""
    line = text.rfind("\n", 0, offset) + 1
    end = text.find("\n", offset)
    for found in _DOTTED.finditer(text, line, len(text) if end < 0 else end):
        if found.start() <= offset <= found.end():
            return found[0], Place(found.start(), found.end())
    return None


def hover(buffer: Buffer, offset: int) -> tuple[str, Place] | None:
    """What a word is, as Markdown: a rule's signature and sense; a name's type, range and level."""
    found = word_at(buffer.text, offset)
    if found is None:
        return None
    word, place = found
    known = {**AMBIENT, **buffer.graph.names}
    while word and word not in known and word not in CATALOG:
        word = word.rpartition(".")[0]  # `shape.answer` tells of `shape`
    about = _about(buffer.graph, word)
    return (about, place) if about else None


def _about(graph: Graph, word: str) -> str:
    if word in CATALOG and word not in graph.names:
        return _about_rule(CATALOG[word])
    value = graph.names.get(word)
    if isinstance(value, Rule):
        return _about_rule(value)
    if isinstance(value, Function):
        return f"```\nlet {word}({', '.join(value.params)}) = {value.body}\n```"
    if isinstance(value, int):
        return f"```\n{word}: {_shape(graph, word, value)}\n```"
    if word in AMBIENT:
        return f"```\n{word}: {AMBIENT[word].type}\n```\n\nA column that every batch may bring."
    return ""


def _about_rule(rule: Rule) -> str:
    example = f"\n\n```\n{rule.example}\n```" if rule.example else ""
    return f"```\n{rule.signature}\n```\n\n{rule.doc}{example}"


def _shape(graph: Graph, name: str, number: int) -> str:
    """`num in 0..1, row`"""
    node = graph[number]
    interval = graph.ranges.get(name, node.interval)
    bounds = f" in {interval}" if node.type.is_numeric else ""
    return f"{node.type}{bounds}, {node.level.label}"


def suggestions(buffer: Buffer, offset: int) -> list[Item]:
    """What may be written at an offset, given what stands before it on the line."""
    line = buffer.text[buffer.text.rfind("\n", 0, offset) + 1 : offset]
    typed = _TYPED.search(line)
    prefix = typed[0] if typed else ""
    if line == prefix and "." not in prefix:
        starts = [Item(word, "keyword", "statement") for word in x.KEYWORDS]
        return [item for item in starts if item.text.startswith(prefix)]
    items = [*_options(buffer, line), *_captures(buffer, prefix), *_names(buffer.graph)]
    items += [Item(r.name, "rule", r.signature, r.doc) for r in CATALOG.values() if _is_called(r)]
    return [item for item in items if item.text.startswith(prefix)]


def _is_called(rule: Rule) -> bool:
    """Whether a rule is written by its name, and not as an operator or a part of a match."""
    operators = {*x.RESERVED, "neg", "within", "is_null"}
    plain = rule.name.isidentifier() and rule.name not in operators
    return plain or ("." in rule.name and not rule.name.startswith("match."))


def _names(graph: Graph) -> list[Item]:
    items = []
    for name, value in graph.names.items():
        detail = _shape(graph, name, value) if isinstance(value, int) else "function"
        items.append(Item(name, "name", detail))
    new = (spec for name, spec in AMBIENT.items() if name not in graph.names)
    return items + [Item(spec.name, "name", str(spec.type)) for spec in new]


def _captures(buffer: Buffer, prefix: str) -> list[Item]:
    """The parts of a match, behind its name and a dot."""
    name, dot, _ = prefix.rpartition(".")
    number = buffer.graph.names.get(name)
    if not dot or not isinstance(number, int):
        return []
    node = buffer.graph[number]
    if node.type.kind != "match" or not node.args:
        return []
    captures = buffer.graph[node.args[0]].value.captures
    parts = ("ok", "credit", "at")
    return [Item(f"{name}.{part}", "capture") for part in (*parts, *captures)]


def _options(buffer: Buffer, line: str) -> list[Item]:
    """The options of the call that the end of a line stands in."""
    depth = 0
    for i in range(len(line) - 1, -1, -1):
        depth += (line[i] == ")") - (line[i] == "(")
        if depth < 0:
            called = [m[1] for m in _CALL.finditer(line) if m.end() == i + 1]
            rule = CATALOG.get(called[0]) if called else None
            options = rule.options.values() if rule is not None else ()
            return [Item(f"{o.name}=", "option", f"{o.type} = {o.default}") for o in options]
    return []


def definition(buffer: Buffer, offset: int) -> Place | None:
    """Where the name at an offset is declared, in this file."""
    found = word_at(buffer.text, offset)
    if found is None:
        return None
    root = found[0].split(".")[0]
    for statement in buffer.parsed.ruleset.statements:
        if getattr(statement, "name", None) == root:
            return statement.place
    return None
