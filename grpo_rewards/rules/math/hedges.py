r"""Words that change what they stand beside: `not 5`, `less than 5`, `half of 5`, `5 or 6`.

A value is cut out of prose only where nothing beside it takes it back, bounds it, scales it or
offers another; and an answer with such words equals only a gold with the same ones. "About 5" and
"5 or so" are 5: they say how sure the writer is. English, and the simple words of the languages in
which answers are announced.
"""

from __future__ import annotations

import re
from typing import Final

from grpo_rewards.limits import MAX_BESIDE_CHARS
from grpo_rewards.rules.math import numbers

_NEGATIONS: Final = (
    r"not|\w{2,6}n['’]t|cannot|never|neither|nor|without"
    r"|except(?:ing)?(?:\s+for)?|excluding|(?:any|every)thing\s+but|all\s+but"
    r"|(?:rather|other)\s+than|instead\s+of|as\s+opposed\s+to|different\s+from|unlike|unequal\s+to"
    r"|nicht|keine?|außer|pas|jamais|sauf|no\s+es|nunca|excepto|não|exceto|non\s+è|tranne"
    r"|niet|nie|bukan|không\s+phải|не|кроме|никогда|ليس|ليست|不是|不等于|并非|除了"
)
_WRONG: Final = r"wrong|incorrect|false"
_BOUNDS: Final = (
    r"(?:less|more|fewer|greater|smaller|larger|bigger|higher|lower|longer|shorter)\s+than"
    r"(?:\s+or\s+equal\s+to)?|at\s+(?:the\s+)?(?:very\s+)?(?:least|most)|up\s+to|over|under|above"
    r"|below|beyond|exceed(?:s|ing)?|almost|nearly|close\s+to|(?:upper|lower)\s+bound\s+of"
    r"|(?:weniger|mehr|kleiner|größer)\s+als|mindestens|höchstens|bis\s+zu|über|unter|fast|beinahe"
    r"|(?:moins|plus)\s+d[e'’]|au\s+(?:moins|plus)|jusqu['’]à|presque"
    r"|(?:menos|más|mayor|menor|mais|maior)\s+(?:de|que)|al\s+menos|como\s+(?:máximo|mínimo)"
    r"|a\s+lo\s+sumo|hasta|casi|pelo\s+menos|no\s+(?:máximo|mínimo)|quase"
    r"|(?:meno|più)\s+di|almeno|al\s+(?:massimo|minimo)|quasi"
    r"|(?:minder|meer)\s+dan|minstens|hoogstens|bijna|(?:mniej|więcej)\s+niż|co\s+naj(?:mniej|wyżej)"
    r"|prawie|(?:kurang|lebih)\s+dari|paling\s+(?:sedikit|banyak)|(?:ít|nhiều)\s+hơn"
    r"|меньше|больше|менее|более|почти|менше|більше|أقل\s+من|أكثر\s+من|على\s+الأقل"
    r"|小于|大于|少于|多于|不到|超过|至少|至多|最多|少なくとも|最大で?|최소|최대"
)
_SCALES: Final = (
    r"(?:hal(?:f|ves)|thirds?|quarters?|fourths?|fifths?|sixths?|eighths?|tenths?|percent|%|square"
    r"|cube|root|reciprocal|inverse|opposite|negative|double|triple|multiples?|powers?|logarithm)"
    r"\s+of|out\s+of|half|twice|thrice|doubled?|tripled?|quadruple|minus|negative|plus|times"
    r"|(?:divided|multiplied)\s+by|(?:die\s+)?hälfte\s+von|doppelt|(?:la\s+)?moitié\s+de"
    r"|(?:le|el|il|o)\s+(?:double|doble|doppio|dobro)\s+d[ei]|(?:la\s+)?mitad\s+de|metade\s+de|metà\s+di"
    r"|половин\w+|вдвое|نصف|ضعف|一半|两倍"
)
_OTHERS: Final = (
    r"or|either|versus|vs\.?|else|and\s+also|as\s+well\s+as|one\s+of|oder|ou|или|або|lub|hoặc|veya"
    r"|atau|या|أو|或者|或|または|もしくは|또는|혹은"
)
_UNSURE: Final = r"maybe|perhaps|possibly|alternatively|otherwise|or"

