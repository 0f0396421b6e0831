"""Words of another language inside a sentence: where their letters fit it far better.

Each word gets the log-probability of its letter n-grams (1 to 3) in each language of its script,
from langdetect's profiles. Within a sentence, the run of words whose summed advantage of one other
language over the sentence's own is greatest is foreign, if that advantage is `MIN_EVIDENCE` nats
and the run has two words in lower case. Words that begin with a capital count neither way: names
are at home in any language.
"""

from __future__ import annotations

import functools
import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from grpo_rewards.limits import MAX_FOREIGN_RUNS, MAX_VOCABULARY, MAX_WORD_CHARS
from grpo_rewards.rules.language.scripts import LANGUAGES_OF

MIN_EVIDENCE = 25.0  # nats; of 10,000 words in monolingual sentences some 60 are taken
MIN_EVIDENCE_WHOLE = 15.0  # nats, for a short sentence as a whole: one in a hundred is wrong
CERTAIN = 15.0  # nats over the next language: of 2,100 such sentences langdetect doubts one
MIN_WORDS = 2  # in lower case: one alone is a loan word, a name or a misprint
_SMOOTHING = 0.5 / 10_000  # langdetect's alpha over its base frequency
_CHUNK = 4_000  # words that are looked at together: a matrix of a megabyte

Floats = npt.NDArray[np.float64]


class Run(NamedTuple):
    """Words start to end (exclusive) of a sentence, and their language."""

    start: int
    end: int
    language: str


class Fit(NamedTuple):
    """Some sentences of one script: how well each word fits each language [W, L], where in it the
    sentences start, and the sums of these [S, L]."""

    sentences: Sequence[Sequence[str]]
    words: Floats
    starts: list[int]
    sums: Floats


class Fitted:
    """Sentences (none empty) of one script, with their fit in parts of some `_CHUNK` words. One
    part is kept, more are made anew each time."""

    def __init__(self, sentences: Sequence[Sequence[str]], script: str) -> None:
        self.sentences = sentences
        self.script = script
        self._only: Fit | None = None

    def parts(self) -> Iterator[Fit]:
        """The sentences with their fit, in order."""
        if self._only is not None:
            yield self._only
            return
        for part in _parts(self.sentences):
            fit = _vocabulary(self.script).rows([word for sentence in part for word in sentence])
            starts = [0, *itertools.accumulate(map(len, part))]
            found = Fit(part, fit, starts, np.add.reduceat(fit, starts[:-1]))
            if len(part) == len(self.sentences):
                self._only = found
            yield found


def by_words(
    fitted: Fitted, languages: Sequence[str], is_judged: Sequence[bool]
) -> list[tuple[str, list[Run]]]:
    """For each sentence its language and the runs in other languages, in order.

    A sentence that nobody judged changes its presumed language where another fits its words far
    better as a whole.

    >>> one = "we add these numbers und danach werden beide addiert".split()
    >>> two = "So we check the other way".split()
    >>> by_words(Fitted([one, two], "latin"), ["en", "fr"], [True, False])
    [('en', [Run(start=4, end=9, language='de')]), ('en', [])]
    """
    codes = LANGUAGES_OF[fitted.script]
    found: list[tuple[str, list[Run]]] = []
    for fit in fitted.parts():
        part = slice(len(found), len(found) + len(fit.sentences))
        found += _by_words(fit, [codes.index(c) for c in languages[part]], is_judged[part], codes)
    return found


def certain(fitted: Fitted) -> list[str | None]:
    """The language that each sentence fits by `CERTAIN` nats better than any other.

    >>> certain(Fitted(["und danach werden beide Zahlen miteinander addiert".split()], "latin"))
    ['de']
    >>> certain(Fitted([["was"]], "latin"))
    [None]
    """
    found: list[str | None] = []
    codes = LANGUAGES_OF[fitted.script]
    for fit in fitted.parts():
        best = fit.sums.argmax(axis=1).tolist()
        second, first = np.partition(fit.sums, -2, axis=1)[:, -2:].T
        sure = (first - second >= CERTAIN).tolist()
        found += [codes[i] if is_sure else None for i, is_sure in zip(best, sure, strict=True)]
    return found


def _parts(sentences: Sequence[Sequence[str]]) -> Iterator[Sequence[Sequence[str]]]:
    """The sentences, in parts of some `_CHUNK` words."""
    first = 0
    while first < len(sentences):
        last, size = first, 0
        while last < len(sentences) and (not size or size + len(sentences[last]) <= _CHUNK):
            size += len(sentences[last])
            last += 1
        yield sentences[first:last]
        first = last


def _by_words(
    fit: Fit, own: list[int], is_judged: Sequence[bool], codes: Sequence[str]
) -> list[tuple[str, list[Run]]]:
    sentences, starts = fit.sentences, fit.starts
    if not all(is_judged):
        best = fit.sums.argmax(axis=1).tolist()
        known = fit.sums[np.arange(len(own)), own]
        better = fit.sums.max(axis=1) - known >= MIN_EVIDENCE_WHOLE
        for i in np.flatnonzero(better).tolist():
            if not is_judged[i] and _plain_words(sentences[i]) >= MIN_WORDS:
                own[i] = best[i]
    gain = _gain(fit, own)
    most = np.add.reduceat(np.maximum(gain, 0.0), starts[:-1])
    runs: list[list[Run]] = [[] for _ in sentences]
    for i in np.flatnonzero(most.max(axis=1) >= MIN_EVIDENCE).tolist():
        columns = np.flatnonzero(most[i] >= MIN_EVIDENCE).tolist()
        part = gain[starts[i] : starts[i + 1]]
        runs[i] = _runs(part[:, columns].T.tolist(), sentences[i], [codes[c] for c in columns])
    return [(codes[column], found) for column, found in zip(own, runs, strict=True)]


