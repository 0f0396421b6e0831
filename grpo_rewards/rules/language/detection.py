"""Which language each sentence of a text is in, and the share that one language has.

DeepSeek-R1 (arXiv 2501.12948, 2.3.2) rewards "the proportion of target language words in the
chain of thought". Here a text is cut once into pieces with one language each:

1. mathematics, code, links and tags are masked, what is left falls into sentences;
2. the script decides where only one language uses it; kana makes a sentence Japanese;
3. elsewhere a sentence of 30 letters or more is judged by langdetect, among the languages of its
   script (or by its words alone, where these leave no doubt); a sentence that is not the text's
   main language is judged again, with half of the probability on the main one, and is foreign only
   where less than a tenth is left of it;
4. a shorter sentence takes the language of the one before, unless its words fit another far better;
5. within a sentence, a run of words whose letters fit another language far better is in that one.

The cut does not know which language is asked for, so the shares of all languages add up to at most
1, and `detect`, `spans`, `switches` and `share` never contradict each other.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from grpo_rewards.columns import Outcome, Span, Status
from grpo_rewards.limits import MAX_SENTENCE_CHARS, MAX_VERDICTS
from grpo_rewards.rules.language.pieces import Piece, sentences
from grpo_rewards.rules.language.scripts import LANGUAGES_OF
from grpo_rewards.rules.language.spellings import (
    VARIANTS,
    check_language,
    known_language,
    language_code,
)
from grpo_rewards.rules.language.word_fit import Fitted, Run, by_words, certain, profile
from grpo_rewards.rules.rule import COUNT, Mark, RowKernel, Rule, rule
from grpo_rewards.types import UNIT

FOREIGN_BELOW = 0.1  # what must be left of the main language
UNKNOWN = "und"  # letters of a script that langdetect has no language for


@dataclass(frozen=True, slots=True)
class Analysis:
    """A text cut into pieces, in order."""

    pieces: tuple[Piece, ...]

    @property
    def letters(self) -> int:
        return sum(piece.letters for piece in self.pieces)

    def weights(self) -> dict[str, float]:
        """Words by language."""
        found: dict[str, float] = {}
        for piece in self.pieces:
            found[piece.language] = found.get(piece.language, 0.0) + piece.weight
        return found


def share(text: str, target: str, *, min_letters: int = 20) -> float | None:
    """The share of a text's words that are in the target language, in [0, 1].

    None where fewer than `min_letters` letters are left to judge. Nothing is in a language that
    nobody knows.

    >>> share("We add these numbers and get six. La réponse que nous cherchons est six.", "en-GB")
    0.5
    """
    code = language_code(target)
    if code is None:
        return 0.0
    found = analyse(text)
    weights = found.weights()
    total = sum(weights.values())
    if not total or found.letters < min_letters:
        return None
    if code in VARIANTS:
        return min(_variant(found, code) / total, 1.0)
    return min(weights.get(code, 0.0) / total, 1.0)


def detect(text: str) -> str | None:
    """The language with the most words in a text; None where no letters can be judged.

    >>> detect("Das ist ein ganz gewöhnlicher deutscher Satz.")
    'de'
    """
    weights = {k: v for k, v in analyse(text).weights().items() if k != UNKNOWN}
    return min(weights, key=lambda code: (-weights[code], code)) if weights else None


def switches(text: str) -> int:
    """How often the language changes from one piece of a text to the next.

    >>> switches("The sum of these numbers is six. 所以答案是六。 And so the answer must be six.")
    2
    """
    languages = [piece.language for piece in analyse(text).pieces if piece.weight]
    return sum(a != b for a, b in pairwise(languages))


def spans(text: str, target: str | None = None) -> list[tuple[Span, str]]:
    """The pieces of a text with their languages; with a target, only those in other languages.

    >>> spans("The sum of these numbers is six. 所以答案是六。", "en")
    [('所以答案是六', 'zh')]
    """
    code = None if target is None else language_code(target)
    wanted = "zh" if code in VARIANTS else code
    found = []
    for piece in analyse(text).pieces:
        if piece.weight and piece.language != wanted:
            places = piece.places
            end = places[-1] + len(piece.words[-1])
            found.append((Span.cut(text, places[0], end), piece.language))
    return found


def _variant(found: Analysis, target: str) -> float:
    """Words of Chinese, if its characters are those of the wanted variant."""
    pieces = [piece for piece in found.pieces if piece.language == "zh"]
    verdict = _judge("".join(piece.text for piece in pieces)[:MAX_SENTENCE_CHARS], "zh", "")
    if verdict != target:
        return 0.0
    return sum(piece.weight for piece in pieces)


# From a text to pieces


@functools.lru_cache(maxsize=4)
def analyse(text: str) -> Analysis:
    """Cut a text into pieces of one language. The same for the same text, always."""
    raw = [piece for sentence in sentences(text) for piece in sentence]
    found: dict[int, list[Piece]] = {}
    for script in dict.fromkeys(piece.script for piece in raw):
        places = [i for i, piece in enumerate(raw) if piece.script == script]
        found.update(zip(places, _labelled([raw[i] for i in places], script), strict=True))
    return Analysis(tuple(piece for i in range(len(raw)) for piece in found[i]))


# From pieces to languages


def _labelled(pieces: list[Piece], script: str) -> list[list[Piece]]:
    """Each piece of one script with its language, in parts where words of another stand in it."""
    candidates = LANGUAGES_OF.get(script, (UNKNOWN,))
    if len(candidates) == 1:
        return [[_named(piece, candidates[0])] for piece in pieces]
    fitted = Fitted([piece.words for piece in pieces], script)
    languages, is_judged = _languages(pieces, script, fitted)
    if UNKNOWN in languages:
        return [[_named(p, code)] for p, code in zip(pieces, languages, strict=True)]
    found = by_words(fitted, languages, is_judged)
    return [_parts(piece, *pair) for piece, pair in zip(pieces, found, strict=True)]


def _named(piece: Piece, language: str) -> Piece:
    piece.language = language
    return piece


def _parts(piece: Piece, language: str, runs: list[Run]) -> list[Piece]:
    """A piece, cut where runs of another language begin and end."""
    if not runs:
        return [_named(piece, language)]
    found: list[Piece] = []
    done = 0
    for start, end, other in runs:
        found += [piece.part(done, start, language), piece.part(start, end, other)]
        done = end
    found.append(piece.part(done, len(piece.words), language))
    return [part for part in found if part.words]


def _languages(pieces: list[Piece], script: str, fitted: Fitted) -> tuple[list[str], list[bool]]:
    """The language of each piece of one script, and whether it was judged or inherited."""
    evidence = [piece.evidence for piece in pieces]
    sure = certain(fitted)
    first = [
        (known or _judge(text, script, "")) if text else None
        for known, text in zip(sure, evidence, strict=True)
    ]
    main = _main(pieces, first, script)
    judged = [
        language if language in (None, main, known) else _judge(text, script, main)
        for language, known, text in zip(first, sure, evidence, strict=True)
    ]
    return _inherit(judged, main), [verdict is not None for verdict in first]


def _main(pieces: list[Piece], first: list[str | None], script: str) -> str:
    """The language with the most words; where nothing could be judged, that of all together."""
    votes: dict[str, float] = {}
    for piece, language in zip(pieces, first, strict=True):
        if language:
            votes[language] = votes.get(language, 0.0) + piece.weight
    if votes:
        return min(votes, key=lambda code: (-votes[code], code))
    whole = " ".join(piece.text for piece in pieces)[:MAX_SENTENCE_CHARS]
    return _judge(whole, script, "") or UNKNOWN


def _inherit(judged: list[str | None], main: str) -> list[str]:
    """Pieces without a verdict take that of the one before, the first ones that of the next."""
    last = next((language for language in judged if language), main)
    found = []
    for language in judged:
        last = language or last
        found.append(last)
    return found


@functools.lru_cache(maxsize=MAX_VERDICTS)
def _judge(text: str, script: str, main: str, engine: str = "") -> str | None:
    """The language of a piece among those of its script; None where there is nothing to go by.

    With a main language half of the prior is on it, and it stays unless it falls below a tenth.
    """
    factory, no_features = _detectors(script, engine)
    detector = factory.create()
    detector.seed = 0
    if main and main != UNKNOWN:
        others = 0.5 / (len(factory.langlist) - 1)
        detector.set_prior_map({c: 0.5 if c == main else others for c in factory.langlist})
    detector.append(text)
    try:
        found = detector.get_probabilities()
    except no_features:  # no n-gram of any profile
        return None
    if any(language.lang == main and language.prob >= FOREIGN_BELOW for language in found):
        return main
    return str(found[0].lang) if found else None


@functools.cache
def _detectors(script: str, engine: str = "") -> tuple[Any, type[Exception]]:
    """A langdetect factory that knows the languages of one script, and what it raises.

    langdetect-rs gives the same answers from compiled code, where it is installed.
    """
    name = engine or (
        "langdetect_rs" if importlib.util.find_spec("langdetect_rs") else "langdetect"
    )
    module: Any = importlib.import_module(name)
    profiles: Any = importlib.import_module(f"{name}.utils.lang_profile")
    errors: Any = importlib.import_module(f"{name}.lang_detect_exception")
    codes = VARIANTS if script == "zh" else LANGUAGES_OF[script]
    factory = module.DetectorFactory()
    for i, code in enumerate(codes):  # in one order everywhere, unlike load_profile
        factory.add_profile(profiles.LangProfile(**profile(code)), i, len(codes))
    return factory, errors.LangDetectException


def _check_language(args: Sequence[Any], _options: Mapping[str, Any]) -> str | None:
    target = args[1] if len(args) > 1 else None
    return check_language(target) if isinstance(target, str) else None


def _share(text: str, target: str, *, min_letters: int) -> Any:
    """A language that cannot be read is no null, which `??` would replace: a slip in a column of
    the data would pay in full."""
    if not known_language(target):
        return Outcome(0.0, Status.UNPARSED)
    return share(text, target, min_letters=min_letters)


def _foreign_pieces(arguments: Sequence[Any], share: Any) -> list[Mark]:
    """The pieces of a text in other languages than the one asked for."""
    text, target = arguments[:2]
    if share is None or share >= 1 or not isinstance(text, str) or not isinstance(target, str):
        return []
    pieces = spans(text, target)
    return [(piece.start, piece.end, "foreign", code) for piece, code in pieces]


RULES: tuple[Rule, ...] = (
    rule(
        "language.share(text: text, target: text, *, min_letters: num = 20) -> num?",
        RowKernel(_share),
        "The share of a text that is in a language (`de`, `de-AT`, `German`); null where there is"
        " too little to judge, 0 for a language that nobody knows.",
        range=UNIT, cost=3, validate=_check_language, marks=_foreign_pieces,
        example='language.share("The sum of the two numbers is six.", "en")',
    ),
    rule("language.switches(text: text) -> num", RowKernel(switches),
         "How often a text changes its language.", range=COUNT, cost=3,
         example='language.switches("The sum is six. 所以答案是六。")'),
    rule("language.detect(text: text) -> text?", RowKernel(detect),
         "The language of a whole text; null without letters.", cost=3,
         example='language.detect("Das ist ein deutscher Satz.")'),
)  # fmt: skip
