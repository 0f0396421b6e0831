"""A text cut into sentences, and these into pieces: the words of one script in one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from grpo_rewards.limits import MAX_SENTENCE_CHARS
from grpo_rewards.rules.language.prose_mask import mask
from grpo_rewards.rules.language.scripts import (
    NOT_OF,
    WEIGHTS,
    WORD,
    WORDS_OF,
    beside_latin,
    is_japanese_letter,
)

MIN_JUDGED = 30  # letters: below, langdetect is wrong in one case of eight

_SENTENCE = re.compile(r"[^.!?。！？｡؟।۔…\n]+(?:[.!?…]+(?![\s\"'”’»)\]])[^.!?。！？｡؟।۔…\n]*)*")


@dataclass(slots=True)
class Piece:
    """The words of one script in one sentence, and their language once it is known.

    `weights` is None where every word counts one; `starts` is None where WORDS_OF finds the
    words again in `sentence`, which starts at `offset`.
    """

    script: str
    words: tuple[str, ...]
    letters: int
    weights: tuple[float, ...] | None
    starts: tuple[int, ...] | None
    sentence: str
    offset: int
    language: str = ""

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def evidence(self) -> str:
        """What langdetect is asked about: nothing where it would guess.

        Names are at home in any language: where most letters are in words with a capital, only the
        others are evidence.
        """
        if self.letters < MIN_JUDGED:
            return ""
        text, first = self.text, len(self.words[0])
        if text[first:].islower() and first * 2 <= self.letters:
            return text
        plain = [word for word in self.words if not word[0].isupper()]
        size = sum(map(len, plain))
        if size * 2 >= self.letters:
            return text
        if size >= MIN_JUDGED:
            return " ".join(plain)
        return text if size * 6 >= self.letters else ""

    @property
    def weight(self) -> float:
        return len(self.words) if self.weights is None else sum(self.weights)

    @property
    def places(self) -> tuple[int, ...]:
        """Where the words start in the text."""
        if self.starts is not None:
            return self.starts
        return tuple(m.start() + self.offset for m in WORDS_OF[self.script].finditer(self.sentence))

    def part(self, start: int, end: int, language: str) -> Piece:
        """Some of the words, with their language."""
        words = self.words[start:end]
        return replace(
            self,
            words=words,
            letters=sum(map(len, words)),
            weights=None if self.weights is None else self.weights[start:end],
            starts=self.places[start:end],
            language=language,
        )


def sentences(text: str) -> Iterator[list[Piece]]:
    """The sentences of a text, each as pieces of one script; masked parts are in none."""
    masked = mask(text)
    for found in _SENTENCE.finditer(masked):
        whole, begin = found[0], found.start()
        for start, end in _cut(whole) if len(whole) > MAX_SENTENCE_CHARS else ((0, len(whole)),):
            sentence, offset = whole[start:end], begin + start
            script, is_only = _script(sentence)
            if is_only:
                yield _of_one_script(sentence, offset, script)
            else:
                yield _of_several_scripts(sentence, offset, script)


def _script(sentence: str) -> tuple[str, bool]:
    """The script of the first letter that is not Latin, or Latin, and whether all letters are of
    it; `other` for one that has no name."""
    other = None if sentence.isascii() else NOT_OF["latin"].search(sentence)
    if not other:
        return "latin", True
    first = WORD.match(sentence, other.start())
    script = (first and first.lastgroup) or "other"
    return script, script in NOT_OF and not NOT_OF[script].search(sentence)


def _cut(sentence: str) -> Iterator[tuple[int, int]]:
    """A sentence too long to be one, cut at blanks where there are any."""
    start = 0
    while len(sentence) - start > MAX_SENTENCE_CHARS:
        end = sentence.rfind(" ", start + 1, start + MAX_SENTENCE_CHARS)
        end = end if end > 0 else start + MAX_SENTENCE_CHARS
        yield start, end
        start = end
    yield start, len(sentence)


def _of_one_script(sentence: str, offset: int, script: str) -> list[Piece]:
    """The piece of a sentence that has letters of one script only."""
    words = tuple(WORDS_OF[script].findall(sentence))
    if not words:
        return []
    letters = sum(map(len, words))
    weights = None
    if script in WEIGHTS:
        weights = tuple([len(word) * WEIGHTS[script] for word in words])
    elif letters == 1:  # a variable
        weights = (0.0,)
    return [Piece(script, words, letters, weights, None, sentence, offset)]


Words = list[tuple[int, str, float]]  # where each starts, and how much it counts


def _of_several_scripts(sentence: str, offset: int, found: str) -> list[Piece]:
    """The pieces of a sentence, one for each script in it; `found` is one of these."""
    by_script = _words(sentence, offset, found)
    if len(by_script) > 1:
        _settle_han(by_script)
        main = max(by_script, key=lambda script: sum(word[2] for word in by_script[script]))
        for script in by_script.keys() & {"latin", "greek"}:
            by_script[script] = _guests(by_script[script], script == main)
    found_pieces = []
    for script, items in by_script.items():
        starts, words, sizes = zip(*items, strict=True)
        letters = sum(map(len, words))
        found_pieces.append(Piece(script, words, letters, sizes, starts, sentence, offset))
    return found_pieces


def _words(sentence: str, offset: int, found: str) -> dict[str, Words]:
    """The words of a sentence by script, scripts in the order in which they come."""
    by_script: dict[str, Words] = {}
    beside = beside_latin(found)
    company = next((names for names, others in beside if not others.search(sentence)), None)
    if company is None:
        for each in WORD.finditer(sentence):
            script, word = each.lastgroup or "", each[0]
            size = len(word) * WEIGHTS[script] if script in WEIGHTS else 1.0
            by_script.setdefault(script, []).append((each.start() + offset, word, size))
        return by_script
    for script in company:
        letter = WEIGHTS.get(script)
        words = [
            (each.start() + offset, each[0], len(each[0]) * letter if letter else 1.0)
            for each in WORDS_OF[script].finditer(sentence)
        ]
        if words:
            by_script[script] = words
    return dict(sorted(by_script.items(), key=lambda item: item[1][0][0]))


def _guests(words: Words, is_main: bool) -> Words:
    """In the sentence of another script names count nothing, and single letters are variables."""
    return [
        (start, text, size if len(text) > 1 and (is_main or text[0].islower()) else 0.0)
        for start, text, size in words
    ]


def _settle_han(by_script: dict[str, Words]) -> None:
    """Han letters beside kana are Japanese, unless a run has letters that Japanese does not."""
    kana = by_script.get("hiragana", []) + by_script.get("katakana", [])
    if not kana or "han" not in by_script:
        return
    runs = by_script.pop("han")
    japanese = [run for run in runs if all(map(is_japanese_letter, run[1]))]
    chinese = [run for run in runs if not all(map(is_japanese_letter, run[1]))]
    if chinese and sum(len(run[1]) for run in chinese) > sum(len(run[1]) for run in kana):
        chinese, japanese = runs, []  # a Chinese sentence with a few kana
    if chinese:
        by_script["han"] = chinese
    if japanese:
        by_script["hiragana"] = sorted(by_script.get("hiragana", []) + japanese)