def _gain(fit: Fit, own: list[int]) -> Floats:
    """How much better than the language of its sentence (a column) each other one fits a word."""
    if len(set(own)) == 1:
        return fit.words - fit.words[:, own[0], None]
    columns = np.repeat(own, np.diff(fit.starts))
    found: Floats = fit.words - fit.words[np.arange(len(columns)), columns, None]
    return found


def _plain_words(words: Sequence[str]) -> int:
    """Words that do not begin with a capital."""
    return sum(not word[0].isupper() for word in words)


def _runs(gains: list[list[float]], words: Sequence[str], codes: Sequence[str]) -> list[Run]:
    """The best runs one after the other, none over another. `gains` [L, W] is used up."""
    found: list[Run] = []
    for _ in range(MAX_FOREIGN_RUNS):
        best = min(
            ((end, i, -evidence, start) for i, gain in enumerate(gains)
             for start, end, evidence in (_best_run(gain),) if evidence >= MIN_EVIDENCE),
            key=lambda run: (run[2], run[0], run[1]), default=None,
        )  # fmt: skip
        if best is None:
            break
        end, i, _, start = best
        if _plain_words(words[start:end]) >= MIN_WORDS:
            found.append(Run(start, end, codes[i]))
        for gain in gains:
            gain[start:end] = [-1e3] * (end - start)
    return sorted(found)


def _best_run(gain: list[float]) -> tuple[int, int, float]:
    """Start, end and sum of the run with the greatest sum; of equals the first and shortest."""
    total = lowest = best = 0.0
    low = start = end = 0
    for at, value in enumerate(gain, 1):
        total += value
        if total - lowest > best:
            best, start, end = total - lowest, low, at
        if total <= lowest:
            lowest, low = total, at
    return start, end, best


class _Vocabulary:
    """Words seen so far and how well they fit each language: rows of one growing matrix.

    Rows are only ever added, and always the same for the same word, so threads may share it.
    """

    def __init__(self, script: str) -> None:
        self.script = script
        self.lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self.index: dict[str, int] = {}
        self.matrix: Floats = np.zeros((1024, len(LANGUAGES_OF[self.script])))

    def rows(self, words: Sequence[str]) -> Floats:
        """The fit of each word [W, L]."""
        index = self.index
        try:
            places = [index[word] for word in words]
        except KeyError:
            with self.lock:
                return self._add(words)
        matrix = self.matrix  # read after the index: it has all of its rows, or was cleared since
        return matrix.take(places, axis=0) if self.index is index else self.rows(words)

    def _add(self, words: Sequence[str]) -> Floats:
        if len(self.index) > MAX_VOCABULARY:
            self._clear()
        for word in words:
            if word not in self.index:
                row = len(self.index)
                if row == len(self.matrix):
                    self.matrix = np.concatenate((self.matrix, np.zeros_like(self.matrix)))
                self.matrix[row] = _fit(self.script, word)
                self.index[word] = row
        return self.matrix[[self.index[word] for word in words]]


@functools.cache
def _vocabulary(script: str) -> _Vocabulary:
    return _Vocabulary(script)


def _fit(script: str, word: str) -> Floats:
    """Log-probabilities of a word's n-grams, summed, in each language of its script; zeros for a
    word that does not begin in lower case (scripts without case are all lower)."""
    if word[0].isupper():
        return np.zeros(len(LANGUAGES_OF[script]))
    table = _table(script)
    text = f" {''.join(map(_normal, word[:MAX_WORD_CHARS]))} "
    rows = [
        row
        for i in range(len(text))
        for size in (1, 2, 3)
        if (row := table.get(text[i : i + size])) is not None and i + size <= len(text)
    ]
    total: Floats = np.sum(rows, axis=0) if rows else np.zeros(len(LANGUAGES_OF[script]))
    return total


@functools.cache
def _table(script: str) -> dict[str, Floats]:
    """n-gram → log-probability in each language of a script."""
    codes = LANGUAGES_OF[script]
    counts: dict[str, Floats] = {}
    for i, code in enumerate(codes):
        data = profile(code)
        for gram, count in data["freq"].items():
            row = counts.get(gram)
            if row is None:
                row = counts[gram] = np.zeros(len(codes))
            row[i] = count / data["n_words"][len(gram) - 1]
    counts.pop(" ", None)
    return {gram: np.log(row + _SMOOTHING) for gram, row in counts.items()}


def profile(code: str) -> dict[str, Any]:
    """langdetect's profile of one language: `freq`, `n_words`, `name`."""
    from langdetect.detector_factory import PROFILES_DIRECTORY

    data: dict[str, Any] = json.loads(Path(PROFILES_DIRECTORY, code).read_text("utf-8"))
    return data


@functools.lru_cache(maxsize=4096)
def _normal(char: str) -> str:
    """langdetect's own folding of letters that its profiles were made with."""
    from langdetect.utils.ngram import NGram

    return str(NGram.normalize(char))
