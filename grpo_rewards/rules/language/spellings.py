"""Names of languages: BCP 47 tags (`en-US`, `zh-Hant`), ISO 639 codes and English names, read as
the codes by which texts are judged.

Only what the detector can tell apart is a language here. One that it has never seen (`sr`), or not
in that script (`ru-Latn`), is unknown: judged as its neighbour it would pay for the wrong text.
"""

from __future__ import annotations

import difflib
import functools
import re
from typing import Final

from grpo_rewards.limits import MAX_LANGUAGE_CHARS
from grpo_rewards.rules.language.scripts import LANGUAGES_OF

LANGUAGES: tuple[str, ...] = tuple(sorted({c for codes in LANGUAGES_OF.values() for c in codes}))
VARIANTS: tuple[str, ...] = ("zh-cn", "zh-tw")

#: Code: the other codes of ISO 639 (2/T, 2/B, 3, withdrawn ones), then the English names.
_SPELLINGS: Final = {
    "af": "afr, Afrikaans",
    "ar": "ara arb, Arabic, Modern Standard Arabic",
    "bg": "bul, Bulgarian",
    "bn": "ben, Bengali, Bangla",
    "ca": "cat, Catalan, Valencian",
    "cs": "ces cze, Czech",
    "cy": "cym wel, Welsh",
    "da": "dan, Danish",
    "de": "deu ger, German, Standard German",
    "el": "ell gre, Greek, Modern Greek",
    "en": "eng, English, American English, British English",
    "es": "spa, Spanish, Castilian",
    "et": "est ekk, Estonian",
    "fa": "fas per pes, Persian, Farsi",
    "fi": "fin, Finnish",
    "fr": "fra fre, French",
    "gu": "guj, Gujarati",
    "he": "heb iw, Hebrew",
    "hi": "hin, Hindi",
    "hr": "hrv scr, Croatian",
    "hu": "hun, Hungarian",
    "id": "ind in, Indonesian",
    "it": "ita, Italian",
    "ja": "jpn, Japanese",
    "kn": "kan, Kannada",
    "ko": "kor, Korean",
    "lt": "lit, Lithuanian",
    "lv": "lav lvs, Latvian",
    "mk": "mkd mac, Macedonian",
    "ml": "mal, Malayalam",
    "mr": "mar, Marathi",
    "ne": "nep npi, Nepali",
    "nl": "nld dut, Dutch, Flemish",
    "no": "nor nb nob nn nno, Norwegian, Bokmål, Norwegian Bokmål, Nynorsk, Norwegian Nynorsk",
    "pa": "pan, Punjabi, Panjabi",
    "pl": "pol, Polish",
    "pt": "por, Portuguese, Brazilian Portuguese, European Portuguese",
    "ro": "ron rum mo mol, Romanian, Moldovan, Moldavian",
    "ru": "rus, Russian",
    "sk": "slk slo, Slovak",
    "sl": "slv, Slovenian, Slovene",
    "so": "som, Somali",
    "sq": "sqi alb als, Albanian",
    "sv": "swe, Swedish",
    "sw": "swa swh, Swahili",
    "ta": "tam, Tamil",
    "te": "tel, Telugu",
    "th": "tha, Thai",
    "tl": "tgl fil, Tagalog, Filipino",
    "tr": "tur, Turkish",
    "uk": "ukr, Ukrainian",
    "ur": "urd, Urdu",
    "vi": "vie, Vietnamese",
    "zh": "zho chi cmn, Chinese, Mandarin, Mandarin Chinese",
    "zh-cn": ", Simplified Chinese",
    "zh-tw": ", Traditional Chinese",
}
#: ISO 15924: the writing systems of `scripts`; `Hans` and `Hant` say which Chinese.
_SCRIPTS: Final = {
    "latn": "latin", "cyrl": "cyrillic", "arab": "arabic", "deva": "devanagari", "hani": "han",
    "hans": "han", "hant": "han", "jpan": "hiragana", "hrkt": "hiragana", "hira": "hiragana",
    "kana": "katakana", "kore": "hangul", "hang": "hangul", "grek": "greek", "hebr": "hebrew",
    "thai": "thai", "beng": "bengali", "guru": "gurmukhi", "gujr": "gujarati", "taml": "tamil",
    "telu": "telugu", "knda": "kannada", "mlym": "malayalam",
}  # fmt: skip
_CHINESE: Final = {
    "hans": "zh-cn", "cn": "zh-cn", "sg": "zh-cn", "my": "zh-cn",
    "hant": "zh-tw", "tw": "zh-tw", "hk": "zh-tw", "mo": "zh-tw",
}  # fmt: skip
#: A country where a language is meant: good for a hint, but its own code is another language's.
_COUNTRIES: Final = {
    "jp": "ja", "kr": "ko", "cn": "zh", "gr": "el", "dk": "da", "cz": "cs", "se": "sv", "ua": "uk",
    "vn": "vi", "in": "hi", "us": "en", "gb": "en", "br": "pt",
}  # fmt: skip

