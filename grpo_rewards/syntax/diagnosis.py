"""Syntax errors → findings in the words of the language, with a hint towards what was meant."""

from __future__ import annotations

import difflib
import re

from lark import Lark, UnexpectedCharacters, UnexpectedEOF, UnexpectedInput
from lark.exceptions import UnexpectedToken

from grpo_rewards.errors import Finding, Place
from grpo_rewards.syntax import tree as x

#: Longer texts get no hint from a pattern, for the patterns below can take quadratic time.
_MAX_HINTED_CHARS = 2000

#: A character that other languages use → what to write here.
_FOREIGN_CHARACTERS = {
    "&": "write `and`", "|": "write `or` (or `|>` for a pipe)", "!": "write `not` (or `!=`)",
    "'": 'a string is written in double quotes: "…"', ";": "a statement ends with its line",
    "%": "there is no remainder; `50%` is 0.5", "^": "write `**` for a power",
    "?": "write `a if condition else b`, or `??` to replace a null",
}  # fmt: skip

#: A pattern of a line up to the token that does not fit, as other languages would have it → what
#: to write here.
_FOREIGN_FORMS = {
    r"(=|->|\()\s*if\b[^\n]*$": "write `1 if condition else 0`",
    r"[^?]\?$": "write `1 if condition else 0`, or `??` to replace a null",
    r"^\s*(input|param)\s+\w+\s*,$": "one name a statement, with its type: `input gold: text`",
    r"^\s*input\s+\w+\s*(=|from)?$": "an input has a type: `input gold: text`",
    r"^\s*param\s+\w+\s*=$": "a param has a type: `param weight: num = 0.5`",
    r"^\s*extern\s+\w+\s*\([^)]*\w\s*:$": "its arguments are types: `extern f(text): num`",
    r"^\s*policy\b.*\d\s+\w*\W*$": "a quantity is one word: `2s`, `500ms`, `60k`",
}

#: Names of terminals → what a message calls them.
_TERMINALS = {
    "NAME": "a name", "NUMBER": "a number", "STRING": "a string", "LONG_STRING": "a string",
    "REGEX": 're"…"', "HEREDOC": "lark'''…'''", "COMPARE": "a comparison", "SIGN": "`+` or `-`",
    "TIMES": "`*` or `/`", "$END": "the end of the statement",
}  # fmt: skip


def diagnose(error: UnexpectedInput, text: str, place: Place, parser: Lark) -> Finding:
    """The finding about the statement at `place` in `text`, which `parser` could not read."""
    if isinstance(error, UnexpectedCharacters):
        start = place.start + (error.pos_in_stream or 0)
        return _explain_character(text, start)
    if isinstance(error, UnexpectedToken) and error.token.type != "$END":
        start = place.start + (error.token.start_pos or 0)
        return _explain_token(error, text, Place(start, start + len(error.token)), parser)
    body = text[place.start : place.end].rstrip()
    end = place.start + len(body)
    hint = _unclosed(body) if len(body) < _MAX_HINTED_CHARS else ""
    if not hint and isinstance(error, UnexpectedToken | UnexpectedEOF):
        hint = _expected(error, parser)
    return Finding("S10", "the statement ends too early", Place(max(end - 1, 0), end), hint)


def _unclosed(body: str) -> str:
    """A hint that names the innermost round or square bracket left open, "" where there is none."""
    open_brackets: list[str] = []
    for token in re.findall(r"\"(?:\\.|[^\"\\\n])*\"|#[^\n]*|[()\[\]]", body):
        if token in "([":
            open_brackets.append(token)
        elif token in ")]" and open_brackets:
            open_brackets.pop()
    return f"`{open_brackets[-1]}` is never closed" if open_brackets else ""


def _explain_character(text: str, start: int) -> Finding:
    char = text[start]
    at = Place(start, start + 1)
    rest = text[start:]
    if rest.startswith(('"', "'''")) or re.match(r"(lark|json|text)'''", rest):
        return Finding("S11", "a string or heredoc is not closed", at)
    shown = char if char.isprintable() else f"\\x{{{ord(char):x}}}"
    return Finding("S12", f"unexpected character `{shown}`", at, _FOREIGN_CHARACTERS.get(char, ""))


def _explain_token(error: UnexpectedToken, text: str, at: Place, parser: Lark) -> Finding:
    token = str(error.token)
    accepts = error.accepts or error.expected or set()
    line_start = not text[text.rfind("\n", 0, at.start) + 1 : at.start].strip()
    if (line_start and error.token.type == "NAME" and at.start > 0) or at.start == 0:
        close = difflib.get_close_matches(token, x.KEYWORDS, n=1)
        hint = f"did you mean `{close[0]}`?" if close else "one of " + ", ".join(x.KEYWORDS)
        return Finding("S13", f"unknown statement `{token}`", at, hint)
    if token == "=" and "COMPARE" in accepts:
        return Finding("S14", "`=` names a value; it does not compare", at, "write `==`")
    if error.token.type == "COMPARE" and "COMPARE" not in accepts:
        hint = "write `a < b and b < c`, or `b in a..c`"
        return Finding("S15", "comparisons do not chain", at, hint)
    before = text[text.rfind("\n", 0, at.start) + 1 : at.start]
    heredoc = re.search(r"\b(lark|json|text)$", before)
    if heredoc and token.startswith('"'):
        hint = f"write {heredoc[1]}'''…'''"
        return Finding("S10", f"unexpected `{token[:40]}`", at, hint)
    for written, hint in _FOREIGN_FORMS.items() if len(before) < _MAX_HINTED_CHARS else ():
        if re.search(written, before + token):
            return Finding("S10", f"unexpected `{token[:40]}`", at, hint)
    hint = "" if error.token.type in ("HEREDOC", "REGEX") else _expected(error, parser)
    return Finding("S10", f"unexpected `{token[:40]}`", at, hint)


def _expected(error: UnexpectedToken | UnexpectedEOF, parser: Lark) -> str:
    """A hint that lists what could stand here, "" where the list is too long to help."""
    accepts = getattr(error, "accepts", None) or getattr(error, "expected", None) or set()
    names = {_TERMINALS.get(name, _symbol(name, parser)) for name in accepts}
    shown = sorted(name for name in names if name)
    return f"expected {', '.join(shown)}" if 0 < len(shown) <= 8 else ""


def _symbol(terminal: str, parser: Lark) -> str:
    """The text of a terminal that is a keyword or punctuation, "" for any other."""
    for definition in parser.terminals:
        if definition.name == terminal and definition.pattern.type == "str":
            return f"`{definition.pattern.value}`"
    return ""
