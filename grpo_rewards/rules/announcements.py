"""What a completion announces as its answer: "the answer is …", "answer: …", a last line "A: …"."""

from __future__ import annotations

import re
from typing import Final

from grpo_rewards.columns import Span
from grpo_rewards.limits import MAX_ANSWER_CHARS, MAX_ANSWER_TAIL_CHARS, MAX_BESIDE_CHARS
from grpo_rewards.rules.math.hedges import changed

_SAID: Final = re.compile(
    r"(?i)(?:\b(?:final\s+|correct\s+|right\s+)?(?:answer|result|solution)s?\b|答案|答え|ответ|الجواب"
    r"|\bréponse|\brespuesta|\bantwort|\bresposta|\brisposta|\bantwoord|\bodpowiedź|\bcevap"
    r"|đáp\sán|\bjawaban|відповідь|उत्तर|الإجابة|정답|(?<![^\W\d_])답|\bans\b\.?(?=\s{0,3}[:=]))"
    r"[^\S\n]{0,3}(?:\*\*|__)?[^\S\n]{0,3}"
    r"(?:(?:is|are|would\s+be|should\s+be|will\s+be|must\s+be|was|equals|to\s+be|est|es|ist|是|为|為"
    r"|é|è|هي|은|는|は|este|to)"
    r"(?![A-Za-z])(?:[^\S\n]{0,3}[:=：]|[^\S\n]{1,3}(?:therefore|thus|simply|just|indeed|option"
    r"|choice|either|the\s+number|approximately|about))?"
    r"|[:=：](?![:=]))"
)
#: What `_SAID` finds begins with one of these, but for an adjective before it.
_SAYING: Final = (
    "answer", "result", "solution",
    "答案", "答え", "ответ", "الجواب", "réponse", "respuesta", "antwort", "resposta", "risposta",
    "antwoord", "odpowiedź", "cevap", "đáp án", "jawaban", "відповідь", "उत्तर", "الإجابة", "정답",
    "답", "ans",
)  # fmt: skip
_MATH: Final = re.compile(
    r"\\\[(?P<a>.{1,4000}?)\\\]|\\\((?P<b>.{1,4000}?)\\\)"
    r"|\$\$(?P<c>[^$]{1,4000})\$\$|(?<![\\$])\$(?P<d>(?:[^$\\]|\\.){1,4000})\$",
    re.DOTALL,
)
_CLAUSE: Final = re.compile(
    r"\.(?=\s|$)|[!?;](?=\s|$)|\n|。|<\|| because\b| since\b| as \b| so \b| which\b"
    r"| hence\b|,? but\b"
    r"|, (?:where|which|since|because|so|as|not)\b"
    r"| \((?=(?:since|because|as|which|see|from|by|where)\b|i\.e)"
)
_MARKS: Final = "`*_ \t\r\n:"


def tail(text: str) -> str:
    """The end of a text, where answers stand: the last `MAX_ANSWER_TAIL_CHARS` characters."""
    if len(text) <= MAX_ANSWER_TAIL_CHARS:
        return text
    return Span.cut(text, len(text) - MAX_ANSWER_TAIL_CHARS, len(text))


def said(text: str) -> Span | None:
    """What "the answer is …" or "answer: …" announces, to the end of its clause.

    >>> said("So the answer is 42, because it is."), said("**Answer:** 7")
    ('42', '7')
    """
    text = tail(text)
    found = _last_said(text)
    if found is None:
        return _after_label(text)
    start = found.end()
    while start < len(text) and text[start] in _MARKS:
        start += 1
    clause = _clause(text, start)
    at = clause.start - getattr(text, "start", 0)
    if clause and changed(text, at, at + len(clause)):
        return _sentence(text, found.start(), at + len(clause))
    return clause or None


def _sentence(text: str, start: int, end: int) -> Span:
    """`wrong answer is 5`, `answer is 5, which is wrong`: an announcement with what takes it back,
    so that whoever compares it sees that."""
    stops = (".", "\n")
    first = max(text.rfind(stop, max(0, start - MAX_BESIDE_CHARS), start) for stop in stops)
    last = min((at for stop in stops if (at := text.find(stop, end)) >= 0), default=len(text))
    begin = first + 1 if first >= 0 else max(0, start - MAX_BESIDE_CHARS)
    return unmarked(Span.cut(text, begin, min(last, end + MAX_BESIDE_CHARS)))


def _last_said(text: str) -> re.Match[str] | None:
    """The last announcement: tried at the last of its words, and everywhere where these fail."""
    lowered = text.lower()
    if len(lowered) == len(text):
        end = len(text)
        for _ in range(4):
            end = max(lowered.rfind(word, 0, end) for word in _SAYING)
            found = _SAID.match(text, end) if end >= 0 else None
            if found is not None or end < 0:
                return found
    found = None
    for found in _SAID.finditer(text):  # noqa: B007 - the last one is wanted
        pass
    return found


def _after_label(text: str) -> Span | None:
    """GSM8K's other habit: a last line `A: 18`."""
    start = 2 if text.startswith("A:") else -1
    at = text.rfind("\nA:")
    if at >= 0:
        start = at + 3
    if start < 0 or "\n" in text[start:].strip():
        return None
    return unmarked(Span.cut(text, start, len(text)))


def _clause(text: str, start: int) -> Span:
    """From `start` to the end of the clause; mathematics between dollars is not cut."""
    math = _MATH.match(text, start)
    if math is not None:
        following = text[math.end() : math.end() + 200]
        rest = _CLAUSE.search(following)
        end = math.end() + (rest.start() if rest else min(len(following), 200))
        if re.search(r"\\text|[A-Za-z$\\]", text[math.end() : end]) and "\n" not in text[start:end]:
            return unmarked(Span.cut(text, start, end))
        return Span.cut(text, start, math.end())
    end_of_line = text.find("\n\n", start)
    stop = end_of_line if end_of_line >= 0 else len(text)
    stop = min(stop, start + MAX_ANSWER_CHARS)
    cut = _CLAUSE.search(text, start, stop)
    return unmarked(Span.cut(text, start, cut.start() if cut else stop))


def unmarked(span: Span) -> Span:
    """Without Markdown's stars and the sentence's stop."""
    start, end = 0, len(span)
    while start < end and span[start] in _MARKS:
        start += 1
    while end > start and span[end - 1] in "`*_ \t\r\n.,;。":
        end -= 1
    return Span.cut(span, start, end)