_WORD: Final = (
    r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
    r"|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand)\b"
)
_B: Final = r"(?<![A-Za-zÀ-ɏ\u0400-\u04ff])"  # where a word may begin, Chinese ones apart
_E: Final = r"(?![A-Za-zÀ-ÿ\u0400-\u04ff])"  # where a word may end; a Chinese one ends anywhere
#: What may stand between such a word and the value without changing a thing.
_SIGNS: Final = r"""\s"'“”‘’$*_`(\[{}=~"""
_FILLING: Final = (
    rf"[{_SIGNS}]|\\(?:text\w*|math\w+|boxed|displaystyle)(?![a-z])|\\[(\[]"
    r"|\b(?:the|a|an|be|equals?|to|exactly|simply|just|really|about|number|value|x)\b"
)
_FILL: Final = f"(?:{_FILLING})*+"
_TAKEN_BACK: Final = (
    rf"(?:{_B}(?:{_NEGATIONS})|n['’]t){_E}{_FILL}\Z"
    rf"|\b(?:{_WRONG})\b(?:{_FILLING}|\b(?:answer|result|one|is|was|would)\b|[:-])*+\Z"
    r"|(?:\bnot|n['’]t|\bnever)\s+(?:think|believe|say|mean|true|the\s+case)\b[^,.!?\n]*\Z"
)
_BEFORE: Final = re.compile(
    rf"{_B}(?:{_BOUNDS}|{_SCALES}|{_OTHERS}){_E}(?:\s*\b(?:even|{_UNSURE})\b)?{_FILL}\Z"
    rf"|{_TAKEN_BACK}"
    rf"|[,;(]\s*(?:{_UNSURE}){_E}{_FILL}\Z"
)
#: `7 and 5`, `forty-one/42`.
_LISTED: Final = re.compile(
    rf"(?:\d\W{{0,2}}|{_WORD})\s*(?:\band|,(?=\s)|;|/|&|\||\bund|\bet|\by|\bo|\be|и|和|と|و|및){_FILL}\Z"
)
#: `\frac{1}{2}` outside of dollars ends in no number of its own.
_INSIDE: Final = re.compile(r"(?<!text)(?<!textbf)(?<!mathrm)(?<!mathbf)(?<!boxed)\{\s*\Z")
_PREDICATE: Final = (
    r"(?:wrong|incorrect|false|mistaken|impossible|invalid|nope|no\s+wait|wait|oops|no,|no(?=\W*\Z)"
    r"|too\s+(?:big|small|large|high|low)|(?:not|isn['’]t|wasn['’]t|aren['’]t)(?:\s*\Z|\s+(?:(?:the|an?|quite)\s+)?"
    r"(?:answer|correct|right|true|valid|possible|solution|result|it|equal)\b)"
    r"|can(?:no|['’])t\s+(?:be|hold)|d(?:o|oes|id)(?:n['’]t|\s+not)\s+(?:work|satisfy|hold|fit|count|equal))"
)
_REFUTED: Final = (
    r"[\s,(\[{?!–—-]*+(?:\b(?:but\s+)?(?:which|that|this|it)\b['’]?s?\s*)?"
    r"(?:(?:is|was|are|would\s+be|seems|looks|must\s+be)\s+)?"
    rf"(?:(?:also|clearly|obviously|definitely|certainly|just|plain)\s+)?{_PREDICATE}{_E}"
)
_JUNK: Final = r"""[\s"'”’$*_`)\]}]*+(?:\\[)\]])?(?:\\text\w*\s*\{)?"""
_AFTER: Final = re.compile(
    rf"{_JUNK}(?:"
    rf"\+(?=\W*\Z)|{_REFUTED}"
    r"|[\s,(]*(?:at\s+(?:the\s+)?(?:very\s+)?(?:most|least)|and\s+(?:above|below|up|over|under|beyond|higher"
    r"|lower|more|less)|plus|minus|(?:divided|multiplied)\s+by|factorial"
    r"|times\s+(?:\d|that|two|three|four|five|ten))\b"
    r"|\s*(?:squared|cubed)\b(?!\s+[a-z])"
    rf"|\s*(?:and|to|[,;/&|]|und|et|y|o|e|и|和|と|و)\s*[-\\$]{{0,2}}(?:\d|{_WORD})"
    rf"|[\s,(/]*{_B}(?:{_OTHERS}){_E}"
    r"(?!\s*,?\s*(?:so|thereabouts|equivalently|simply|about|approximately|roughly)\b)"
    rf"|-?[a-z%°]++[\s,(/]*+{_B}(?:{_OTHERS}){_E}\s*(?:\d|{_WORD})"  # `5 apples or 6`
    r"|\s*[,(]\s*(?:maybe|perhaps|possibly|alternatively|otherwise)\b"
    r"|\s*(?:以上|以下|未満|不对|是错|ではな|じゃな|가\s*아니|이\s*아니|이상|이하|미만|değil|नहीं|से\s+(?:कम|अधिक))"
    r")"
)
#: The words of an answer as a whole that its gold must have too. `plus`, `or`, `half` and their
#: like are left to the tree, which knows what they mean.
_CHANGES: Final = re.compile(
    rf"(?<![\\A-Za-zÀ-ÿ\u0400-\u04ff])(?:{_NEGATIONS}|{_WRONG}|{_BOUNDS}|twice|thrice|double|triple|quadruple"
    r"|(?:half|thirds?|quarters?|fourths?|fifths?|tenths?|percent|%|square|cube|root|multiples?|powers?)\s+of"
    rf"|half\s+(?=\d)|times\s+(?=[\d\\$])|versus|vs\.?|maybe|perhaps|possibly|impossible){_E}"
    rf"|\b(?:plus|minus)\s+(?={_WORD})"
    r"|(?<=\d)\W*(?:\\text\s*\{\s*)?(?:squared|cubed)\b(?!\s+[a-z])|以上|以下|未満|ではな|이상|이하|미만|değil"
)


