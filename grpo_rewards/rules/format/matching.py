"""Formats: a text as a whole has a shape, and its parts have names.

`compile_format` turns a grammar, schema, pattern or list of tags into a frozen `Format`;
`Format.match` tells whether a text has the shape, how far it got, and where its parts are.
The tables of a grammar run in lalr.py, partial credit is in credit.py, JSON Schema in schema.py.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from grpo_rewards.columns import Span, Status
from grpo_rewards.errors import Severity
from grpo_rewards.limits import (
    MAX_EARLEY_CHARS,
    MAX_GRAMMAR_ALTERNATIVES,
    MAX_GRAMMAR_CHARS,
    MAX_GRAMMAR_RULES,
    MAX_GRAMMAR_STATES,
    MAX_JSON_CHARS,
)
from grpo_rewards.rules.format import json_schema, lr_machine, partial_credit, regex_cost
from grpo_rewards.rules.format.expansions import written_out


class FormatError(Exception):
    """A format that cannot be compiled: what, where in its text, and a hint."""

    def __init__(self, message: str, offset: int = 0, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.offset, self.hint = message, offset, hint

    def __reduce__(self) -> tuple[type, tuple[str, int, str]]:
        return type(self), (self.message, self.offset, self.hint)


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

    @staticmethod
    def of(text: str, offset: int, expected: tuple[str, ...]) -> Failure:
        """The failure at an offset, kept inside the text."""
        offset = min(max(offset, 0), len(text))
        line = text.count("\n", 0, offset) + 1
        return Failure(offset, line, offset - text.rfind("\n", 0, offset), expected)


@dataclass(frozen=True, slots=True)
class Match:
    """`ok`: the whole text has the shape. `credit` in 0..1 tells how much of it, 1 only if ok.
    `captures` maps rule names to their spans in order, and is empty unless ok. `status` is
    TOO_LARGE where a limit kept the text from being read."""

    ok: bool
    credit: float
    captures: dict[str, tuple[Span, ...]] = field(default_factory=dict)
    at: Failure | None = None
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
        parser = _lark(body, "earley")
        rules = {str(rule.origin.name) for rule in parser.rules} - {"start"}
        shown = tuple(sorted(rule for rule in rules if re.fullmatch(r"[a-z][a-z0-9_]*", rule)))
        return Format(name, kind, body, options, shown, _ignore_lints(body), True)
    if kind == "lark":
        machine, _ = _machine(body)
        lints = _lark_lints(body, machine)
        return Format(name, kind, body, options, machine.captures, lints, machine.needs_deadline)
    if kind == "json":
        try:
            json_schema.compile_schema(body)
        except json_schema.SchemaError as error:
            raise FormatError(error.message, error.offset) from None
        names_of = json_schema.properties(body)
        return Format(name, kind, body, options, names_of, (), json_schema.refers(body))
    if kind == "re":
        return Format(name, kind, body, options, tuple(_regex(body).groupindex))
    if kind != "tags":
        raise FormatError(f"no kind of format `{kind}`", 0, "there are lark, json, re and tags")
    shown = tuple(_check_tags(body))
    machine, _ = _machine(_tags_grammar(body))
    return Format(name, kind, body, options, shown, (), machine.needs_deadline)


def _check_tags(body: str) -> list[str]:
    names = body.split()
    for tag in names or [""]:
        if not re.fullmatch(r"[A-Za-z_]\w*", tag, re.ASCII) or tag == "start":
            raise FormatError(f"`{tag}` is no tag's name", 0, 'write tags("think", "answer")')
    twice = [tag for i, tag in enumerate(names) if tag in names[:i]]
    if twice:
        raise FormatError(f"the tag `{twice[0]}` stands twice")
    return names


# Lark grammars


@functools.lru_cache(maxsize=64)
def _machine(grammar: str) -> tuple[lr_machine.Machine, partial_credit.Needs]:
    """The tables that run a grammar, and what partial credit needs to know of it."""
    machine = lr_machine.build(_lark(grammar, "lalr"))
    return machine, partial_credit.Needs(machine)


@functools.lru_cache(maxsize=64)
def _lark(grammar: str, engine: str) -> Any:
    """The compiled grammar; FormatError with the place where Lark tells one."""
    import interegular
    from lark import Lark
    from lark.exceptions import LarkError, UnexpectedInput

    _check_grammar(grammar)
    options = {"lexer": "contextual", "strict": True} if engine == "lalr" else {}
    try:
        if written_out(grammar) > MAX_GRAMMAR_ALTERNATIVES:
            hint = "choices and repeats in a row multiply: give parts of them rules of their own"
            raise FormatError("the grammar has too many alternatives", 0, hint)
        parser = Lark(
            grammar,
            parser=engine,
            maybe_placeholders=False,
            propagate_positions=True,
            import_paths=[_no_files],
            **options,
        )
        if len({str(rule.origin.name) for rule in parser.rules}) > MAX_GRAMMAR_RULES:
            raise FormatError(f"the grammar has over {MAX_GRAMMAR_RULES} rules")
    except UnexpectedInput as error:
        raise FormatError("the grammar does not parse", error.pos_in_stream or 0) from None
    except interegular.Unsupported:
        hint = "strict mode cannot compare it with the others; leave out back-references"
        raise FormatError("a terminal's regular expression cannot be checked", 0, hint) from None
    except (
        LarkError, re.error, interegular.InvalidSyntax, OSError, AssertionError, ValueError,
        KeyError, IndexError, AttributeError, TypeError, RecursionError, OverflowError,
    ) as error:  # Lark meets a broken grammar with all of these  # fmt: skip
        raise _lark_error(grammar, str(error)) from None
    return parser


def _lark_error(grammar: str, message: str) -> FormatError:
    """Lark's message in one line, its place as an offset."""
    place = re.search(r"line (\d+),? col(?:umn)? (\d+)", message)
    offset = 0
    if place:
        lines = grammar.split("\n")[: int(place[1]) - 1]
        offset = min(sum(len(line) + 1 for line in lines) + int(place[2]) - 1, len(grammar))
    else:
        defined = re.finditer(r"^[ \t]*[?!]?([A-Za-z_]\w*)[^:\n]*:", grammar, re.MULTILINE)
        said = set(re.findall(r"\w+", message))
        offset = min((found.start(1) for found in defined if found[1] in said), default=0)
    hint = ""
    if "Collision" in message or "collision" in message:
        hint = "two terminals or rules fit the same text: say in the grammar which one is meant"
    if "conflict" in message:
        hint = "the grammar is ambiguous after one terminal: merge the rules that begin alike"
    return FormatError(
        " ".join(message.split())[:200] or "the grammar cannot be compiled", offset, hint
    )