#: RFC 5646 without its irregular tags: language, one extended language, script, region, variants,
#: extensions and private use.
_TAG: Final = re.compile(
    r"(?P<language>[a-z]{2,3})(?:-(?P<extended>[a-z]{3}))?(?:-(?P<script>[a-z]{4}))?"
    r"(?:-(?P<region>[a-z]{2}|\d{3}))?(?:-(?:[a-z\d]{5,8}|\d[a-z\d]{3}))*"
    r"(?:-[a-wyz\d](?:-[a-z\d]{2,8})+)*(?:-x(?:-[a-z\d]{1,8})+)?"
)


def _tables() -> tuple[dict[str, str], dict[str, str]]:
    codes: dict[str, str] = {}
    names: dict[str, str] = {}
    for code, spellings in _SPELLINGS.items():
        others, *english = spellings.split(",")
        codes.update(dict.fromkeys([*others.split(), *([code] if code in LANGUAGES else [])], code))
        names.update({name.strip().casefold(): code for name in english})
    names.update({f"{name} ({way})": f"zh-{region}" for name in ("chinese", "mandarin")
                  for way, region in (("simplified", "cn"), ("traditional", "tw"))})  # fmt: skip
    return codes, names


_CODES, _NAMES = _tables()


@functools.lru_cache(maxsize=1024)
def language_code(spelling: str) -> str | None:
    """The code of a language however it is spelt; None for one that no text can be judged by.

    >>> [language_code(s) for s in ("en-US", "zh-Hant", "DEU", "Brazilian Portuguese", "xx")]
    ['en', 'zh-tw', 'de', 'pt', None]
    """
    if len(spelling) > MAX_LANGUAGE_CHARS:
        return None
    plain = " ".join(spelling.replace("_", "-").casefold().split())
    if plain in _NAMES:
        return _NAMES[plain]
    tag = _TAG.fullmatch(plain) if plain.isascii() else None
    code = _CODES.get(tag["language"]) if tag else None
    if tag is None or code is None or _CODES.get(tag["extended"] or code) != code:
        return None
    script, region = tag["script"], tag["region"]
    if script and code not in LANGUAGES_OF.get(_SCRIPTS.get(script, ""), ()):
        return None
    if code == "zh":
        return _CHINESE.get(script) or _CHINESE.get(region) or code
    return code


def known_language(spelling: str) -> bool:
    """Whether texts can be judged by a language, however it is spelt."""
    return language_code(spelling) is not None


def check_language(spelling: str) -> str | None:
    """What is wrong with the name of a language, and what may be meant; None where nothing is.

    >>> check_language("germn")
    'unknown language `germn`: did you mean `german`?'
    """
    if known_language(spelling):
        return None
    near = suggest_language(spelling)
    hint = f"did you mean `{near}`?" if near else f"there are {', '.join(LANGUAGES)}"
    return f"unknown language `{spelling}`: {hint}"


def suggest_language(spelling: str) -> str | None:
    """The known spelling that an unknown one is likely to mean."""
    plain = spelling[:MAX_LANGUAGE_CHARS].casefold().replace("_", "-")
    if plain in _COUNTRIES:
        return _COUNTRIES[plain]
    base = plain.split("-")[0]
    if base in _CODES:
        return _CODES[base]
    near = difflib.get_close_matches(plain, [*_NAMES, *_CODES], n=1, cutoff=0.6)
    return near[0] if near else None