#: The first four letters of the words above that are written in ASCII: most texts have none of
#: them, and this finds that out in a fraction of the time.
_STEMS: Final = frozenset(
    "abov alme almo also alte and aren atau bein beli belo beyo bigg bijn bis buka but can cann "
    "case casi clos cube did didn diff divi do dobl dobr doe does dopp doub e eigh eith else es "
    "et exce excl fact fals fast fewe fift four grea half halv hast high hoog impo inco inst inva "
    "inve isn jama jusq kein klei kura larg leas lebi less loga long lowe lub maio mais mass mayb "
    "mayo mean meer mehr meno meta mind mini mins minu mist mita mnie moin moit more most mult "
    "najm najw near nega neit neve nich nie niet no nope nor not nunc o oder one oops oppo or "
    "othe ou out over pali pas pelo perc perh plus poss powe praw pres quad quar quas reci root "
    "sauf say shor sixt smal squa sumo t tent than thin thir thri time to too tran trip true twic "
    "und unde uneq unli up uppe vers veya vs wait wasn well weni with wron y".split()
)
_LETTERS: Final = re.compile(r"\\?[^\W\d_]+")


def _may_change(lowered: str) -> bool:
    """Whether a text has any of the words at all; commands such as `\\times` are none."""
    return not lowered.isascii() or not _STEMS.isdisjoint(
        [word[:4] for word in _LETTERS.findall(lowered)] + ["perc"] * ("%" in lowered)
    )


def changed(text: str, start: int, end: int) -> bool:
    """Whether the words beside `text[start:end]` take it back, bound, scale or hedge it.

    >>> [changed(t, t.index("5"), t.index("5") + 1) for t in ("so 5", "not 5", "5 (wrong)")]
    [False, True, True]
    >>> changed("1/2, or 0.5", 0, 3), changed("about 5 apples", 6, 7)
    (False, False)
    """
    before = text[max(0, start - MAX_BESIDE_CHARS) : start].lower()
    after = text[end : end + MAX_BESIDE_CHARS].split("\n", 1)[0].lower()
    value = text[start:end]
    if _changed_before(before) and not _restated(value, before, _SAME_BEFORE):
        return True
    if not after.strip(" .$*"):
        return False
    return _AFTER.match(after) is not None and not _restated(value, after, _SAME_AFTER)