def _no_files(_base: str | None, path: str) -> tuple[str, str]:
    """Lark's loader for everything outside its own library: there is nothing."""
    raise OSError(f"a grammar reads no files: {path}")


_STRINGS = re.compile(r'"(?:[^"\\\n]|\\.)*"|/(?!/)(?:[^/\\\n]|\\.)+/|//[^\n]*|#[^\n]*')


def _check_grammar(grammar: str) -> None:
    """Refuse what is too large to compile, and what would read files."""
    if len(grammar) > MAX_GRAMMAR_CHARS:
        raise FormatError(f"the grammar has over {MAX_GRAMMAR_CHARS:,} characters")
    bare = _STRINGS.sub(lambda found: " " * len(found[0]), grammar)
    if bare.count(":") > MAX_GRAMMAR_RULES * 2:
        raise FormatError(f"the grammar has over {MAX_GRAMMAR_RULES} rules")
    for found in re.finditer(r"%\s*import\s*([^\s(]*)", bare):
        if found[1] != "common" and not found[1].startswith("common."):
            hint = "only `%import common.NAME` is allowed: a grammar reads no files"
            raise FormatError(f"the grammar imports {found[1]}", found.start(), hint)
    for found in re.finditer(r"~\s*(\d+)(?:\s*\.\.\s*(\d+))?", bare):
        if max(int(found[1][:9]), int((found[2] or "0")[:9])) > MAX_GRAMMAR_STATES // 20:
            raise FormatError("so many repeats make a grammar too large", found.start())
    for found in _STRINGS.finditer(grammar):
        pattern = found[0]
        if pattern.startswith("/") and not pattern.startswith("//"):
            _check_pattern(pattern[1:-1], found.start())


