"""Which language a text is in, sentence by sentence.

DeepSeek-R1 (arXiv 2501.12948 §2.3.2) rewards "the proportion of target language words in the
chain of thought". Here the text falls into sentences; mathematics, code, tags and links are masked;
the script decides where it can, and langdetect, seeded and with a prior on the target, elsewhere.
A short sentence has the benefit of the doubt.
"""

from __future__ import annotations

import functools
import re
import threading
import unicodedata
from collections.abc import Iterator
from typing import Any

from grpo_rewards.rules.text import units

#: Languages by the script that tells them apart; those of one script need statistics.
_SCRIPTS: dict[str, tuple[str, ...]] = {
    "LATIN": tuple(
        ["af", "ca", "cs", "cy", "da", "de", "en", "es", "et", "fi", "fr", "hr", "hu", "id", "it", "lt", "lv", "nl", "no", "pl", "pt", "ro", "sk", "sl", "so", "sq", "sv", "sw", "tl", "tr", "vi"]
    ),
    "CYRILLIC": ("bg", "mk", "ru", "uk"),
    "ARABIC": ("ar", "fa", "ur"),
    "DEVANAGARI": ("hi", "mr", "ne"),
    "CJK": ("ja", "zh"),
    "HIRAGANA": ("ja",), "KATAKANA": ("ja",), "HANGUL": ("ko",), "GREEK": ("el",),
    "HEBREW": ("he",), "THAI": ("th",), "BENGALI": ("bn",), "GUJARATI": ("gu",),
    "KANNADA": ("kn",), "MALAYALAM": ("ml",), "GURMUKHI": ("pa",), "TAMIL": ("ta",),
    "TELUGU": ("te",),
}  # fmt: skip

LANGUAGES: tuple[str, ...] = tuple(sorted({code for codes in _SCRIPTS.values() for code in codes}))

_MASKED = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|\\\[.*?\\\]|\\\(.*?\\\)"
    r"|https?://\S+|<[^<>\n]{1,40}>|\\[A-Za-z]+",
    re.DOTALL,
)
_SENTENCE = re.compile(r"[^.!?。！？\n]+[.!?。！？]*")  # noqa: RUF100
_MIN_JUDGED = 30  # letters: below, statistics are wrong in one case of ten
_FOREIGN_BELOW = 0.1  # a sentence is foreign where the target's probability is below
_LOCK = threading.Lock()  # langdetect's factory keeps its seed in a class variable


def known_language(code: str) -> bool:
    """Whether a code (ISO 639-1; zh-cn and zh-tw count as zh) can be judged."""
    return _base(code) in LANGUAGES


def check_language(code: str) -> str | None:
    """What is wrong with a language code, or None."""
    if known_language(code):
        return None
    return f"unknown language {code!r}; known are {', '.join(LANGUAGES)}"


def _base(code: str) -> str:
    return code.lower().split("-")[0]


def share(text: str, target: str, *, min_letters: int = 20) -> float | None:
    """The share of a text's words that stand in sentences of the target language, in [0, 1].

    None where fewer than `min_letters` letters are left to judge, or the language is unknown.

    >>> share("The sum of the numbers is six, and so the answer is six.", "en")
    1.0
    """
    target = _base(target)
    if target not in LANGUAGES:
        return None
    total = own = letters = 0
    for sentence in _sentences(text):
        size = len(units(sentence))
        letters += sum(map(str.isalpha, sentence))
        total += size
        if _is_target(sentence, target):
            own += size
    return own / total if total and letters >= min_letters else None


def _sentences(text: str) -> Iterator[str]:
    """Sentences with letters in them; what is masked keeps the letters of foreign scripts."""
    masked = _MASKED.sub(lambda found: _mask(found[0]), text)
    for found in _SENTENCE.finditer(masked):
        sentence = "".join(c if c.isalpha() or c.isspace() else " " for c in found[0])
        if sentence.strip():
            yield sentence


def _mask(part: str) -> str:
    return "".join(
        c if not c.isascii() and c.isalpha() and _script(c) != "GREEK" else " " for c in part
    )


@functools.lru_cache(maxsize=8192)
def _script(char: str) -> str:
    return unicodedata.name(char, "").split(" ")[0]


def _is_target(sentence: str, target: str) -> bool:
    counts: dict[str, int] = {}
    for char in sentence:
        if char.isalpha():
            counts[_script(char)] = counts.get(_script(char), 0) + 1
    if "HIRAGANA" in counts or "KATAKANA" in counts:
        return target == "ja"
    main = max(counts, key=lambda script: counts[script])
    candidates = _SCRIPTS.get(main, ())
    if target not in candidates:
        return False
    if len(candidates) == 1 or counts[main] < _MIN_JUDGED:
        return True
    return _probability(" ".join(sentence.split()), target, candidates) >= _FOREIGN_BELOW


def detect(text: str) -> str | None:
    """The language of a whole text, None where it has no letters.

    >>> detect("Das ist ein ganz gewöhnlicher deutscher Satz.")
    'de'
    """
    sentence = " ".join(_sentences(text))
    if not sentence.strip():
        return None
    found = _detector(sentence).get_probabilities()
    return _base(found[0].lang) if found else None


@functools.lru_cache(maxsize=20_000)
def _probability(sentence: str, target: str, candidates: tuple[str, ...]) -> float:
    """The probability of the target against the other languages of its script."""
    others = 0.5 / (len(candidates) - 1)
    prior = {code: 0.5 if code == target else others for code in candidates}
    if "zh" in prior:
        prior["zh-cn"] = prior["zh-tw"] = prior.pop("zh") / 2
    detector = _detector(sentence)
    detector.set_prior_map(prior)
    return float(sum(p.prob for p in detector.get_probabilities() if _base(p.lang) == target))


def _detector(sentence: str) -> Any:
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    with _LOCK:
        factory = _factory(DetectorFactory, PROFILES_DIRECTORY)
    detector = factory.create()
    detector.seed = 0
    detector.append(sentence)
    return detector


@functools.cache
def _factory(cls: Any, profiles: str) -> Any:
    factory = cls()
    factory.load_profile(profiles)
    return factory
