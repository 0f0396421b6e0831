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

from grpo_rewards.limits import MAX_VOCABULARY
from grpo_rewards.rules.scripts import LANGUAGES_OF

MIN_EVIDENCE = 25.0  # nats; of 10,000 words in monolingual sentences some 60 are taken
MIN_EVIDENCE_WHOLE = 15.0  # nats, for a short sentence as a whole: one in a hundred is wrong
CERTAIN = 25.0  # nats over the next language: of 2,500 such sentences langdetect doubts none
MIN_WORDS = 2
MAX_RUNS = 8  # of one sentence
_SMOOTHING = 0.5 / 10_000  # langdetect's alpha over its base frequency
_WORD_CHARS = 64  # of a longer "word" the head is enough
_CHUNK = 4_000  # words that are looked at together: a matrix of a megabyte

Floats = npt.NDArray[np.float64]


class Run(NamedTuple):
    """Words start to end (exclusive) of a sentence, and their language."""

    start: int
    end: int
    language: str


def by_words(
    sentences: Sequence[Sequence[str]],
    languages: Sequence[str],
    script: str,
    is_judged: Sequence[bool],
) -> list[tuple[str, list[Run]]]:
    """For each sentence (not empty) its language and the runs in other languages, in order.

    A sentence that nobody judged changes its presumed language where another fits its words far
    better as a whole.

    >>> one = "we add these numbers und danach werden beide addiert".split()
    >>> two = "So we check the other way".split()
    >>> by_words([one, two], ["en", "fr"], "latin", [True, False])
    [('en', [Run(start=4, end=9, language='de')]), ('en', [])]
    """
    found: list[tuple[str, list[Run]]] = []
    for some in _parts(sentences):
        part = slice(len(found), len(found) + len(some))
        found += _chunk(some, languages[part], script, is_judged[part])
    return found


def certain(sentences: Sequence[Sequence[str]], script: str) -> list[str | None]:
    """The language that each sentence (not empty) fits by `CERTAIN` nats better than any other.

    >>> certain(["und danach werden beide Zahlen miteinander addiert".split(), ["was"]], "latin")
    ['de', None]
    """
    found: list[str | None] = []
    codes = LANGUAGES_OF[script]
    for part in _parts(sentences):
        fit = _vocabulary(script).rows([word for sentence in part for word in sentence])
        starts = [0, *itertools.accumulate(map(len, part))]
        sums = np.add.reduceat(fit, starts[:-1])
        best = sums.argmax(axis=1).tolist()
        second, first = np.partition(sums, -2, axis=1)[:, -2:].T
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


def _chunk(
    sentences: Sequence[Sequence[str]],
    languages: Sequence[str],
    script: str,
    is_judged: Sequence[bool],
) -> list[tuple[str, list[Run]]]:
    codes = LANGUAGES_OF[script]
    fit = _vocabulary(script).rows([word for sentence in sentences for word in sentence])
    sizes = [len(sentence) for sentence in sentences]
    starts = [0, *itertools.accumulate(sizes)]
    own = [codes.index(language) for language in languages]
    if not all(is_judged):
        sums = np.add.reduceat(fit, starts[:-1])
        best, known = sums.argmax(axis=1).tolist(), sums[range(len(own)), own]
        better = sums.max(axis=1) - known >= MIN_EVIDENCE_WHOLE
        for i in np.flatnonzero(better).tolist():
            if not is_judged[i] and _plain_words(sentences[i]) >= MIN_WORDS:
                own[i] = best[i]
    gain: Floats = fit - fit[range(len(fit)), np.repeat(own, sizes)][:, None]
    most = np.add.reduceat(np.maximum(gain, 0.0), starts[:-1]).max(axis=1)
    runs: list[list[Run]] = [[] for _ in sentences]
    for i in np.flatnonzero(most >= MIN_EVIDENCE).tolist():
        runs[i] = _runs(gain[starts[i] : starts[i + 1]], sentences[i], codes)
    return [(codes[column], found) for column, found in zip(own, runs, strict=True)]


def _plain_words(words: Sequence[str]) -> int:
    """Words that do not begin with a capital."""
    return sum(not word[0].isupper() for word in words)


def _runs(gain: Floats, words: Sequence[str], codes: Sequence[str]) -> list[Run]:
    """The best runs one after the other, none over another. `gain` [W, L] is used up."""
    found: list[Run] = []
    for _ in range(MAX_RUNS):
        sums = np.concatenate((np.zeros((1, len(codes))), np.cumsum(gain, axis=0)))
        lowest = np.minimum.accumulate(sums)
        end, best = divmod(int(np.argmax(sums - lowest)), len(codes))
        if sums[end, best] - lowest[end, best] < MIN_EVIDENCE:
            break
        start = int(np.flatnonzero(sums[:end, best] == lowest[end, best])[-1])
        if _plain_words(words[start:end]) >= MIN_WORDS:
            found.append(Run(start, end, codes[best]))
        gain[start:end] = -1e3
    return sorted(found)


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
        return matrix[places] if self.index is index else self.rows(words)

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
    text = f" {''.join(map(_normal, word[:_WORD_CHARS]))} "
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