def _check_pattern(pattern: str, offset: int) -> None:
    try:
        if regex_cost.explodes(pattern):
            message = "a counted repeat makes this terminal too costly to check"
            raise FormatError(message, offset, "write `+` or `*` and count elsewhere")
    except (re.error, RecursionError, OverflowError) as error:
        raise FormatError(f"not a regular expression: {error}", offset) from None


def _ignore_lints(grammar: str) -> tuple[Lint, ...]:
    ignored = re.search(r"^[ \t]*%ignore\b", grammar, re.MULTILINE)
    if not ignored:
        return ()
    hint = "name what may stand between, where it may stand"
    return (Lint("W20", "`%ignore` accepts text anywhere in silence", ignored.start(), hint),)


_LAZY = re.compile(r"[+*}]\?/$")  # stops at once: nothing follows inside the terminal
_ANY = re.compile(r"\.[+*]/[imlux]*s|\[\\s\\S\][+*]/")  # runs to the end of the text


def _lark_lints(grammar: str, machine: lr_machine.Machine) -> tuple[Lint, ...]:
    lints = list(_ignore_lints(grammar))
    for name, cost in machine.risky:
        found = re.search(rf"^[ \t]*{re.escape(name)}\b", grammar, re.MULTILINE)
        offset = found.end() - len(name) if found else 0
        hint = r"unroll it: (?:[^<]+|<(?!tag))+ cannot backtrack"
        if cost is regex_cost.Cost.EXPONENTIAL:
            message = f"nested quantifiers in {name} may backtrack without end"
        else:
            message = f"quantifiers in {name} share their characters and may backtrack"
        lints.append(Lint("W21", message, offset, hint))
    for found in _STRINGS.finditer(grammar):
        after = grammar[found.end() : found.end() + 6]
        if found[0][0] == "/" and (_LAZY.search(found[0]) or _ANY.search(found[0] + after)):
            message = "a terminal does not stop where the next one begins"
            hint = r"the lexer does not backtrack: write (?:[^<]+|<(?!\/answer>))+"
            lints.append(Lint("W22", message, found.start(), hint))
    return tuple(lints)


def _match_lark(fmt: Format, text: str, prefix: str, partial_max: float) -> Match:
    return _run(fmt.body, text, prefix, partial_max)


def _match_tags(fmt: Format, text: str, prefix: str, partial_max: float) -> Match:
    match = _run(_tags_grammar(fmt.body), text, prefix, partial_max)
    if not match.ok:
        return match
    names = fmt.body.split()
    captures = {name: match.captures[f"part{i}"] for i, name in enumerate(names)}
    return Match(True, match.credit, captures)


