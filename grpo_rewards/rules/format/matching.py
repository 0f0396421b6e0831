"""Formats: a text as a whole has a shape, and its parts have names.

`compile_format` turns a grammar, schema, pattern or list of tags into a frozen `Format`;
`Format.match` tells whether a text has the shape, how far it got, and where its parts are.
Bodies are compiled in grammars.py and json_schema.py, the tables of a grammar run in lr_machine.py,
and what a text earns that does not fit is in partial_credit.py.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo_rewards.columns import Outcome, Span, Status
from grpo_rewards.limits import MAX_EARLEY_CHARS, MAX_JSON_CHARS
from grpo_rewards.rules.format import grammars, json_schema, lr_machine, partial_credit
from grpo_rewards.rules.format.grammars import FormatError, Lint
from grpo_rewards.rules.rule import COUNT, DEFERRED, Mark, RowKernel, Rule, rule
from grpo_rewards.types import UNIT


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Where a text left its format: offset, one-based line and column, and what was expected."""

    offset: int
    line: int
    column: int
    expected: tuple[str, ...]

    @staticmethod
    def of(text: str, offset: int, expected: tuple[str, ...]) -> Mismatch:
        """The failure at an offset, kept inside the text."""
        offset = min(max(offset, 0), len(text))
        line = text.count("\n", 0, offset) + 1
        return Mismatch(offset, line, offset - text.rfind("\n", 0, offset), expected)


@dataclass(frozen=True, slots=True)
class Match:
    """`ok`: the whole text has the shape. `credit` in 0..1 tells how much of it, 1 only if ok.
    `captures` maps rule names to their spans in order, and is empty unless ok. `status` is
    TOO_LARGE where a limit kept the text from being read."""

    ok: bool
    credit: float
    captures: dict[str, tuple[Span, ...]] = field(default_factory=dict)
    at: Mismatch | None = None
    status: Status = Status.OK

    def capture(self, name: str, index: int = -1) -> Span | None:
        """One capture of a rule, the last by default; None where there is none."""
        found = self.captures.get(name, ())
        return found[index] if -len(found) <= index < len(found) else None


@dataclass(frozen=True)
class Format:
    """A compiled format. Equal, hashable and picklable by what it says.

    `needs_deadline`: nothing shows that every text is read in linear time, so a match belongs into
    a worker that can be stopped.

    >>> think = tags("think", "answer")
    >>> match = think.match("<think>6 * 7</think><answer>42</answer>")
    >>> match.ok, match.credit, match.capture("answer")
    (True, 1.0, '42')
    >>> match = think.match("<think>6 * 7")
    >>> match.ok, match.credit, match.at.expected
    (False, 0.25, ('"</think>"',))
    """

    name: str
    kind: str
    body: str
    options: tuple[tuple[str, Any], ...]
    captures: tuple[str, ...] = field(default=(), compare=False)
    lints: tuple[Lint, ...] = field(default=(), compare=False)
    needs_deadline: bool = field(default=False, compare=False)

    @property
    def identity(self) -> str:
        """What a content hash needs to know; the name is no part of it."""
        text = json.dumps([self.kind, self.body, list(self.options)])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def match(self, text: str, *, partial_max: float = 0.5) -> Match:
        """How a text fits, `credit` capped at `partial_max` unless it fits as a whole."""
        options = dict(self.options)
        return _ENGINES[options.get("engine", self.kind)](
            self, text, options.get("prefix", ""), partial_max
        )


def compile_format(
    name: str, kind: str, body: str, *, prefix: str = "", engine: str = "lalr"
) -> Format:
    """A format of kind lark, json, re (body: pattern, newline, flags) or tags (names).

    `prefix` is text that the chat template opened the completion with. `engine="earley"` is for
    ambiguous Lark grammars: slow, for short texts, without partial credit. FormatError where the
    body cannot be compiled.
    """
    if not isinstance(prefix, str):
        raise FormatError("the prefix is a text")
    if engine not in ("lalr", "earley"):
        raise FormatError(f"no engine `{engine}`", 0, "there are lalr and earley")
    if engine != "lalr" and kind != "lark":
        raise FormatError("only a lark format takes an engine")
    options: dict[str, str] = {"prefix": prefix} if prefix else {}
    if engine != "lalr":
        options["engine"] = engine
    return _compiled(name, kind, body, tuple(options.items()))


def compile_lark(name: str, grammar: str, *, engine: str = "lalr", prefix: str = "") -> Format:
    """A format by a Lark grammar."""
    return compile_format(name, "lark", grammar, prefix=prefix, engine=engine)


def compile_json(name: str, schema_text: str) -> Format:
    """A format by a JSON Schema; its captures are the schema's top-level properties."""
    return compile_format(name, "json", schema_text)


def compile_regex(name: str, pattern: str, flags: str = "") -> Format:
    """A format by an RE2 pattern that matches the whole text; its captures are named groups."""
    return compile_format(name, "re", f"{pattern}\n{flags}")


