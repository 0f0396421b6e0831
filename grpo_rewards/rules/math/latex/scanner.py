"""Mathematical text → tokens for `grammars/latex.lark`, in one pass, left to right.

What a grammar cannot say is decided here: where two neighbours multiply, which bar opens and which
closes, what one argument of `\\frac` is, how far `\\sin x` reaches, what a run of letters means.
The grammar then is plain LALR(1).
"""

from __future__ import annotations

import re
from typing import Final

from lark import Token

from grpo_rewards import limits
from grpo_rewards.rules.math import symbols, units
from grpo_rewards.rules.math.latex import commands
from grpo_rewards.rules.math.latex.letter_runs import split_word
from grpo_rewards.rules.math.latex.token_stream import ENDS, Frame, TokenStream, Unreadable

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
_FRACTION: Final = re.compile(r"\s*(?:\{\s*\d+\s*\}|\d)\s*(?:\{\s*\d+\s*\}|\d)")
_SCRIPT_DIGITS: Final = re.compile(r"\s*(?:\{\s*(\d{1,3})\s*\}|(\d))")
_UNIT_POWER: Final = re.compile(r"\s*\^\s*\{?\s*(-?\d)\s*\}?")
_BRACED: Final = re.compile(r"\{([^{}]*)\}")
_NAME: Final = re.compile(r"\s*(?:\{\s*([A-Za-z0-9]{1,20})\s*\}|([A-Za-z0-9]))")


class Scanner(TokenStream):
    """One text on its way to tokens."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.at = 0
        self.spaced = False  # white space stands before the token that is read

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
            raise Unreadable("unbalanced brackets")
        return self.out

    # One method for each kind of token: `_on_num` for what `_TOKEN` calls NUM.

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
        if inner is None and name in commands.MARKS and (one := _NAME.match(self.text, self.at)):
            self.at, inner = one.end(), one[2]  # `\\bar x`
        if inner is None:
            if name in commands.DECORATIONS or name in ("\\bf", "\\rm", "\\mathrm"):
                return  # the decoration of what follows
            raise Unreadable(f"{name} without braces")
        words = inner.strip()
        if name == "\\hat" and words in ("i", "j", "k", "\\imath", "\\jmath"):
            self._symbol(words.lstrip("\\"))  # the unit vectors of mechanics
        elif name in commands.MARKS:
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
        return name != "\\mathbf" and self.prev in ENDS and not self.frames[-1].wanted

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
        if parts and parts[0].lower() in symbols.CONNECTIVES and self.prev in ENDS:
            if self.out[-1].type != "SEP":
                self._separator(",", parts[0])
            parts = parts[1:]
        if not parts:
            return
        words = " ".join(parts)
        if any(map(str.isdigit, words)) and units.read_unit(words) is None:
            raise Unreadable("numbers among words")
        if self.prev in ENDS and not self.frames[-1].wanted:
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
        if name.endswith("matrix") or name in ("array", "vector", "cases"):
            self._open("BEGIN", name, "END")
        elif name in ("align", "aligned", "equation", "gather", "gathered", "split"):
            return
        else:
            raise Unreadable(f"environment {name}")

    def _on_end(self, value: str) -> None:
        if "matrix" in value or "array" in value or "cases" in value:
            if self.frames[-1].closer != "END":
                raise Unreadable("unbalanced environment")
            if self.prev == "ROW":  # `\\\\` behind the last row begins no other
                self.out.pop()
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
        if name in commands.ARGUMENTS:
            self._with_arguments(name)
        elif name in symbols.FUNCTIONS and self._is_function(name):
            self._function(symbols.FUNCTIONS[name])
        elif value in symbols.RELATIONS:
            self._relation(symbols.RELATIONS[value])
        elif name in symbols.OPERATORS:
            self._big(symbols.OPERATORS[name])
        elif value in commands.OPENERS:
            kind, closer = commands.OPENERS[value]
            self._open(kind, value, closer)
        elif value in commands.CLOSERS:
            self._close(commands.CLOSERS[value], value)
        else:
            self._plain_command(name)

    def _is_function(self, name: str) -> bool:
        """`\\Gamma(n)` and `\\zeta(2)` are functions; `\\gamma(x)` mostly is a product."""
        applied = name in ("Gamma", "zeta") and self.text.startswith("(", self.at)
        return applied or name not in commands.LETTERS_TOO

    def _plain_command(self, name: str) -> None:
        name = commands.LETTERS.get(name, name)
        if name in commands.COMMANDS:
            how, kind, value = commands.COMMANDS[name]
            getattr(self, how)(kind, value or name)
        elif name in ("vert", "mid"):
            self._bar()
        elif name == "Vert":
            self._norm()
        elif name in symbols.GREEK or name in ("partial", "nabla", "prime", "aleph", "Re", "Im"):
            self._symbol(name)
        elif name.startswith(("quad", "qquad")):  # `\\quadx`: the space and what it ran into
            self.at -= len(name) - name.index("d") - 1
        elif name not in commands.IGNORED:
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
        kind = commands.HEADS[name]
        if kind == "FRAC" and self.prev == "NUM" and self.out[-1].value.isdigit():
            glued = not self.frames[-1].wanted and _FRACTION.match(self.text, self.at)
            if glued and not self._after_power():
                self._put("GLUE", "")
                self.prev = "GLUE"
        if self.prev != "GLUE":
            self._atom(kind, name)
        else:
            self._put(kind, name)
        self.frames[-1].wanted += ["arg"] * commands.ARGUMENTS[name]
        if name == "sqrt" and (root := re.compile(r"\s*\[").match(self.text, self.at)):
            self.at = root.end()
            self._put("LROOT", "[")
            self.frames.append(Frame("ROOT"))

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
        bracket = {"(": "P", "[": "B", "{": "BRACE"}[value]
        self._open("L" + bracket, value, "R" + bracket)

    def _bar(self) -> None:
        frame = self.frames[-1]
        closes = self.prev in ENDS and not frame.wanted
        if closes and frame.closer == "RSET":
            self._relation("mid")  # `\\{x | x > 2\\}`
        elif closes and frame.closer == "RBAR":
            self._close("RBAR", "|")
        else:
            self._open("LBAR", "|", "RBAR")

    def _norm(self) -> None:
        frame = self.frames[-1]
        if frame.closer == "RNORM" and self.prev in ENDS and not frame.wanted:
            self._close("RNORM", "|")
        else:
            self._open("LNORM", "|", "RNORM")

    def _subscript(self) -> None:
        last = self.out[-1].type if self.out else ""
        if last == "NUM" and self.prev == "NUM":
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
        elif value.lower() in ("percent", "pct", "percentage") and self.prev in ENDS:
            self._put("PERCENT", value)
        elif self.prev in ENDS and not self.frames[-1].wanted and units.is_word(value):
            self._note(value)
        else:
            self._word(value)

    def _times_ahead(self) -> bool:
        return re.compile(r"\s+(?:\d|\\frac)").match(self.text, self.at) is not None

    def _word(self, value: str) -> None:
        pieces = split_word(value, call=self._call_ahead(), latex="\\" in self.text)
        if pieces is None:
            if self.prev in ENDS:
                self._note(value)
            else:
                self._atom("TEXT", value)
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
            if self.prev in ENDS:
                self._put("DEG", piece)
            else:
                self._symbol(piece)
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
        name = commands.LETTERS.get(name, name)
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
