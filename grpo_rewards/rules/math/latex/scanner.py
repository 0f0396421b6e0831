"""Mathematical text → tokens for `grammars/latex.lark`, in one pass, left to right.

What a grammar cannot say is decided here: where two neighbours multiply, which bar opens and which
closes, what one argument of `\\frac` is, how far `\\sin x` reaches, what a run of letters means.
The grammar then is plain LALR(1).

Longer than other modules, for the scanner is one state machine: its methods share the frames.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from lark import Token

from grpo_rewards import limits
from grpo_rewards.rules.math import symbols, units
from grpo_rewards.rules.math.latex.letter_runs import split_word


class Unreadable(Exception):
    """Internal to the reader of mathematics: why the text is none. Never leaves `latex.parse`."""


_TOKEN: Final = re.compile(
    r"""
    (?P<SPACE> (?:\s|\\[,;:! ]|\\q?quad(?![A-Za-z])|~|\\displaystyle(?![a-z])|\\textstyle(?![a-z])
        |\\limits(?![a-z])|\\nolimits(?![a-z])|\\hspace\*?\{[^{}]{0,20}\}|\\hline(?![a-z])
        |\\(?:left|right|big|Big|bigg|Bigg|middle)[lrm]?\.?(?![A-Za-z]))+ )
  | (?P<DEG> \^\s*\{?\s*\\circ(?![A-Za-z])\s*\}? | \\degree(?![a-z]) )
  | (?P<MIX> \d{1,30}(?:\s|\\[ ,;:])+\d{1,30}\s*/\s*\d{1,30}(?![\d.]) )
  | (?P<NUM> (?: \d{1,3}(?:(?:,\\!|\{,\}|,\ \\!|\\!,|\\,|\\\ |'|_(?=\d{3}_|\d{3}$)|,\\,)\s*
            \d{3})+(?!\d)
        | \d{1,3}(?:\ \d{3})+(?![\d/]) | \d{1,3}(?:,\d{3})+(?![\d]) | \d+ | (?=\.\d) )
        (?:\.(?!\.)\d*)? (?:[eE][+-]?\d{1,9}(?![\d.A-Za-z]))? )
  | (?P<TEXT> \\(?:text|textbf|textit|textrm|textnormal|textsf|texttt|mbox|hbox|mathrm|mathbf|rm|bf
        |mathit|mathsf|operatorname\*?|emph|textup|mathcal|boldsymbol|bm|vec|overrightarrow|bar|hat
        |tilde|pmb)(?![A-Za-z])\s* )
  | (?P<BEGIN> \\begin\s*\{\s*[A-Za-z]{1,12}\*?\s*\} (?:\s*\{[clr|@!{}. ]{0,60}\})? )
  | (?P<END> \\end\s*\{\s*[A-Za-z]{1,12}\*?\s*\} )
  | (?P<ROW> \\\\(?:\s*\[[^\]]{0,12}\])? )
  | (?P<CMD> \\[A-Za-z]+ )
  | (?P<ESC> \\[{}|%$&\#_()\[\]/-] )
  | (?P<REL> <=|>=|==|!=|=<|=>|<>|->|[=<>] )
  | (?P<BANG2> !!(?!!) ) | (?P<BANG> ! )
  | (?P<POW> \*\*|\^ )
  | (?P<DOTS> \.\.\.+ )
  | (?P<WORD> factorial2(?=\s*\() | [A-Za-z]+ )
  | (?P<PRIME> '+ )
  | (?P<CHAR> [-+*/(){}\[\]|,;:&_%$] )
    """,
    re.VERBOSE,
)
_ENDS: Final = frozenset(
    "NUM MIX SYM RP RB RBRACE RSET RBAR BANG BANG2 PERCENT DEG TEXT INF MATRIX DOTS BASE "
    "RFLOOR RCEIL RANGLE PRIME RNORM END".split()
)
_FRACTION: Final = re.compile(r"\s*(?:\{\s*\d+\s*\}|\d)\s*(?:\{\s*\d+\s*\}|\d)")
_SCRIPT_DIGITS: Final = re.compile(r"\s*(?:\{\s*(\d{1,3})\s*\}|(\d))")
_UNIT_POWER: Final = re.compile(r"\s*\^\s*\{?\s*(-?\d)\s*\}?")
_BRACED: Final = re.compile(r"\{([^{}]*)\}")
_NAME: Final = re.compile(r"\s*(?:\{\s*([A-Za-z0-9]{1,20})\s*\}|([A-Za-z0-9]))")
_FIXED: Final = {
    "\\langle": ("LANGLE", "RANGLE"), "\\lfloor": ("LFLOOR", "RFLOOR"),
    "\\lceil": ("LCEIL", "RCEIL"), "\\lvert": ("LBAR", "RBAR"), "\\lVert": ("LNORM", "RNORM"),
    "\\lbrace": ("LSET", "RSET"), "\\lbrack": ("LB", "RB"), "\\lparen": ("LP", "RP"),
}  # fmt: skip
_CLOSERS: Final = {
    "\\rangle": "RANGLE", "\\rfloor": "RFLOOR", "\\rceil": "RCEIL", "\\rvert": "RBAR",
    "\\rVert": "RNORM", "\\rbrace": "RSET", "\\rbrack": "RB", "\\rparen": "RP",
}  # fmt: skip
_ARGS: Final = {"frac": 2, "dfrac": 2, "tfrac": 2, "cfrac": 2, "sqrt": 1, "binom": 2, "dbinom": 2,
                "tbinom": 2, "overline": 1, "boxed": 1, "fbox": 1, "underline": 1,
                "overset": 2, "mathbb": 1}  # fmt: skip
_HEADS: Final = {"dfrac": "FRAC", "tfrac": "FRAC", "cfrac": "FRAC", "frac": "FRAC",
                 "binom": "BINOM", "dbinom": "BINOM", "tbinom": "BINOM",
                 "sqrt": "SQRT"}  # fmt: skip
_COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    **dict.fromkeys(("times", "cdot", "ast", "bullet", "cdotp"), ("_operator", "MUL", "*")),
    "div": ("_operator", "DIV", "/"), "pm": ("_operator", "PM", ""), "mp": ("_operator", "PM", ""),
    **dict.fromkeys(("cup", "cap", "setminus"), ("_operator", "SETOP", "")),
    "backslash": ("_operator", "SETOP", "setminus"), "colon": ("_operator", "COLON", ":"),
    "mod": ("_operator", "MOD", ""), "pmod": ("_operator", "MOD", ""),
    "bmod": ("_operator", "MOD", ""),
    "infty": ("_atom", "INF", ""), "infin": ("_atom", "INF", ""),
    "emptyset": ("_atom", "EMPTY", ""), "varnothing": ("_atom", "EMPTY", ""),
    **dict.fromkeys("ldots dots cdots dotsc dotsb vdots ddots".split(), ("_atom", "DOTS", "")),
    **dict.fromkeys(("land", "wedge", "lor", "vee"), ("_separator", ",", "")),
    "degree": ("_put", "DEG", ""),
}  # fmt: skip
_IGNORED: Final = frozenset(
    "therefore because checkmark angle measuredangle triangle square beginboxed framebox box"
    " fbox left right big Big bigg Bigg".split()
)
_DECORATIONS: Final = frozenset(
    ["\\" + name for name in "vec overrightarrow boldsymbol bm mathbf pmb mathcal".split()]
)
_MARKS: Final = frozenset({"\\bar", "\\hat", "\\tilde"})
_LETTERS_TOO: Final = frozenset("int Gamma gamma zeta sh im".split())
_LETTERS: Final = {"varepsilon": "epsilon", "vartheta": "theta", "varphi": "phi",
                   "varrho": "rho", "varsigma": "sigma", "imath": "i", "jmath": "j"}  # fmt: skip


@dataclass(slots=True)
class _Frame:
    """What is open: the closer that ends it, arguments still wanted, how far a function reaches."""

    closer: str
    wanted: list[str] = field(default_factory=list)
    reach: str = ""  # "", "bare" (after `\sin x`) or "big" (after `\sum`)
    script: bool = False


class Scanner:
    """One text on its way to tokens."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.out: list[Token] = []
        self.frames = [_Frame("")]
        self.prev = ""  # type of the last token
        self.spaced = False

    def run(self) -> list[Token]:
        """All tokens; raises Unreadable on a character or a nesting that is none."""
        text, end, match = self.text, len(self.text), _TOKEN.match
        while self.at < end:
            found = match(text, self.at)
            if found is None:
                raise Unreadable(f"unexpected character {text[self.at]!r}")
            kind = found.lastgroup or ""
            value = found[kind]
            if not value:  # a lone point
                raise Unreadable("unexpected point")
            self.at = found.end()
            if kind == "SPACE":
                self.spaced = True
                continue
            getattr(self, "_on_" + kind.lower())(value)
            self.spaced = False
            if len(self.out) > limits.MAX_MATH_TOKENS:
                raise Unreadable("too many tokens")
        if len(self.frames) > 1:
            self._close_open_ended()
        return self.out

    def _close_open_ended(self) -> None:
        raise Unreadable("unbalanced brackets")

    # -- emitting ---------------------------------------------------------------------------

    def _put(self, kind: str, value: str) -> None:
        self.out.append(Token(kind, value))
        self.prev = kind

    def _atom(self, kind: str, value: str) -> None:
        """A token that begins an operand: times its left neighbour, unless that wants it."""
        frame = self.frames[-1]
        if frame.wanted:
            self._take_argument(frame, kind)
        elif self.prev in _ENDS:
            self._times(frame, kind)
        self._put(kind, value)

    def _take_argument(self, frame: _Frame, kind: str) -> None:
        wanted = frame.wanted.pop()
        if wanted == "arg" and kind in ("FUNC", "BIGOP"):
            raise Unreadable("a function without braces as an argument")
        if wanted == "func":
            if kind in ("LP", "LBRACE", "LB"):
                return
            for token in range(len(self.out) - 1, -1, -1):  # the function itself, a few back
                if self.out[token].type == "FUNC":
                    self.out[token] = Token("BFUNC", self.out[token].value)
                    break
            if frame.reach != "big":
                frame.reach = "bare"

    def _times(self, frame: _Frame, kind: str) -> None:
        if frame.reach == "big":
            self._put("BMUL", "")
        elif frame.reach == "bare" and kind not in ("FUNC", "LP", "LB", "BIGOP", "LBRACE"):
            self._put("TIGHT", "")
        else:
            frame.reach = ""
            self._put("IMUL", "")

    def _operator(self, kind: str, value: str) -> None:
        frame = self.frames[-1]
        if kind == "COLON" and frame.closer == "RSET":
            self._relation("mid")
            return
        if frame.reach == "big" and kind in ("MUL", "DIV"):
            kind = "B" + kind
        elif not (kind == "POW" or frame.wanted):
            frame.reach = ""
        self._put(kind, value)

    def _open(self, kind: str, value: str, closer: str) -> None:
        self._atom(kind, value)
        self.frames.append(_Frame(closer))
        if len(self.frames) > limits.MAX_MATH_DEPTH:
            raise Unreadable("nested too deeply")

    def _close(self, kind: str, value: str) -> None:
        frame = self.frames[-1]
        if len(self.frames) == 1 or frame.wanted:
            raise Unreadable("unbalanced brackets")
        expected = frame.closer
        if expected == kind or {expected, kind} == {"RP", "RB"}:  # `[0, 1)`
            self.frames.pop()
            self._put(kind, value)
        elif expected == "ROOT" and kind == "RB":
            self.frames.pop()
            self._put("RROOT", value)
        elif expected == "RSET" and kind == "RBRACE":
            raise Unreadable("unbalanced braces")
        else:
            raise Unreadable("unbalanced brackets")

    # -- one method a kind of token ---------------------------------------------------------

    def _on_deg(self, value: str) -> None:
        self._put("DEG", value)

    def _on_mix(self, value: str) -> None:
        if self.frames[-1].wanted:
            self.at -= len(value.lstrip("0123456789"))
            self._on_num(value[: len(value) - len(value.lstrip("0123456789"))])
            return
        self._atom("MIX", value)

    def _on_num(self, value: str) -> None:
        frame = self.frames[-1]
        if frame.wanted and frame.wanted[-1] == "arg" and len(value) > 1:
            if self.out[-1].type != "SQRT":
                self.at -= len(value) - 1  # one digit is one argument
                value = value[0]
        elif "," in value and len(self.frames) > 1 and self._in_list() and "\\" not in value:
            cut = value.index(",")
            if "{" not in value:  # inside brackets a comma separates: `(1,234)` is a pair
                self.at -= len(value) - cut
                value = value[:cut]
        if len(value) > limits.MAX_NUMBER_DIGITS:
            raise Unreadable("a number of too many digits")
        self._atom("NUM", value)

    def _in_list(self) -> bool:
        return self.frames[-1].closer in ("RP", "RB", "RSET")

    def _on_text(self, value: str) -> None:
        name = value.strip()
        inner = self._braced()
        if inner is None and name in _MARKS and (one := _NAME.match(self.text, self.at)):
            self.at, inner = one.end(), one[2]  # `\\bar x`
        if inner is None:
            if name in _DECORATIONS or name in ("\\bf", "\\rm", "\\mathrm"):
                return  # the decoration of what follows
            raise Unreadable(f"{name} without braces")
        words = inner.strip()
        if name == "\\hat" and words in ("i", "j", "k", "\\imath", "\\jmath"):
            self._symbol(words.lstrip("\\"))  # the unit vectors of mechanics
        elif name in _MARKS:
            self._symbol(words + name[1:])
        elif name in ("\\vec", "\\overrightarrow"):
            self._symbol(words)
        elif words.lower() in symbols.CONNECTIVES:
            self._separator(",", words)
        elif words in symbols.FUNCTIONS and self.text[self.at : self.at + 1] != "":
            self._function(symbols.FUNCTIONS[words])
        elif words in ("lim", "max", "min"):
            self._function(words)
        elif re.fullmatch(r"[-+]?[\d.,/ ]*\d", words):
            self._splice(words)
        elif len(words) == 1 and words.isalpha() and not self._after_operand(name):
            self._word(words)
        elif words:
            self._note(words)

    def _after_operand(self, name: str) -> bool:
        return name != "\\mathbf" and self.prev in _ENDS and not self.frames[-1].wanted

    def _splice(self, words: str) -> None:
        self.text = words + self.text[self.at :]
        self.at = 0
        if len(self.out) > limits.MAX_MATH_TOKENS // 2:
            raise Unreadable("too many tokens")

    def _braced(self) -> str | None:
        found = _BRACED.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found[1].replace("~", " ").replace("\\ ", " ").replace("\\,", " ")

    def _note(self, words: str) -> None:
        """Words: a note after an operand (a unit, as a rule), an operand of their own elsewhere."""
        parts = words.replace(",", " , ").split()
        if parts and parts[0] == ",":
            self._separator(",", ",")
            parts = parts[1:]
        if parts and parts[0].lower() in symbols.CONNECTIVES and self.prev in _ENDS:
            if self.out[-1].type != "SEP":
                self._separator(",", parts[0])
            parts = parts[1:]
        if not parts:
            return
        words = " ".join(parts)
        if any(map(str.isdigit, words)) and units.read_unit(words) is None:
            raise Unreadable("numbers among words")
        if self.prev in _ENDS and not self.frames[-1].wanted:
            if not symbols.NEGATIONS.isdisjoint(parts):
                raise Unreadable("taken back in words")
            power = _UNIT_POWER.match(self.text, self.at)
            if power is not None:
                words += f"^{power[1]}"
                self.at = power.end()
            self._put("NOTE", words)
            self.prev = "TEXT"
        else:
            self._atom("TEXT", words)

    def _on_begin(self, value: str) -> None:
        name = re.sub(r"\\begin\s*\{\s*|\*?\s*\}.*", "", value, flags=re.S)
        if name.endswith("matrix") or name in ("array", "vector"):
            self._open("BEGIN", name, "END")
        elif name == "cases":
            self._open("BEGIN", "cases", "END")
        elif name in ("align", "aligned", "equation", "gather", "gathered", "split"):
            return
        else:
            raise Unreadable(f"environment {name}")

    def _on_end(self, value: str) -> None:
        if "matrix" in value or "array" in value or "cases" in value:
            if self.frames[-1].closer != "END":
                raise Unreadable("unbalanced environment")
            if self.prev in ("ROW", "COL"):
                self.out.pop() if self.prev == "ROW" else None
            self.frames.pop()
            self._put("END", value)

    def _on_row(self, value: str) -> None:
        if self.frames[-1].closer == "END":
            self.frames[-1].reach = ""
            self._put("ROW", value)
        elif (self.text[self.at : self.at + 1]).isalpha() and len(value) == 2:
            self.at -= 1  # `\\frac`: LaTeX that was escaped twice

    def _on_cmd(self, value: str) -> None:
        name = value[1:]
        if name in _ARGS:
            self._with_arguments(name)
        elif name in symbols.FUNCTIONS and (name not in _LETTERS_TOO or self._applied(name)):
            self._function(symbols.FUNCTIONS[name])
        elif value in symbols.RELATIONS:
            self._relation(symbols.RELATIONS[value])
        elif name in symbols.OPERATORS:
            self._big(symbols.OPERATORS[name])
        elif value in _FIXED:
            kind, closer = _FIXED[value]
            self._open(kind, value, closer)
        elif value in _CLOSERS:
            self._close(_CLOSERS[value], value)
        else:
            self._plain_command(name)

    def _applied(self, name: str) -> bool:
        """`\\Gamma(n)` and `\\zeta(2)` are functions; `\\gamma(x)` mostly is a product."""
        return name in ("Gamma", "zeta") and self.text.startswith("(", self.at)

    def _plain_command(self, name: str) -> None:
        name = _LETTERS.get(name, name)
        if name in _COMMANDS:
            how, kind, value = _COMMANDS[name]
            getattr(self, how)(kind, value or name)
        elif name in ("vert", "mid"):
            self._bar()
        elif name == "Vert":
            self._norm()
        elif name in symbols.GREEK or name in ("partial", "nabla", "prime", "aleph", "Re", "Im"):
            self._symbol(name)
        elif name.startswith(("quad", "qquad")):  # `\\quadx`: the space and what it ran into
            self.at -= len(name) - name.index("d") - 1
        elif name not in _IGNORED:
            raise Unreadable(f"unknown command \\{name}")

    def _with_arguments(self, name: str) -> None:
        if name == "mathbb":
            inner = _NAME.match(self.text, self.at)
            if inner is None:
                raise Unreadable("\\mathbb")
            self.at = inner.end()
            self._atom("DOMAIN", inner[1] or inner[2])
            self.prev = "SYM"
        elif name == "overline":
            self._overline()
        elif name in ("boxed", "fbox", "underline"):
            return
        elif name == "overset":
            raise Unreadable("\\overset")
        else:
            self._head(name)

    def _head(self, name: str) -> None:
        kind = _HEADS[name]
        if kind == "FRAC" and self.prev == "NUM" and self.out[-1].value.isdigit():
            glued = not self.frames[-1].wanted and _FRACTION.match(self.text, self.at)
            if glued and not self._after_power():
                self._put("GLUE", "")
                self.prev = "GLUE"
        if self.prev != "GLUE":
            self._atom(kind, name)
        else:
            self._put(kind, name)
        self.frames[-1].wanted += ["arg"] * _ARGS[name]
        if name == "sqrt" and (root := re.compile(r"\s*\[").match(self.text, self.at)):
            self.at = root.end()
            self._put("LROOT", "[")
            self.frames.append(_Frame("ROOT"))

    def _after_power(self) -> bool:
        return len(self.out) > 1 and self.out[-2].type in ("POW", "SUB")

    def _overline(self) -> None:
        found = re.compile(r"\s*(?:\{\s*(\d{1,40})\s*\}|(\d))").match(self.text, self.at)
        before = self.out[-1] if self.out else None
        glued = before is not None and before.type == "NUM" and "." in before.value
        if found and before is not None and glued and not self.spaced:
            self.at = found.end()
            self.out[-1] = Token("NUM", before.value + "~" + (found[1] or found[2]))
            return
        inner = _NAME.match(self.text, self.at)
        if inner is None:
            raise Unreadable("\\overline")
        self.at = inner.end()
        name = inner[1] or inner[2]
        if len(name) > 1 and name.isalpha() and name.isupper():
            self._word(name)  # the segment between two points
        else:
            self._symbol(name + "bar")

    def _function(self, name: str) -> None:
        frame = self.frames[-1]
        if frame.wanted and frame.wanted[-1] == "func" and self.out[-1].type == "FUNC":
            self._take_argument(frame, "FUNC")  # `\ln \sin x`
            frame.reach = "bare"
            self._put("FUNC", name)
        else:
            self._atom("FUNC", name)
        frame.wanted.append("func")

    def _big(self, name: str) -> None:
        self._atom("BIGOP", name)
        self.frames[-1].reach = "big"
        self.frames[-1].wanted.append("big")

    def _relation(self, name: str) -> None:
        frame = self.frames[-1]
        frame.reach = ""
        frame.wanted.clear()
        self._put("REL", name)

    def _on_esc(self, value: str) -> None:
        if value == "\\{":
            self._open("LSET", value, "RSET")
        elif value == "\\}":
            self._close("RSET", value)
        elif value == "\\%":
            self._put("PERCENT", value)
        elif value == "\\|":
            self._norm()
        elif value in ("\\$", "\\(", "\\)", "\\[", "\\]", "\\/", "\\-"):
            return
        else:
            raise Unreadable(f"unexpected {value}")

    def _on_rel(self, value: str) -> None:
        self._relation(symbols.RELATIONS[value])

    def _on_bang(self, value: str) -> None:
        self._put("BANG", value)

    def _on_bang2(self, value: str) -> None:
        self._put("BANG2", value)

    def _on_pow(self, value: str) -> None:
        self._put("POW", value)
        self.frames[-1].wanted.append("script")

    def _on_dots(self, value: str) -> None:
        self._atom("DOTS", value)

    def _on_prime(self, value: str) -> None:
        if self.out and self.out[-1].type in ("SYM", "CALL"):
            last = self.out[-1]
            self.out[-1] = Token(last.type, last.value + value)
        else:
            raise Unreadable("a prime on nothing")

    def _on_char(self, value: str) -> None:
        if value in "([{":
            self._bracket(value)
        elif value in ")]}":
            self._close({")": "RP", "]": "RB", "}": "RBRACE"}[value], value)
        elif value == "|":
            self._bar()
        elif value in ",;":
            self._separator(value, value)
        elif value == "&":
            self.frames[-1].reach = ""
            if self.frames[-1].closer == "END":
                self._put("COL", value)
        elif value == "_":
            self._subscript()
        elif value == "%":
            self._put("PERCENT", value)
        elif value != "$":
            kind = {"+": "PLUS", "-": "MINUS", "*": "MUL", "/": "DIV", ":": "COLON"}[value]
            self._operator(kind, value)

    def _bracket(self, value: str) -> None:
        kind = {"(": "LP", "[": "LB", "{": "LBRACE"}[value]
        closer = {"(": "RP", "[": "RB", "{": "RBRACE"}[value]
        self._open(kind, value, closer)

    def _bar(self) -> None:
        frame = self.frames[-1]
        if frame.closer == "RSET" and self.prev in _ENDS and not frame.wanted:
            self._relation("mid")  # `\\{x | x > 2\\}`
            return
        if frame.closer == "RBAR" and self.prev in _ENDS and not frame.wanted:
            self._close("RBAR", "|")
        else:
            self._open("LBAR", "|", "RBAR")

    def _norm(self) -> None:
        frame = self.frames[-1]
        if frame.closer == "RNORM" and self.prev in _ENDS and not frame.wanted:
            self._close("RNORM", "|")
        else:
            self._open("LNORM", "|", "RNORM")

    def _separator(self, kind: str, value: str) -> None:
        frame = self.frames[-1]
        frame.reach = ""
        if frame.wanted:
            raise Unreadable("an argument is missing")
        if self.out and self.out[-1].type in ("SEP", "SEMI") and value not in (",", ";"):
            return  # `, and`
        top = kind == ";" and len(self.frames) == 1
        self._put("SEMI" if top else "SEP", value)

    def _subscript(self) -> None:
        last = self.out[-1].type if self.out else ""
        if last in ("NUM",) and self.prev == "NUM":
            found = _SCRIPT_DIGITS.match(self.text, self.at)
            if found is None:
                raise Unreadable("a subscript on a number")
            self.at = found.end()
            self._put("BASE", found[1] or found[2])
        elif last in ("SYM", "CALL"):
            self._symbol_script()
        elif [token.type for token in self.out[-3:]] == ["LP", "NUM", "RP"]:
            self.out[-3:] = [self.out[-2]]  # `(1010)_2`
            self.prev = "NUM"
            self._subscript()
        else:
            self._put("SUB", "_")
            self.frames[-1].wanted.append("script")

    def _symbol_script(self) -> None:
        found = re.compile(
            r"\s*(?:\{([^{}]{1,40})\}|\\(?:text|mathrm)\s*\{([^{}]{1,40})\}|(\\[A-Za-z]+|[A-Za-z]+"
            r"(?![A-Za-z])|\d+|[A-Za-z]))"
        ).match(self.text, self.at)
        if found is None:
            raise Unreadable("a subscript that is none")
        self.at = found.end()
        name = re.sub(r"\\(?:text|mathrm|rm)\b|[\s{}\\]", "", found[1] or found[2] or found[3])
        last = self.out[-1]
        self.out[-1] = Token(last.type, f"{last.value}_{name}")

    def _on_word(self, value: str) -> None:
        if value.lower() in symbols.CONNECTIVES and len(value) > 1 and not self.frames[-1].wanted:
            self._separator(",", value)
        elif value == "U" and self.prev in ("RP", "RB", "RSET", "RBRACE"):
            self._operator("SETOP", "cup")
        elif value in ("x", "X") and self.prev == "NUM" and self.spaced and self._times_ahead():
            self._operator("MUL", "*")
        elif value == "factorial2":
            self._function(value)
        elif value.lower() in ("percent", "pct", "percentage") and self.prev in _ENDS:
            self._put("PERCENT", value)
        elif self.prev in _ENDS and not self.frames[-1].wanted and units.is_word(value):
            self._note(value)
        else:
            self._word(value)

    def _times_ahead(self) -> bool:
        return re.compile(r"\s+(?:\d|\\frac)").match(self.text, self.at) is not None

    def _word(self, value: str) -> None:
        pieces = split_word(value, call=self._call_ahead(), latex="\\" in self.text)
        if pieces is None:
            self._note(value) if self.prev in _ENDS else self._atom("TEXT", value)
            return
        for at, piece in enumerate(pieces):
            self._piece(piece, call=at == len(pieces) - 1 and self._call_ahead())

    def _call_ahead(self) -> bool:
        return re.compile(r"\s*(?:\\left\s*)?[(\[{|]").match(self.text, self.at) is not None

    def _piece(self, piece: str, *, call: bool) -> None:
        if piece in ("infinity", "infty", "inf", "oo"):
            self._atom("INF", piece)
        elif piece == "mod":
            self._operator("MOD", piece)
        elif piece == "deg":
            self._put("DEG", piece) if self.prev in _ENDS else self._symbol(piece)
        elif piece in symbols.FUNCTIONS and (call or piece not in symbols.CALL_ONLY):
            name = symbols.FUNCTIONS[piece]
            if name == "frac":
                self._head("frac")
            elif name == "sqrt":
                self._head("sqrt")
            else:
                self._function(name)
        else:
            self._symbol(piece)

    def _symbol(self, name: str) -> None:
        name = _LETTERS.get(name, name)
        following = self.text[self.at : self.at + 1]
        if name in ("f", "g", "h", "F", "G") and following in ("(", "'"):
            self._atom("CALL", name)
            self.frames[-1].wanted.append("call")
            if following == "'":
                self.frames[-1].wanted.pop()
        elif name == "E" and self.text.startswith(("^", "**"), self.at):
            self._atom("SYM", "e")
        else:
            self._atom("SYM", "i" if name == "I" else name)
