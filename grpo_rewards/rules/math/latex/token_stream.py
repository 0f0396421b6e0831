"""The tokens that the scanner puts out: where neighbours multiply, how far a function reaches, and
which bracket is open.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from lark import Token

from grpo_rewards import limits


class Unreadable(Exception):
    """Why a text is no mathematics. It never leaves `parse_math`."""


#: Tokens that end an operand: what follows one of them is a factor, unless it is an operator.
ENDS: Final = frozenset(
    "NUM MIX SYM RP RB RBRACE RSET RBAR BANG BANG2 PERCENT DEG TEXT INF MATRIX DOTS BASE "
    "RFLOOR RCEIL RANGLE PRIME RNORM END".split()
)


@dataclass(slots=True)
class Frame:
    """An open bracket, or the text as a whole.

    `closer` is the type of the token that ends it, `wanted` the arguments that are still to come
    (`arg`, `func`, `big`, `script`, `call`), the next one last. `reach` tells how far the function
    before it goes: "bare" after `\\sin x`, which takes what is multiplied without a sign, "big"
    after `\\sum`, which takes whole products.
    """

    closer: str
    wanted: list[str] = field(default_factory=list)
    reach: str = ""


class TokenStream:
    """Tokens for `grammars/latex.lark`, and the frames of brackets that are open after the last."""

    def __init__(self) -> None:
        self.out: list[Token] = []
        self.frames = [Frame("")]
        self.prev = ""  # type of the last token

    def _put(self, kind: str, value: str) -> None:
        self.out.append(Token(kind, value))
        self.prev = kind

    def _atom(self, kind: str, value: str) -> None:
        """A token that begins an operand: times its left neighbour, unless that wants it."""
        frame = self.frames[-1]
        if frame.wanted:
            self._take_argument(frame, kind)
        elif self.prev in ENDS:
            self._times(frame, kind)
        self._put(kind, value)

    def _take_argument(self, frame: Frame, kind: str) -> None:
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

    def _times(self, frame: Frame, kind: str) -> None:
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
        self.frames.append(Frame(closer))
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

    def _relation(self, name: str) -> None:
        frame = self.frames[-1]
        frame.reach = ""
        frame.wanted.clear()
        self._put("REL", name)

    def _separator(self, kind: str, value: str) -> None:
        frame = self.frames[-1]
        frame.reach = ""
        if frame.wanted:
            raise Unreadable("an argument is missing")
        if self.out and self.out[-1].type in ("SEP", "SEMI") and value not in (",", ";"):
            return  # `, and`
        top = kind == ";" and len(self.frames) == 1
        self._put("SEMI" if top else "SEP", value)