def tags(*names: str, prefix: str = "") -> Format:
    """`<a>…</a> <b>…</b>` in this order: white space between, nothing around; inside, none of these
    tags and some text that can be seen.

    >>> tags("think", "answer").match("<think> </think><answer>4</answer>").ok
    False
    """
    return compile_format("tags", "tags", " ".join(names), prefix=prefix)


@functools.lru_cache(maxsize=256)
def _compiled(name: str, kind: str, body: str, options: tuple[tuple[str, Any], ...]) -> Format:
    if kind == "lark" and dict(options).get("engine") == "earley":
        parser = grammars.lark_parser(body, "earley")
        rules = {str(rule.origin.name) for rule in parser.rules} - {"start"}
        shown = tuple(sorted(rule for rule in rules if re.fullmatch(r"[a-z][a-z0-9_]*", rule)))
        return Format(name, kind, body, options, shown, grammars.ignore_lints(body), True)
    if kind == "lark":
        machine, _ = grammars.machine_of(body)
        lints = grammars.lark_lints(body, machine)
        return Format(name, kind, body, options, machine.captures, lints, machine.needs_deadline)
    if kind == "json":
        try:
            json_schema.compile_schema(body)
        except json_schema.SchemaError as error:
            raise FormatError(error.message, error.offset) from None
        names_of = json_schema.properties(body)
        return Format(name, kind, body, options, names_of, (), json_schema.refers(body))
    if kind == "re":
        return Format(name, kind, body, options, tuple(grammars.full_pattern(body).groupindex))
    if kind != "tags":
        raise FormatError(f"no kind of format `{kind}`", 0, "there are lark, json, re and tags")
    shown = tuple(grammars.tag_names(body))
    machine, _ = grammars.machine_of(grammars.tags_grammar(body))
    return Format(name, kind, body, options, shown, (), machine.needs_deadline)


def _match_lark(fmt: Format, text: str, prefix: str, partial_max: float) -> Match:
    return _run(fmt.body, text, prefix, partial_max)


def _match_tags(fmt: Format, text: str, prefix: str, partial_max: float) -> Match:
    match = _run(grammars.tags_grammar(fmt.body), text, prefix, partial_max)
    if not match.ok:
        return match
    names = fmt.body.split()
    captures = {name: match.captures[f"part{i}"] for i, name in enumerate(names)}
    return Match(True, match.credit, captures)


def _run(grammar: str, text: str, prefix: str, partial_max: float) -> Match:
    machine, needs = grammars.machine_of(grammar)
    whole = prefix + text if prefix else text
    found = lr_machine.run_machine(machine, whole)
    skipped = len(prefix)
    if isinstance(found, lr_machine.Failed):
        partial = min(max(partial_credit.credit_of(needs, whole), 0.0), partial_max)
        return Match(False, partial, {}, Mismatch.of(text, found.pos - skipped, found.expected))
    return Match(True, 1.0, _spans(found, text, skipped))


