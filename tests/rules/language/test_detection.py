"""Language consistency: what a text is written in, sentence by sentence."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import time
import timeit
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import any_text

import grpo_rewards as gr
from grpo_rewards.rules.language import detection, pieces, prose_mask, scripts, spellings, word_fit
from grpo_rewards.rules.language.scripts import LANGUAGES_OF

RULESETS = ROOT / "rulesets"

SENTENCES = {
    "en": "The sum of all the numbers in the list must be equal to the total number of apples.",
    "de": "Die Summe aller Zahlen in der Liste muss gleich der Anzahl der Äpfel in der Kiste sein.",
    "fr": "La somme de tous les nombres de la liste doit être égale au nombre total de pommes.",
    "es": "La suma de todos los números de la lista debe ser igual al número total de manzanas.",
    "ru": "Сумма всех чисел в этом списке должна быть равна общему количеству яблок в коробках.",
    "uk": "Сума всіх чисел у цьому списку має дорівнювати загальній кількості яблук у коробках.",
    "zh": "列表中所有数字的总和必须等于盒子里苹果的总数，所以我们需要再检查一遍。",
    "ja": "リストにあるすべての数の合計は、箱の中のりんごの総数と等しくなければなりません。",
    "ko": "목록에 있는 모든 수의 합은 상자 안에 있는 사과의 총 개수와 같아야 합니다.",
    "ar": "يجب أن يكون مجموع كل الأعداد في القائمة مساوياً للعدد الكلي للتفاح في الصناديق.",
    "hi": "सूची में सभी संख्याओं का योग डिब्बों में सेबों की कुल संख्या के बराबर होना चाहिए।",
    "th": "ผลรวมของตัวเลขทั้งหมดในรายการต้องเท่ากับจำนวนแอปเปิลทั้งหมดในกล่อง",
    "el": "Το άθροισμα όλων των αριθμών της λίστας πρέπει να είναι ίσο με τον αριθμό των μήλων.",
}
CODES = sorted(SENTENCES)
texts = st.lists(st.one_of(st.sampled_from(list(SENTENCES.values())), any_text), max_size=5).map(
    " ".join
)


def rows(shared: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(shared / "data" / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


# What is in the target language


@pytest.mark.parametrize("code", CODES)
def test_a_sentence_is_in_its_language_and_in_no_other(code: str) -> None:
    text = SENTENCES[code]
    assert detection.detect(text) == code
    assert {other: detection.share(text, other) for other in CODES} == {
        other: float(other == code) for other in CODES
    }


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("other", CODES)
def test_half_and_half(code: str, other: str) -> None:
    text = f"{SENTENCES[code]}\n{SENTENCES[other]}"
    assert detection.switches(text) == int(code != other)
    share = detection.share(text, code)
    assert share == 1 if code == other else share is not None and 0.3 < share < 0.7


@given(texts)
def test_the_shares_of_all_languages_add_up_to_one_at_most(text: str) -> None:
    shares = [detection.share(text, code, min_letters=0) for code in spellings.LANGUAGES]
    found = [share for share in shares if share is not None]
    assert all(0 <= share <= 1 for share in found)
    assert sum(found) <= 1 + 1e-9


def test_they_do_so_on_real_mixtures(shared: Path) -> None:
    for row in rows(shared, "mixed_dev.jsonl.gz"):
        own, other = (detection.share(row["text"], row[key]) for key in ("target", "other"))
        assert own is not None and other is not None and own + other <= 1 + 1e-9


def test_kana_makes_a_sentence_japanese() -> None:
    assert detection.share("東京大学の学生は図書館で勉強します。", "ja", min_letters=5) == 1
    assert detection.share("我们需要重新检查这个方程。", "ja", min_letters=5) == 0


def test_simplified_letters_in_a_japanese_sentence_are_chinese() -> None:
    found = detection.spans("この式を这个方程に代入します。")
    assert ("这个方程", "zh") in [(str(span), code) for span, code in found]


def test_chinese_is_one_language_unless_a_variant_is_asked_for() -> None:
    simplified = "我们需要重新检查这个问题的答案，因为总数应该是偶数。"
    traditional = "我們需要重新檢查這個問題的答案，因為總數應該是偶數。"
    for text, own, other in ((simplified, "zh-cn", "zh-tw"), (traditional, "zh-tw", "zh-cn")):
        assert detection.share(text, "zh") == 1
        assert detection.share(text, own) == 1 and detection.share(text, other) == 0


def test_names_are_no_foreign_words() -> None:
    text = (
        "The winners were Jürgen Müller, François Lefèvre, Wolfgang Schäuble and Élodie Dubois, "
        "who then met Günther Weiß and Jean-Baptiste Beaulieu in Saarbrücken and Besançon."
    )
    assert detection.share(text, "en") == 1
    assert (
        detection.share("我们用 Python 和 GitHub 来检查 Fermat 的定理，结果是正确的。", "zh") == 1
    )


def test_words_of_another_language_inside_a_sentence_are_found() -> None:
    text = "So we add the numbers und danach werden beide Zahlen addiert before we can move on."
    found = detection.spans(text, "en")
    assert [(str(span), code) for span, code in found] == [
        ("und danach werden beide Zahlen addiert", "de")
    ]


def test_a_short_sentence_has_the_benefit_of_the_doubt() -> None:
    text = SENTENCES["en"] + " Hmm, OK. Via Fermat. " + SENTENCES["en"]
    assert detection.share(text, "en") == 1


def test_a_short_sentence_takes_the_language_of_the_one_before() -> None:
    text = f"{SENTENCES['en']} {SENTENCES['en']} {SENTENCES['fr']} Hmm, via Fermat."
    assert detection.switches(text) == 1 and detection.spans(text)[-1][1] == "fr"


def test_a_short_sentence_in_another_language_is_found_by_its_words() -> None:
    text = SENTENCES["fr"] + " So we check the other way."
    assert detection.spans(text, "fr")[0][0] == "So we check the other way"


@pytest.mark.parametrize("text", ["", "42", "$x^2$", "```\nfor i in x: pass\n```", "\ud800", "x"])
def test_without_letters_there_is_nothing_to_judge(text: str) -> None:
    assert detection.share(text, "en") is None
    assert detection.spans(text) == [] and detection.switches(text) == 0


def test_min_letters_counts_prose_only() -> None:
    assert detection.share("so $abcdefghijklmnopqrstuvwxyz$ it is", "en", min_letters=7) is None
    assert detection.share("so $abcdefghijklmnopqrstuvwxyz$ it is", "en", min_letters=6) is not None


# Masks


MATH = ["$x^2$", r"$$\int_0^1 x\,dx$$", r"\(2x + 5 = 17\)", r"\[a_n\]", "12", r"$\sin\theta$"]


@given(st.sampled_from(CODES), st.lists(st.sampled_from(MATH), min_size=4, max_size=4))
def test_other_mathematics_changes_nothing(code: str, formulas: list[str]) -> None:
    first, second, third, fourth = formulas
    words = SENTENCES[code][:-1]
    one, two = (f"{words} {a}. {SENTENCES['en']} So {b}." for a, b in
                ((first, second), (third, fourth)))  # fmt: skip
    assert detection.share(one, code) == detection.share(two, code)


@pytest.mark.parametrize(
    "text",
    [
        "$我们需要重新检查这个方程的答案$",
        r"\(\text{wir müssen diese Gleichung noch einmal prüfen}\)",
        "$wir setzen dann diesen Wert in die Gleichung ein$", "`我们需要重新检查这个方程的答案`",
        r"\begin{align}我们需要重新检查这个方程的答案\end{align}",
    ],
)  # fmt: skip
def test_prose_does_not_hide_in_a_formula(text: str) -> None:
    share = detection.share(f"{SENTENCES['en']} {text}", "en")
    assert share is not None and share < 0.9


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("a `b c` d", "a       d"),
        ("pay $5 or $10 now", "pay $5 or $10 now"),
        ("see https://a.b/c?d=e ok", "see                   ok"),
        ("write to joe.doe@example.org now", "write to                     now"),
        ("<b>bold</b> x < y", "   bold     x < y"),
        (r"so \frac{a}{b} is", r"so      {a}{b} is"),
        ("open $x and nothing", "open $x and nothing"),
        (r"\[ never closed", r"\[ never closed"),
        ("```py\nx = 1", " " * 11),
    ],
)
def test_masks(text: str, masked: str) -> None:
    assert prose_mask.mask(text) == masked


@given(st.one_of(any_text, st.lists(st.sampled_from(["$", "`", "\\[", "a", "@", "<b", " ", "é"]))
                 .map("".join)))  # fmt: skip
@example("a@b.c@d.e$x$`y`")
def test_a_mask_keeps_every_offset(text: str) -> None:
    masked = prose_mask.mask(text)
    assert len(masked) == len(text)
    assert all(a == b or a == " " for a, b in zip(masked, text, strict=True))


# Laws


@given(st.lists(st.sampled_from(CODES), min_size=1, max_size=4), st.sampled_from(CODES), st.data())
def test_a_sentence_in_another_script_never_raises_the_share(
    codes: list[str], added: str, data: st.DataObject
) -> None:
    sentences = [SENTENCES[code] for code in codes]
    place = data.draw(st.integers(0, len(sentences)))
    longer = [*sentences[:place], SENTENCES[added], *sentences[place:]]
    for target in set(codes):
        if not _one_script(target, added):
            before = detection.share(" ".join(sentences), target)
            after = detection.share(" ".join(longer), target)
            assert before is not None and after is not None and after <= before


def _one_script(a: str, b: str) -> bool:
    return {a, b} <= {"zh", "ja"} or any(
        {a, b} <= set(codes) for codes in scripts.LANGUAGES_OF.values()
    )


@given(texts)
def test_spans_are_spans_of_the_text(text: str) -> None:
    text = "\U0001d54f\U0001f600\r\n" + text
    found = detection.spans(text)
    for span, code in found:
        assert text[span.start : span.end] == span
        assert code in (*spellings.LANGUAGES, detection.UNKNOWN)
    assert detection.spans(text, "en") == [pair for pair in found if pair[1] != "en"]


@given(st.one_of(any_text, texts), st.sampled_from(["en", "zh", "zh-tw", "ja", "xx", ""]))
def test_no_text_raises(text: str, target: str) -> None:
    share = detection.share(text, target, min_letters=0)
    assert share is None or 0 <= share <= 1
    assert detection.detect(text) is None or detection.detect(text) in spellings.LANGUAGES
    assert detection.switches(text) >= 0


def _shares(rows: list[dict[str, Any]]) -> list[float | None]:
    return [detection.share(row["text"], row["target"]) for row in rows]


def test_order_threads_and_processes_do_not_matter(shared: Path) -> None:
    some = rows(shared, "mixed_dev.jsonl.gz")[::9]
    expected = _shares(some)
    shuffled = random.Random(1).sample(range(len(some)), len(some))
    _forget()
    assert _shares([some[i] for i in shuffled]) == [expected[i] for i in shuffled]
    _forget()
    with ThreadPoolExecutor(4) as pool:
        halves = [some[i::4] for i in range(4)] * 2
        assert list(pool.map(_shares, halves)) == [expected[i::4] for i in range(4)] * 2
    code = (
        "import json, sys; from grpo_rewards.rules.language.detection import share;"
        "print(json.dumps([share(r['text'], r['target']) for r in json.load(sys.stdin)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(some), capture_output=True, text=True,
        check=True, env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert json.loads(done.stdout) == expected


def _forget() -> None:
    detection.analyse.cache_clear()
    detection._judge.cache_clear()


def test_langdetect_says_the_same_where_words_leave_no_doubt() -> None:
    sure = 0
    for code, text in SENTENCES.items():
        for sentence in pieces.sentences(text):
            for piece in sentence:
                if len(scripts.LANGUAGES_OF.get(piece.script, ())) < 2 or not piece.evidence:
                    continue
                (known,) = word_fit.certain(word_fit.Fitted([piece.words], piece.script))
                sure += known is not None
                assert known in (None, detection._judge(piece.evidence, piece.script, "")), code
    assert sure >= 5


def _probabilities(text: str, script: str, engine: str) -> list[tuple[str, float]] | None:
    factory, no_features = detection._detectors(script, engine)
    detector = factory.create()
    detector.seed = 0
    detector.append(text)
    try:
        return [(found.lang, found.prob) for found in detector.get_probabilities()]
    except no_features:
        return None


@settings(max_examples=40)
@given(st.one_of(any_text, texts), st.sampled_from(["latin", "cyrillic", "arabic", "devanagari"]))
def test_the_fast_engine_says_the_same(text: str, script: str) -> None:
    pytest.importorskip("langdetect_rs")
    for engine_text in (text, " ".join(scripts.WORDS_OF["latin"].findall(text))):
        one = _probabilities(engine_text, script, "langdetect")
        assert one == _probabilities(engine_text, script, "langdetect_rs")


def test_it_does_on_real_sentences(shared: Path) -> None:
    pytest.importorskip("langdetect_rs")
    for row in rows(shared, "mixed_dev.jsonl.gz")[::40]:
        for piece in detection.analyse(row["text"]).pieces:
            if len(scripts.LANGUAGES_OF.get(piece.script, ())) > 1:
                main = scripts.LANGUAGES_OF[piece.script][0]
                verdicts = {
                    detection._judge(piece.text, piece.script, main, engine)
                    for engine in ("langdetect", "langdetect_rs")
                }
                assert len(verdicts) == 1


# Names of languages


def _cased(spelling: str) -> st.SearchStrategy[str]:
    return st.sampled_from([spelling, spelling.upper(), spelling.lower(), spelling.title()])


_SPELLED = [
    (spelling.strip(), code)
    for code, line in spellings._SPELLINGS.items()
    for spelling in [code, *line.split(",")[0].split(), *line.split(",")[1:]]
]


@st.composite
def spelt(draw: st.DrawFn) -> tuple[str, str]:
    """A language as people write it, and its code."""
    spelling, code = draw(st.sampled_from(_SPELLED))
    if 2 <= len(spelling) <= 3 and code != "zh":  # a tag may say where, and how it is written
        scripts_of = [s for s, name in spellings._SCRIPTS.items() if code in LANGUAGES_OF[name]]
        script = draw(st.sampled_from(["", *scripts_of]))
        region = draw(st.sampled_from(["", "US", "AT", "419", "BR"]))
        extra = draw(st.sampled_from(["", "1996", "x-mine", "u-ca-gregory"]))
        joint = draw(st.sampled_from("-_"))
        spelling = joint.join(filter(None, [spelling, script, region, extra]))
    return draw(_cased(spelling)), code


@pytest.mark.parametrize(
    ("spelling", "code"),
    [
        ("en-US", "en"), ("pt-BR", "pt"), ("pt_BR", "pt"), ("DE", "de"), ("deu", "de"),
        ("german", "de"), ("English", "en"), ("Chinese", "zh"), ("zh-Hant", "zh-tw"),
        ("zh-Hant-CN", "zh-tw"), ("zh-HK", "zh-tw"), ("zh-Hans-SG", "zh-cn"), ("zh_TW", "zh-tw"),
        ("zh-Hani", "zh"), ("cmn", "zh"), ("zh-cmn-Hans", "zh-cn"), ("iw", "he"), ("nb-NO", "no"),
        ("Traditional Chinese", "zh-tw"), ("Chinese (Simplified)", "zh-cn"), (" fr ", "fr"),
        ("ru-Latn", None), ("zh-Latn", None), ("sr-Latn", None), ("zh-yue", None), ("yue", None),
        ("en US", None), ("en-", None), ("en-abcdefghi", None), ("xx", None), ("", None),
        ("klingon", None), ("jp", None), ("en" * 50, None), ("ｅｎ", None),
    ],
)  # fmt: skip
def test_a_language_has_many_names(spelling: str, code: str | None) -> None:
    assert spellings.language_code(spelling) == code


@given(spelt(), st.sampled_from(CODES))
def test_every_spelling_of_a_language_gives_the_same_share(
    pair: tuple[str, str], written: str
) -> None:
    spelling, code = pair
    text = SENTENCES[written]
    assert spellings.check_language(spelling) is None
    assert detection.share(text, spelling) == detection.share(text, code)
    assert detection.spans(text, spelling) == detection.spans(text, code)


Paid = Callable[[str], tuple[list[float], list[str]]]


@pytest.fixture(scope="module")
def paid() -> Paid:
    """What a right answer behind a thought in English earns by `lang`: rewards and statuses."""
    thought = f"<think>{SENTENCES['en']}</think>"
    scorers = [gr.load(RULESETS / f"{name}.reward") for name in ("r1_zero", "multilingual")]

    def rewards(lang: str) -> tuple[list[float], list[str]]:
        row = {"completion": [f"{thought}<answer>42</answer>"], "gold": ["42"]}
        results = [scorer(**row, lang=[lang]) for scorer in scorers]
        return [r.reward[0] for r in results], [r.status["language"][0] for r in results]

    return rewards


near_names = st.one_of(
    any_text,
    st.from_regex(r"\A[a-zA-Z]{1,9}([-_ ][a-zA-Z0-9]{1,9}){0,3}\Z"),
    st.builds(
        lambda pair, at, char: pair[0][:at] + char + pair[0][at:],
        spelt(), st.integers(0, 8), st.sampled_from("aexz-_ 1é"),
    ),
)  # fmt: skip


@given(near_names)
@example("germn")
@example("xx")
@example("")
def test_a_language_that_nobody_knows_never_pays(paid: Paid, name: str) -> None:
    code = spellings.language_code(name)
    if code is not None:  # only what is written in the table, plain or as the head of a tag
        known = {spelling.casefold() for spelling, _ in _SPELLED}
        plain = " ".join(name.casefold().replace("_", "-").split())
        assert plain in known or "(" in plain or plain.split("-")[0] in known
    rewards, statuses = paid(name)
    wants = [1.3, 1.6] if code == "en" else [1.1, 1.1]
    assert rewards == pytest.approx(wants)
    assert statuses == ["unparsed" if code is None else "ok"] * 2


def test_a_language_spelt_out_pays_as_its_code(paid: Paid) -> None:
    assert paid("English") == paid("en-US") == paid("en")
    assert paid("german") == paid("de-AT") == paid("de")


def test_names_are_those_that_whisper_uses() -> None:
    whisper = pytest.importorskip("transformers.models.whisper.tokenization_whisper")
    codes = {name: code for name, code in whisper.TO_LANGUAGE_CODE.items()
             if spellings.known_language(code)}  # fmt: skip
    assert len(codes) > 50
    odd = {"haitian creole", "cantonese"}
    assert {name: spellings.language_code(name) for name in codes if name not in odd} == {
        name: spellings.language_code(code) for name, code in codes.items() if name not in odd
    }


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("jp", "`ja`"),
        ("zh-Latn", "`zh`"),
        ("germn", "`german`"),
        ("qq", "there are"),
    ],
)
def test_an_unknown_language_has_a_hint(code: str, hint: str, tmp_path: Path) -> None:
    assert not spellings.known_language(code)
    assert hint in (spellings.check_language(code) or "")
    assert detection.share(SENTENCES["en"], code) == 0
    ruleset = tmp_path / "one.reward"
    ruleset.write_text(
        f'input completion: text\nreward = language.share(completion, "{code}") ?? 1'
    )
    with pytest.raises(gr.RulesetError, match=r"one\.reward:2:10: error.*unknown language"):
        gr.load(ruleset)


def test_all_languages_of_langdetect_are_known() -> None:
    from langdetect.detector_factory import PROFILES_DIRECTORY

    profiles = {path.name for path in Path(PROFILES_DIRECTORY).iterdir() if "." not in path.name}
    assert all(spellings.language_code(code) == code for code in profiles)
    assert profiles - set(spellings.VARIANTS) | {"zh"} == set(spellings.LANGUAGES)


# How good, how fast


def test_shares_are_right_on_real_mixtures(shared: Path) -> None:
    data = rows(shared, "mixed_dev.jsonl.gz")
    got = np.array([share if share is not None else 1.0 for share in _shares(data)])
    want = np.array([row["share_tokens"] for row in data])
    pure = np.array([row["granularity"] == "pure" for row in data])
    above = got[pure][:, None] > got[~pure]
    level = got[pure][:, None] == got[~pure]
    assert np.abs(got - want)[~pure].mean() <= 0.022
    assert 1 - got[pure].mean() <= 0.003
    assert (above + 0.5 * level).mean() >= 0.955


@pytest.mark.parametrize(
    "text",
    [
        "$" * 100_000, "\\[" * 100_000, "```" * 50_001, "`" * 100_000, "a@" * 100_000,
        "<b" * 100_000,
        "e" + "\u0301" * 200_000, "x" * 300_000, "a " * 200_000, "а " * 100_000, "我" * 200_000,
        "a. " * 100_000, "\\begin{a}" * 20_000, "http://" * 30_000, "." * 200_000, "é$" * 100_000,
    ],
)  # fmt: skip
def test_long_hostile_texts_take_linear_time(text: str) -> None:
    detection.share(text[:1000], "en")
    short, long = _seconds(text[: len(text) // 2]), _seconds(text)
    assert long < 3 * short + 0.2


def _seconds(text: str) -> float:
    """Of this process, without collections of garbage, which cost what other tests left."""
    return timeit.timeit(lambda: detection.share(text, "en"), timer=time.process_time, number=1)


def test_runs_never_overlap() -> None:
    words = " ".join(SENTENCES[code] for code in ("en", "de", "en", "fr", "en", "es")).split()
    fitted = word_fit.Fitted([words, words[:3]], "latin")
    (own, runs), rest = word_fit.by_words(fitted, ["en", "en"], [True, True])
    assert own == "en" and [run.language for run in runs] == ["de", "fr", "es"]
    assert all(a.end <= b.start for a, b in pairwise(runs))
    assert rest == ("en", [])


def test_a_full_vocabulary_starts_anew_and_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_fit, "MAX_VOCABULARY", 3)
    words = [SENTENCES[code].split() for code in ("en", "de", "fr")]
    vocabulary = word_fit._Vocabulary("latin")
    for sentence in [*words, *words]:
        fits = [word_fit._fit("latin", word) for word in sentence]
        np.testing.assert_array_equal(vocabulary.rows(sentence), fits)
