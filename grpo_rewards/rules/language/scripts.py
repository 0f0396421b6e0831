"""Writing systems: which letters belong together, what counts as a word of them, who uses them.

Ranges are Unicode's blocks, without digits and punctuation. A word of a script that puts no spaces
between words weighs what its letters make of an average word.
"""

from __future__ import annotations

import functools
import re

#: Character classes, as they stand inside the brackets of a regular expression.
_RANGES = {
    "latin": (
        r"A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af"
        r"\u1d00-\u1dbf\u1e00-\u1eff\u2c60-\u2c7f\ua722-\ua7ff\ufb00-"
        r"\ufb06\uff21-\uff3a\uff41-\uff5a"
    ),
    "cyrillic": r"\u0400-\u0481\u048a-\u052f\u1c80-\u1c88\ua640-\ua66e\ua680-\ua69d",
    "han": r"\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
    "hiragana": r"\u3041-\u3096\u309d-\u309f",
    "katakana": r"\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9d",
    "hangul": r"\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb",
    "arabic": (
        r"\u0620-\u064a\u066e-\u06d3\u06d5\u06e5\u06e6\u06ee\u06ef"
        r"\u06fa-\u06ff\u0750-\u077f\u08a0-\u08c9\ufb50-\ufdfb\ufe70-"
        r"\ufefc"
    ),
    "devanagari": r"\u0900-\u0963\u0970-\u097f",
    "greek": r"\u0370-\u0373\u0376\u0377\u0386\u0388-\u03ff\u1f00-\u1ffc",
    "hebrew": r"\u05d0-\u05ea\u05ef-\u05f2\ufb1d-\ufb4f",
    "thai": r"\u0e01-\u0e3a\u0e40-\u0e4e",
    "bengali": r"\u0980-\u09e3",
    "gurmukhi": r"\u0a00-\u0a65\u0a70-\u0a7f",
    "gujarati": r"\u0a80-\u0ae5",
    "tamil": r"\u0b80-\u0be5",
    "telugu": r"\u0c00-\u0c65",
    "kannada": r"\u0c80-\u0ce5",
    "malayalam": r"\u0d00-\u0d65",
    "lao": r"\u0e80-\u0ece",
    "khmer": r"\u1780-\u17d3",
    "myanmar": r"\u1000-\u103f\u1050-\u109f",
    "armenian": r"\u0531-\u0556\u0560-\u0588",
    "georgian": r"\u10a0-\u10ff\u1c90-\u1cbf\u2d00-\u2d25",
    "ethiopic": r"\u1200-\u135f\u1380-\u138f",
    "sinhala": r"\u0d80-\u0ddf",
    "odia": r"\u0b00-\u0b65",
    "tibetan": r"\u0f00-\u0fff",
}

#: Signs that may stand inside a word: apostrophes, joiners and combining marks.
_INNER = r"'\u2019\u00ad\u200c\u200d\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0640"

#: How much of a word one letter is, where words are not set apart. Chinese words have some 1.6
#: letters on average, Japanese ones 2, those of south-east Asia 4 with their signs.
WEIGHTS = {
    "han": 0.6, "hiragana": 0.5, "katakana": 0.5,
    "thai": 0.25, "lao": 0.25, "khmer": 0.25, "myanmar": 0.25, "tibetan": 0.25,
}  # fmt: skip

#: Languages by script, as langdetect names them; `zh` is here what it calls zh-cn and zh-tw.
LANGUAGES_OF = {
    "latin": (
        "af", "ca", "cs", "cy", "da", "de", "en", "es", "et", "fi", "fr", "hr", "hu", "id", "it",
        "lt", "lv", "nl", "no", "pl", "pt", "ro", "sk", "sl", "so", "sq", "sv", "sw", "tl", "tr",
        "vi",
    ),
    "cyrillic": ("bg", "mk", "ru", "uk"),
    "arabic": ("ar", "fa", "ur"),
    "devanagari": ("hi", "mr", "ne"),
    "han": ("zh",), "hiragana": ("ja",), "katakana": ("ja",), "hangul": ("ko",),
    "greek": ("el",), "hebrew": ("he",), "thai": ("th",), "bengali": ("bn",),
    "gurmukhi": ("pa",), "gujarati": ("gu",), "tamil": ("ta",), "telugu": ("te",),
    "kannada": ("kn",), "malayalam": ("ml",),
}  # fmt: skip

#: One match per word, or per run of letters where words are not set apart; `lastgroup` says which
#: script. Letters of scripts not named here are `other`.
WORD = re.compile(
    r"(?=[^\W\d_])(?:"  # a letter: between words nothing else is tried
    + "|".join(
        f"(?P<{name}>[{chars}]+)" if name in WEIGHTS else f"(?P<{name}>[{chars}][{chars}{_INNER}]*)"
        for name, chars in _RANGES.items()
    )
    + r"|(?P<other>[^\W\d_]))"
)

_UNSPACED = "".join(_RANGES[name] for name in WEIGHTS)
_SPACED = "".join(chars for name, chars in _RANGES.items() if name not in WEIGHTS)

#: Words and numbers to count: runs of letters, digits and their signs, and single letters where
#: words are not set apart.
COUNTED_UNIT = re.compile(
    f"[{_UNSPACED}]|(?:[^\\W{_UNSPACED}]|[{_SPACED}])(?:[^\\W{_UNSPACED}]+|[{_SPACED}{_INNER}])*"
)

#: For each script its words, and the letters that are not of it.
WORDS_OF = {
    name: re.compile(f"[{chars}]+" if name in WEIGHTS else f"[{chars}][{chars}{_INNER}]*")
    for name, chars in _RANGES.items()
}
NOT_OF = {name: re.compile(f"[^\\W\\d_{chars}]") for name, chars in _RANGES.items()}


@functools.cache
def beside_latin(script: str) -> tuple[tuple[tuple[str, ...], re.Pattern[str]], ...]:
    """Scripts that may share a sentence with Latin letters where one of them does, and the letters
    of none of them: words are looked for in these few before all scripts are tried at each place.
    """
    together: list[tuple[str, ...]] = [(script,)]
    if script in _JAPANESE:
        together = [("han",), _JAPANESE] if script == "han" else [_JAPANESE]
    companies = [("latin", *names) for names in together]
    return tuple(
        (names, re.compile(f"[^\\W\\d_{''.join(_RANGES[name] for name in names)}]"))
        for names in companies
        if all(name in _RANGES for name in names)
    )


_JAPANESE = ("han", "hiragana", "katakana")

#: A letter that is neither Latin nor Greek: no letter of mathematics.
PROSE_LETTER = re.compile(f"[^\\W\\d_{_RANGES['latin']}{_RANGES['greek']}]")


@functools.lru_cache(maxsize=32_768)
def is_japanese_letter(char: str) -> bool:
    """Whether Japanese computers write this Han letter; simplified Chinese ones they do not.

    >>> [is_japanese_letter(c) for c in "学对"]
    [True, False]
    """
    try:
        char.encode("cp932")
    except UnicodeEncodeError:
        return False
    return True