def _spans(found: lr_machine.Captured, text: str, skipped: int) -> dict[str, tuple[Span, ...]]:
    """Captures by name, in the order in which they begin, outer before inner."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for name, start, end in found:
        spans.setdefault(name, []).append((max(start - skipped, 0), -max(end - skipped, 0)))
    return {
        name: tuple(Span.cut(text, start, -end) for start, end in sorted(places))
        for name, places in spans.items()
    }


def _match_earley(fmt: Format, text: str, prefix: str, partial_max: float) -> Match:
    from lark import Tree, UnexpectedInput

    whole = prefix + text
    if len(whole) > MAX_EARLEY_CHARS:
        return Match(False, 0.0, {}, Mismatch.of(text, 0, ("a shorter text",)), Status.TOO_LARGE)
    try:
        tree = grammars.lark_parser(fmt.body, "earley").parse(whole)
    except UnexpectedInput as error:
        offset = error.pos_in_stream
        names = getattr(error, "allowed", None) or getattr(error, "expected", None) or ()
        at = len(whole) if offset is None or offset < 0 else offset
        return Match(False, 0.0, {}, Mismatch.of(text, at - len(prefix), tuple(sorted(names))))
    except RecursionError:
        return Match(False, 0.0, {}, Mismatch.of(text, 0, ("less nesting",)), Status.TOO_LARGE)
    found: lr_machine.Captured = []
    queue = [tree]
    while queue:
        node = queue.pop()
        queue += [child for child in node.children if isinstance(child, Tree)]
        if not node.meta.empty:
            found.append((str(node.data), node.meta.start_pos, node.meta.end_pos))
    return Match(True, 1.0, _spans(found, text, len(prefix)))


# JSON schemas and patterns


def _match_json(fmt: Format, text: str, prefix: str, partial_max: float) -> Match:
    whole = prefix + text
    if len(whole) > MAX_JSON_CHARS:
        return Match(False, 0.0, {}, Mismatch.of(text, 0, ("a shorter text",)), Status.TOO_LARGE)
    validator = json_schema.compile_schema(fmt.body)
    try:
        value = json_schema.read_json(whole)
        if validator.is_valid(value):
            return Match(True, 1.0, _properties(fmt, whole, text, len(prefix)))
        partial = min(json_schema.satisfied(validator, value), partial_max)
        error = next(validator.iter_errors(value))
        return Match(
            False, partial, {}, Mismatch.of(text, 0, (" ".join(error.message[:200].split()),))
        )
    except json.JSONDecodeError as error:
        return Match(False, 0.0, {}, Mismatch.of(text, error.pos - len(prefix), ("JSON",)))
    except json_schema.RepeatedKey as error:
        return Match(False, 0.0, {}, Mismatch.of(text, 0, (str(error),)))
    except RecursionError:
        return Match(False, 0.0, {}, Mismatch.of(text, 0, ("less nesting",)), Status.TOO_LARGE)
    except (ValueError, OverflowError):  # a number of thousands of digits, or NaN
        return Match(False, 0.0, {}, Mismatch.of(text, 0, ("a number",)))


def _properties(fmt: Format, whole: str, text: str, skipped: int) -> dict[str, tuple[Span, ...]]:
    places = json_schema.value_spans(whole)
    found = [(name, *places[name]) for name in fmt.captures if name in places]
    return _spans(found, text, skipped)


_SURROGATE = re.compile("[\ud800-\udfff]")


def _match_regex(fmt: Format, text: str, prefix: str, partial_max: float) -> Match:
    whole = _SURROGATE.sub("\ufffd", prefix + text)  # RE2 reads UTF-8, which has none
    found = grammars.full_pattern(fmt.body).fullmatch(whole)
    if found is None:
        return Match(False, 0.0, {}, Mismatch.of(text, 0, ("the pattern",)))
    places = [
        (name, *found.span(group))
        for name, group in grammars.full_pattern(fmt.body).groupindex.items()
    ]
    return Match(True, 1.0, _spans([p for p in places if p[1] >= 0], text, len(prefix)))


_ENGINES = {
    "lark": _match_lark,
    "earley": _match_earley,
    "tags": _match_tags,
    "json": _match_json,
    "re": _match_regex,
}


def _match(compiled: Format, completion: str, *, partial_max: float) -> Any:
    if compiled.needs_deadline:  # nothing shows that every text is read in linear time
        return DEFERRED
    return _matched(compiled, completion, {"partial_max": partial_max})


def _matched(compiled: Format, completion: str, options: Mapping[str, Any]) -> Outcome:
    found = compiled.match(completion, **options)
    return Outcome(found, found.status)


def _tags(completion: str, *names: str, prefix: str, partial_max: float) -> float:
    compiled = compile_format("tags", "tags", " ".join(names), prefix=prefix)
    return compiled.match(completion, partial_max=partial_max).credit


def _check_tags(args: Sequence[Any], options: Mapping[str, Any]) -> str | None:
    names = args[1:]
    if not names or not all(isinstance(name, str) for name in names):
        return 'the tags are constant texts: format.tags(completion, "think", "answer")'
    try:
        compile_format("tags", "tags", " ".join(names), prefix=options["prefix"])
    except FormatError as error:
        return error.message
    return None


def _partial(_args: Any, options: Mapping[str, Any]) -> str | None:
    return None if 0 <= options["partial_max"] <= 1 else "partial_max lies in 0..1"


def _fits(m: Match) -> bool:
    return m.ok


def _credit(m: Match) -> float:
    return m.credit


def _failed_at(m: Match) -> float | None:
    return None if m.at is None else m.at.offset


def _capture(m: Match, *, name: str, index: float) -> Any:
    return m.capture(name, int(index))


def _left_format(arguments: Sequence[Any], match: Any) -> list[Mark]:
    """Where a text leaves the format that it is matched with."""
    text = arguments[1]
    at = getattr(match, "at", None)
    if at is None or not isinstance(text, str):
        return []
    start = at.offset + getattr(text, "start", 0)
    wanted = ", ".join(at.expected[:4]) or "something else"
    return [(start, start + (at.offset < len(text)), "fail", f"wants {wanted}")]


RULES: tuple[Rule, ...] = (
    rule(
        "match(format: format, text: text, *, partial_max: num = 0.5) -> match",
        RowKernel(_match, finish=_matched),
        "How a text fits a format: .ok, .credit, .at, and its captures by name.",
        cost=2, validate=_partial, marks=_left_format,
    ),
    rule("match.ok(match: match) -> bool", RowKernel(_fits), "Whether the whole text fits.",
         cost=0),
    rule("match.credit(match: match) -> num", RowKernel(_credit),
         "How much of the text fits: 1 if all, else less, capped by partial_max.",
         range=UNIT, cost=0),
    rule("match.at(match: match) -> num?", RowKernel(_failed_at),
         "Where the text left its format; null where it fits.", range=COUNT, cost=0),
    rule("match.capture(match: match, *, name: text, index: num) -> text?", RowKernel(_capture),
         "A part of the text by its name in the format; null unless the whole text fits.",
         cost=0),
    rule(
        'format.tags(text: text, names: text..., *, prefix: text = "", partial_max: num = 0.5)'
        " -> num",
        RowKernel(_tags), "The credit of <a>…</a> <b>…</b>, in this order and nothing else.",
        range=UNIT, cost=2, validate=_check_tags,
        example='format.tags("<think>x</think><answer>4</answer>", "think", "answer")',
    ),
)  # fmt: skip
