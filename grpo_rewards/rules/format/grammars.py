"""The bodies of formats, compiled: Lark grammars, lists of tags and patterns.

A grammar is refused here before Lark, its strict mode or a terminal of it may take long: by its
size, by the alternatives that Lark would write out, by what its terminals cost.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import Any, Final

from grpo_rewards.errors import Severity
from grpo_rewards.limits import (
    MAX_GRAMMAR_ALTERNATIVES,
    MAX_GRAMMAR_CHARS,
    MAX_GRAMMAR_RULES,
    MAX_GRAMMAR_STATES,
)
from grpo_rewards.rules.format import lr_machine, partial_credit, regex_cost
from grpo_rewards.rules.text import compile_pattern


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


# Tags


def tag_names(body: str) -> list[str]:
    names = body.split()
    for tag in names or [""]:
        if not re.fullmatch(r"[A-Za-z_]\w*", tag, re.ASCII) or tag == "start":
            raise FormatError(f"`{tag}` is no tag's name", 0, 'write tags("think", "answer")')
    twice = [tag for i, tag in enumerate(names) if tag in names[:i]]
    if twice:
        raise FormatError(f"the tag `{twice[0]}` stands twice")
    return names


#: White space, and what Unicode says to show as nothing: a thought of these is empty.
_UNSEEN: Final = (
    r"\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)


@functools.lru_cache(maxsize=256)
def tags_grammar(body: str) -> str:
    """`<a>…</a> <b>…</b>` with white space between; inside, none of these tags, not only blanks."""
    names = body.split()
    parts = " ".join(f'"<{name}>" part{i} "</{name}>" WS?' for i, name in enumerate(names))
    rules = "\n".join(f"part{i}: TEXT" for i in range(len(names)))
    text = rf"<(?!\/?(?:{'|'.join(names)})>)"
    terminal = rf"TEXT: /[{_UNSEEN}]*(?:[^<{_UNSEEN}]|{text})(?:[^<]+|{text})*/"
    return f"start: WS? {parts}\n{rules}\n{terminal}\nWS: /\\s+/\n"


# Patterns


@functools.lru_cache(maxsize=256)
def full_pattern(body: str) -> Any:
    pattern, _, flags = body.rpartition("\n")
    try:
        return compile_pattern(pattern, flags)
    except ValueError as error:
        hint = "patterns are RE2's: no look-around, no back-references"
        raise FormatError(str(error), 0, hint) from None


# Lark grammars


@functools.lru_cache(maxsize=64)
def machine_of(grammar: str) -> tuple[lr_machine.Machine, partial_credit.Needs]:
    """The tables that run a grammar, and what partial credit needs to know of it."""
    machine = lr_machine.build_machine(lark_parser(grammar, "lalr"))
    return machine, partial_credit.Needs(machine)


@functools.lru_cache(maxsize=64)
def lark_parser(grammar: str, engine: str) -> Any:
    """The compiled grammar; FormatError with the place where Lark tells one."""
    import interegular
    from lark import Lark
    from lark.exceptions import LarkError, UnexpectedInput

    _check_grammar(grammar)
    options = {"lexer": "contextual", "strict": True} if engine == "lalr" else {}
    try:
        if _written_out(grammar) > MAX_GRAMMAR_ALTERNATIVES:
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


def ignore_lints(grammar: str) -> tuple[Lint, ...]:
    ignored = re.search(r"^[ \t]*%ignore\b", grammar, re.MULTILINE)
    if not ignored:
        return ()
    hint = "name what may stand between, where it may stand"
    return (Lint("W20", "`%ignore` accepts text anywhere in silence", ignored.start(), hint),)


_LAZY = re.compile(r"[+*}]\?/$")  # stops at once: nothing follows inside the terminal
_ANY = re.compile(r"\.[+*]/[imlux]*s|\[\\s\\S\][+*]/")  # runs to the end of the text


def lark_lints(grammar: str, machine: lr_machine.Machine) -> tuple[Lint, ...]:
    lints = list(ignore_lints(grammar))
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


# What a grammar costs before it is compiled


_FACTORED = 50  # Lark writes out smaller counted repeats, and factors larger ones


def _written_out(grammar: str) -> int:
    """How many alternatives Lark writes out for all rules of a grammar together, counted before it
    does: twenty times `("a"|"b")` in a row are a million. LarkError where it does not parse."""
    from lark.load_grammar import GrammarBuilder

    builder: Any = GrammarBuilder()  # its definitions have no public name; the tests count them
    builder.load_grammar(grammar, "<format>")
    rules = (found for found in builder._definitions.values() if not found.is_term)
    return sum(_count(rule.tree) for rule in rules if rule.tree is not None)


def _count(tree: Any) -> int:
    """The alternatives that one part of a rule becomes."""
    counts = [_count(part) for part in tree.children if hasattr(part, "children")]
    match tree.data:
        case "expansions":
            return sum(counts)
        case "expansion" | "alias":
            return math.prod(counts)
        case "maybe":
            return sum(counts) + 1
        case "expr":
            return _repeated(counts[0] if counts else 1, [str(part) for part in tree.children[1:]])
    return 1


def _repeated(inner: int, signs: list[str]) -> int:
    """`inner` alternatives under `?`, `*`, `+`, `~ 3` or `~ 1..9`."""
    if signs[0] != "~":
        return inner + 1 if signs[0] == "?" else 2
    low, high = int(signs[1]), int(signs[-1])
    return 2 if high >= _FACTORED else sum(inner**times for times in range(low, high + 1))