#: White space, and what Unicode says to show as nothing: a thought of these is empty.
_UNSEEN: Final = (
    r"\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)


@functools.lru_cache(maxsize=256)
def _tags_grammar(body: str) -> str:
    """`<a>…</a> <b>…</b>` with white space between; inside, none of these tags, not only blanks."""
    names = body.split()
    parts = " ".join(f'"<{name}>" part{i} "</{name}>" WS?' for i, name in enumerate(names))
    rules = "\n".join(f"part{i}: TEXT" for i in range(len(names)))
    text = rf"<(?!\/?(?:{'|'.join(names)})>)"
    terminal = rf"TEXT: /[{_UNSEEN}]*(?:[^<{_UNSEEN}]|{text})(?:[^<]+|{text})*/"
    return f"start: WS? {parts}\n{rules}\n{terminal}\nWS: /\\s+/\n"


def _run(grammar: str, text: str, prefix: str, partial_max: float) -> Match:
    machine, needs = _machine(grammar)
    whole = prefix + text if prefix else text
    found = lr_machine.parse(machine, whole)
    skipped = len(prefix)
    if isinstance(found, lr_machine.Failed):
        partial = min(max(partial_credit.grade(needs, whole), 0.0), partial_max)
        return Match(False, partial, {}, Failure.of(text, found.pos - skipped, found.expected))
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
        return Match(False, 0.0, {}, Failure.of(text, 0, ("a shorter text",)), Status.TOO_LARGE)
    try:
        tree = _lark(fmt.body, "earley").parse(whole)
    except UnexpectedInput as error:
        offset = error.pos_in_stream
        names = getattr(error, "allowed", None) or getattr(error, "expected", None) or ()
        at = len(whole) if offset is None or offset < 0 else offset
        return Match(False, 0.0, {}, Failure.of(text, at - len(prefix), tuple(sorted(names))))
    except RecursionError:
        return Match(False, 0.0, {}, Failure.of(text, 0, ("less nesting",)), Status.TOO_LARGE)
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
        return Match(False, 0.0, {}, Failure.of(text, 0, ("a shorter text",)), Status.TOO_LARGE)
    validator = json_schema.compile_schema(fmt.body)
    try:
        value = json_schema.read(whole)
        if validator.is_valid(value):
            return Match(True, 1.0, _properties(fmt, whole, text, len(prefix)))
        partial = min(json_schema.satisfied(validator, value), partial_max)
        error = next(validator.iter_errors(value))
        return Match(
            False, partial, {}, Failure.of(text, 0, (" ".join(error.message[:200].split()),))
        )
    except json.JSONDecodeError as error:
        return Match(False, 0.0, {}, Failure.of(text, error.pos - len(prefix), ("JSON",)))
    except json_schema.RepeatedKey as error:
        return Match(False, 0.0, {}, Failure.of(text, 0, (str(error),)))
    except RecursionError:
        return Match(False, 0.0, {}, Failure.of(text, 0, ("less nesting",)), Status.TOO_LARGE)
    except (ValueError, OverflowError):  # a number of thousands of digits, or NaN
        return Match(False, 0.0, {}, Failure.of(text, 0, ("a number",)))


def _properties(fmt: Format, whole: str, text: str, skipped: int) -> dict[str, tuple[Span, ...]]:
    places = json_schema.value_spans(whole)
    found = [(name, *places[name]) for name in fmt.captures if name in places]
    return _spans(found, text, skipped)


@functools.lru_cache(maxsize=256)
def _regex(body: str) -> Any:
    from grpo_rewards.rules.text import compile_pattern

    pattern, _, flags = body.rpartition("\n")
    try:
        return compile_pattern(pattern, flags)
    except ValueError as error:
        hint = "patterns are RE2's: no look-around, no back-references"
        raise FormatError(str(error), 0, hint) from None


_SURROGATE = re.compile("[\ud800-\udfff]")


def _match_regex(fmt: Format, text: str, prefix: str, partial_max: float) -> Match:
    whole = _SURROGATE.sub("\ufffd", prefix + text)  # RE2 reads UTF-8, which has none
    found = _regex(fmt.body).fullmatch(whole)
    if found is None:
        return Match(False, 0.0, {}, Failure.of(text, 0, ("the pattern",)))
    places = [(name, *found.span(group)) for name, group in _regex(fmt.body).groupindex.items()]
    return Match(True, 1.0, _spans([p for p in places if p[1] >= 0], text, len(prefix)))


_ENGINES = {
    "lark": _match_lark,
    "earley": _match_earley,
    "tags": _match_tags,
    "json": _match_json,
    "re": _match_regex,
}
