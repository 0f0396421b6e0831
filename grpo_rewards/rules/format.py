"""Formats: a text as a whole has a shape, and its parts have names.

`compile_format` turns a grammar, schema, pattern or list of tags into a frozen `Format`;
`Format.match` tells whether a text has the shape, how far it got, and where its parts are.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from grpo_rewards.columns import Span
from grpo_rewards.errors import Severity
from grpo_rewards.limits import MAX_GRAMMAR_CHARS, MAX_GRAMMAR_RULES, MAX_JSON_DEPTH


class FormatError(Exception):
    """A format that cannot be compiled: what, where in its text, and a hint."""

    def __init__(self, message: str, offset: int = 0, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.offset, self.hint = message, offset, hint


@dataclass(frozen=True, slots=True)
class Lint:
    """Something to say about a format that compiles."""

    code: str
    message: str
    offset: int
    hint: str
    severity: Severity = "warning"


@dataclass(frozen=True, slots=True)
class Failure:
    """Where a text left its format: offset, one-based line and column, and what was expected."""

    offset: int
    line: int
    column: int
    expected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """`ok`: the whole text has the shape. `credit` in 0..1 tells how much of it, 1 only if ok.
    `captures` maps rule names to their spans in order, and is empty unless ok."""

    ok: bool
    credit: float
    captures: dict[str, tuple[Span, ...]] = field(default_factory=dict)
    at: Failure | None = None

    def capture(self, name: str, index: int = -1) -> Span | None:
        """One capture of a rule, the last by default; None where there is none."""
        found = self.captures.get(name, ())
        return found[index] if -len(found) <= index < len(found) else None


@dataclass(frozen=True)
class Format:
    """A compiled format. Equal, hashable and picklable by what it says."""

    name: str
    kind: str
    body: str
    options: tuple[tuple[str, Any], ...]
    captures: tuple[str, ...] = ()
    lints: tuple[Lint, ...] = field(default=(), compare=False)

    @property
    def identity(self) -> str:
        """What a content hash needs to know; the name is no part of it."""
        text = json.dumps([self.kind, self.body, list(self.options)])
        return hashlib.sha256(text.encode()).hexdigest()

    def match(self, text: str, *, partial_max: float = 0.5) -> Match:
        """How a text fits, `credit` capped at `partial_max` unless it fits as a whole."""
        prefix = dict(self.options).get("prefix", "")
        return _ENGINES[self.kind](self, text, str(prefix), partial_max)


@functools.lru_cache(maxsize=256)
def _compiled(name: str, kind: str, body: str, options: tuple[tuple[str, Any], ...]) -> Format:
    if kind == "lark":
        _, captures = _lark(body)
        return Format(name, kind, body, options, captures, _lark_lints(body))
    if kind == "json":
        _schema(body)
        return Format(name, kind, body, options)
    if kind == "re":
        return Format(name, kind, body, options, tuple(_regex(body).groupindex))
    names = tuple(body.split())
    if not names or not all(re.fullmatch(r"[A-Za-z_]\w*", tag) for tag in names):
        raise FormatError('tags are names: tags("think", "answer")')
    if len(set(names)) < len(names):
        raise FormatError("a tag stands twice")
    _lark(_tags_grammar(names))
    return Format(name, kind, body, options, names)


def compile_format(name: str, kind: str, body: str, *, prefix: str = "") -> Format:
    """A format of kind lark, json, re (body: pattern, newline, flags) or tags (names).

    `prefix` is text that the chat template opened the completion with. FormatError where the body
    cannot be compiled.
    """
    return _compiled(name, kind, body, (("prefix", prefix),) if prefix else ())


# Lark grammars


@functools.lru_cache(maxsize=64)
def _lark(grammar: str) -> tuple[Any, tuple[str, ...]]:
    """The parser and the names of the rules that may be captured."""
    from lark import Lark
    from lark.exceptions import LarkError, UnexpectedInput

    if len(grammar) > MAX_GRAMMAR_CHARS:
        raise FormatError(f"the grammar has over {MAX_GRAMMAR_CHARS:,} characters")
    outside = re.search(r"%import\s+(?!common\b)(\S+)", grammar)
    if outside:
        hint = "only `%import common.NAME` is allowed: a grammar reads no files"
        raise FormatError(f"the grammar imports {outside[1]}", outside.start(), hint)
    try:
        parser = Lark(
            grammar,
            parser="lalr",
            strict=True,
            propagate_positions=True,
            maybe_placeholders=False,
            import_paths=[],
        )
    except UnexpectedInput as error:
        raise FormatError("the grammar does not parse", error.pos_in_stream or 0) from None
    except (LarkError, re.error, OSError, AssertionError, ValueError) as error:
        message = " ".join(str(error).split())[:200]
        raise FormatError(message or "the grammar cannot be compiled") from None
    names = {str(rule.origin.name) for rule in parser.rules}
    if len(names) > MAX_GRAMMAR_RULES:
        raise FormatError(f"the grammar has over {MAX_GRAMMAR_RULES} rules")
    shown = sorted(name for name in names if not name.startswith("_") and name != "start")
    return parser, tuple(shown)


def _lark_lints(grammar: str) -> tuple[Lint, ...]:
    ignored = re.search(r"^\s*%ignore\b", grammar, re.MULTILINE)
    lints = []
    if ignored:
        hint = "name what may stand between, where it may stand"
        message = "`%ignore` accepts text anywhere in silence"
        lints.append(Lint("W20", message, ignored.start(), hint))
    nested = re.search(r"/[^/\n]*\([^()\n]*[+*]\)[+*][^/\n]*/", grammar)
    if nested:
        hint = "unroll it: (?:[^<]+|<(?!tag))+ cannot backtrack"
        lints.append(Lint("W21", "nested quantifiers may backtrack", nested.start(), hint))
    return tuple(lints)


def _match_lark(fmt: Format, text: str, prefix: str, partial_max: float) -> Match:
    return _parse(_lark(fmt.body)[0], text, prefix, partial_max)


def _match_tags(fmt: Format, text: str, prefix: str, partial_max: float) -> Match:
    parser, _ = _lark(_tags_grammar(tuple(fmt.body.split())))
    return _parse(parser, text, prefix, partial_max)


def _tags_grammar(names: tuple[str, ...]) -> str:
    """`<a>…</a> <b>…</b>` with white space between, and none of these tags inside."""
    parts = " ".join(f'"<{name}>" {name} "</{name}>" WS?' for name in names)
    rules = "\n".join(f"{name}: TEXT" for name in names)
    inside = "|".join(names)
    terminal = rf"TEXT: /(?:[^<]+|<(?!\/?(?:{inside})>))+/"
    return f"start: WS? {parts}\n{rules}\n{terminal}\nWS: /\\s+/\n"


def _parse(parser: Any, text: str, prefix: str, partial_max: float) -> Match:
    from lark import UnexpectedInput

    whole = prefix + text
    try:
        tree = parser.parse(whole)
    except UnexpectedInput as error:
        return _partial(parser, whole, len(prefix), error, partial_max)
    captures: dict[str, list[Span]] = {}
    stack = [tree]
    while stack:
        node = stack.pop()
        if not node.meta.empty:
            start = max(node.meta.start_pos - len(prefix), 0)
            end = max(node.meta.end_pos - len(prefix), start)
            captures.setdefault(str(node.data), []).append(Span.cut(text, start, end))
        stack.extend(child for child in reversed(node.children) if hasattr(child, "data"))
    return Match(True, 1.0, {name: tuple(spans) for name, spans in captures.items()})


def _partial(parser: Any, whole: str, skipped: int, error: Any, partial_max: float) -> Match:
    """Credit for a text that left its format: literals accepted over those and the ones left."""
    literals = [t for t in parser.terminals if t.pattern.type == "str"]
    found = min(error.pos_in_stream or 0, len(whole))
    accepted = sum(1 for t in literals if t.pattern.value in whole[:found])
    credit = partial_max * accepted / max(len(literals), 1)
    offset = max(found - skipped, 0)
    before = whole[skipped:found]
    expected = getattr(error, "accepts", None) or getattr(error, "expected", None) or ()
    failure = Failure(
        offset,
        before.count("\n") + 1,
        len(before) - (before.rfind("\n") + 1) + 1,
        tuple(sorted(map(str, expected))),
    )
    return Match(False, min(credit, partial_max), {}, failure)


# JSON schemas and patterns


@functools.lru_cache(maxsize=64)
def _schema(body: str) -> Any:
    import jsonschema

    try:
        schema = json.loads(body)
        cls = jsonschema.validators.validator_for(schema)
        cls.check_schema(schema)
    except json.JSONDecodeError as error:
        raise FormatError(f"the schema is not JSON: {error.msg}", error.pos) from None
    except (jsonschema.SchemaError, RecursionError) as error:
        raise FormatError(f"not a JSON Schema: {getattr(error, 'message', error)}") from None
    return cls(schema)


def _match_json(fmt: Format, text: str, prefix: str, partial_max: float) -> Match:
    whole = prefix + text
    depth = max(whole.count("["), whole.count("{"))
    if depth > MAX_JSON_DEPTH:
        return Match(False, 0.0, {}, Failure(0, 1, 1, ("less nesting",)))
    try:
        value = json.loads(whole)
    except (ValueError, RecursionError):
        return Match(False, 0.0, {}, Failure(0, 1, 1, ("JSON",)))
    ok = not any(True for _ in _schema(fmt.body).iter_errors(value))
    return Match(ok, 1.0 if ok else partial_max)


@functools.lru_cache(maxsize=256)
def _regex(body: str) -> Any:
    from grpo_rewards.rules.text import compile_pattern

    pattern, _, flags = body.rpartition("\n")
    try:
        return compile_pattern(pattern, flags)
    except ValueError as error:
        hint = "patterns are RE2's: no look-around, no back-references"
        raise FormatError(str(error), 0, hint) from None


def _match_regex(fmt: Format, text: str, prefix: str, partial_max: float) -> Match:
    whole = prefix + text
    try:
        found = _regex(fmt.body).fullmatch(whole)
    except UnicodeError:  # a lone surrogate
        found = None
    if found is None:
        return Match(False, 0.0, {}, Failure(0, 1, 1, ("the pattern",)))
    captures = {}
    for name in fmt.captures:
        start, end = found.span(name)
        if start >= 0:
            start, end = max(start - len(prefix), 0), max(end - len(prefix), 0)
            captures[name] = (Span.cut(text, start, end),)
    return Match(True, 1.0, captures)


_ENGINES = {
    "lark": _match_lark,
    "tags": _match_tags,
    "json": _match_json,
    "re": _match_regex,
}