def _changed_before(before: str) -> bool:
    if before.endswith(("{", "{ ")):
        return _INSIDE.search(before) is not None
    has_words = _may_change(before)
    if has_words and _BEFORE.search(before):
        return True
    return (has_words or not _POINTS.isdisjoint(before[-12:])) and _LISTED.search(
        before
    ) is not None


_POINTS: Final = frozenset(",;/&|")
#: What every word of `_TAKEN_BACK` that stands before a mark has in it.
_DENYING: Final = (
    "not", "n't", "n’t", "never", "neither", "nor", "wrong", "incorrect", "false", "but", "than",
    "except", "nicht", "kein", "pas", "não", "no es", "non è", "niet", "nie", "не", "不", "并非",
)  # fmt: skip
_DENIED_BEFORE: Final = re.compile(_TAKEN_BACK)
_DENIED_AFTER: Final = re.compile(f"{_JUNK}(?:{_REFUTED})")


def denied(text: str, start: int, end: int) -> bool:
    """Whether the words beside a marked `text[start:end]` say that it is wrong; what they say of
    its size ("at least \\boxed{5} colours") is the sentence's, not the answer's.

    >>> denied("not (B)", 5, 6), denied("(B) is wrong", 1, 2), denied("at least (B)", 10, 11)
    (True, True, False)
    """
    before = text[max(0, start - MAX_BESIDE_CHARS) : start].lower()
    if any(map(before.__contains__, _DENYING)) and _DENIED_BEFORE.search(before):
        return True
    after = text[end : end + MAX_BESIDE_CHARS].split("\n", 1)[0].lower()
    return bool(after.strip(" .$}*")) and _DENIED_AFTER.match(after) is not None


def offers(gap: str) -> bool:
    """Whether the text between two answers leaves the choice to the reader.

    >>> offers("$ or $"), offers("$ and $"), offers(" so ")
    (True, False, False)
    """
    return _OFFER.fullmatch(gap) is not None


_OFFER: Final = re.compile(
    rf"(?i)[\W_]*(?:\w{{1,12}}\W+)?(?:{_OTHERS}|{_UNSURE})[\W_]*(?:{_UNSURE})?[\W_]*"
)


_VALUE: Final = (
    r"[-−]?\\?\$?(?:\\[dt]?frac\{\d+\}\{\d+\}|\d[\d,]*(?:\.\d+)?(?:\s?/\s?\d+)?|\.\d+)(?:\s?\\?%)?"
)
_JOIN: Final = (
    rf"[\s,($]*+(?:(?:{_OTHERS}|and|/){_E})?[\s,:$]*+"
    r"(?:(?:equivalently|simply|about|approximately|roughly)\b)?[\s,:$]*+"
)
_SAME_BEFORE: Final = re.compile(rf"(?<![\d.,/])(?P<value>{_VALUE}){_JUNK}{_JOIN}\Z")
_SAME_AFTER: Final = re.compile(rf"\A{_JUNK}{_JOIN}(?P<value>{_VALUE})(?![\d/])")


def _restated(value: str, beside: str, pattern: re.Pattern[str]) -> bool:
    """`1/2, or 0.5`: the other one is the same."""
    found = pattern.search(beside)
    if found is None:
        return False
    one = numbers.read_number(value.strip(" $"))
    two = numbers.read_number(found["value"].rstrip(","))
    return one is not None and two is not None and numbers.same_number(one, two) is True


def changes(answer: str) -> frozenset[str]:
    """The words of an answer that change what it says.

    >>> sorted(changes("5 (wrong)")), sorted(changes("At least 5")), sorted(changes("5 cm"))
    (['wrong'], ['at least'], [])
    """
    said = " ".join(_TEXT.sub(r"\1", answer).lower().split())
    if not _may_change(said):
        return frozenset()
    return frozenset(found[0].strip() for found in _CHANGES.finditer(said))


_TEXT: Final = re.compile(r"\\text\w*\s*\{([^{}]*)\}")
