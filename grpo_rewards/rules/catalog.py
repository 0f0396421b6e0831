"""Every rule by name: CATALOG, a plain dict.

The kernels stand in the modules beside this one, as plain functions; here they get their names,
signatures, ranges and costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from grpo_rewards.columns import Column, Outcome, Status
from grpo_rewards.rules import dataset, extract, group, json_fields, marks, nulls, text
from grpo_rewards.rules.format import matching
from grpo_rewards.rules.language import detection, spellings
from grpo_rewards.rules.math import arithmetic, equality, plain_sums
from grpo_rewards.rules.operators import OPERATORS
from grpo_rewards.rules.rule import DEFERRED, DatasetKernel, GroupKernel, RowKernel, Rule, rule
from grpo_rewards.types import UNIT, Interval

COUNT = Interval(0)  # 0, 1, 2, …
WHICH = 'which: "last"|"first" = "last"'


def _equal(answer: str | None, gold: str, **options: Any) -> Any:
    verdict = equality.equal(answer, equality.compile_gold(gold), **options)
    if verdict.value is None and verdict.rung == "pass":
        return DEFERRED
    return Outcome(verdict.value, verdict.status)


def _symbolic(answer: str, gold: str, options: Mapping[str, Any]) -> Any:
    """The slow rung, for a worker."""
    return equality.symbolic(answer, gold, **options)


def _match(compiled: matching.Format, completion: str, *, partial_max: float) -> Any:
    if compiled.needs_deadline:  # nothing shows that every text is read in linear time
        return DEFERRED
    return _matched(compiled, completion, {"partial_max": partial_max})


def _matched(compiled: matching.Format, completion: str, options: Mapping[str, Any]) -> Outcome:
    found = compiled.match(completion, **options)
    return Outcome(found, found.status)


def _tags(completion: str, *names: str, prefix: str, partial_max: float) -> float:
    compiled = matching.compile_format("tags", "tags", " ".join(names), prefix=prefix)
    return compiled.match(completion, partial_max=partial_max).credit


def _check_tags(args: Sequence[Any], options: Mapping[str, Any]) -> str | None:
    names = args[1:]
    if not names or not all(isinstance(name, str) for name in names):
        return 'the tags are constant texts: format.tags(completion, "think", "answer")'
    try:
        matching.compile_format("tags", "tags", " ".join(names), prefix=options["prefix"])
    except matching.FormatError as error:
        return error.message
    return None


def _check_language(args: Sequence[Any], _options: Mapping[str, Any]) -> str | None:
    target = args[1] if len(args) > 1 else None
    return spellings.check_language(target) if isinstance(target, str) else None


def _share(text: str, target: str, *, min_letters: int) -> Any:
    """A language that cannot be read is no null, which `??` would replace: a slip in a column of
    the data would pay in full."""
    if not spellings.known_language(target):
        return Outcome(0.0, Status.UNPARSED)
    return detection.share(text, target, min_letters=min_letters)


def _check_ngrams(_args: Any, options: Mapping[str, Any]) -> str | None:
    n = options["n"]
    return None if n >= 1 and n == int(n) else "n is the length of an n-gram, a whole number from 1"


def _partial(_args: Any, options: Mapping[str, Any]) -> str | None:
    return None if 0 <= options["partial_max"] <= 1 else "partial_max lies in 0..1"


def _grouped(function: Callable[..., group.Result]) -> GroupKernel:
    """A group kernel from a function of arrays; no value of a group is UNDEFINED."""

    def kernel(*args: Any, **options: Any) -> Column:
        *columns, groups = args
        present, status = nulls.strict(tuple(columns))
        floats = [column.values.astype(np.float64, copy=False) for column in columns]
        ints = {name: int(value) for name, value in options.items()}
        values, has = function(*floats, present, groups, **ints)
        undefined = np.where(status != 0, status, Status.UNDEFINED)
        return Column(np.where(has, values, 0.0), has, np.where(has, 0, undefined).astype(np.uint8))

    return GroupKernel(kernel)


def _cosine(_ranges: Sequence[Interval], options: Mapping[str, Any]) -> Interval:
    return Interval(min(options.values()), max(options.values()))


def _same(ranges: Sequence[Interval], _options: Mapping[str, Any]) -> Interval:
    return ranges[0]


def _fits(m: matching.Match) -> bool:
    return m.ok


def _credit(m: matching.Match) -> float:
    return m.credit


def _failed_at(m: matching.Match) -> float | None:
    return None if m.at is None else m.at.offset


def _capture(m: matching.Match, *, name: str, index: float) -> Any:
    return m.capture(name, int(index))


_EXTRACT = (
    rule(
        f"extract.boxed(text: text, *, {WHICH}) -> text?", RowKernel(extract.boxed),
        r"What stands in the last (or first) \boxed{…}; null where there is none.",
        example=r'extract.boxed("so \boxed{42}")',
    ),
    rule(
        f"extract.tag(text: text, name: text, *, {WHICH}) -> text?", RowKernel(extract.tag),
        "What stands in the last (or first) <name>…</name>, trimmed.",
        example='extract.tag("<answer>4</answer>", "answer")',
    ),
    rule(
        f"extract.after(text: text, marker: text, *, {WHICH}) -> text?",
        RowKernel(extract.after), "The rest of the line after the last (or first) marker.",
        example='extract.after("#### 4", "####")',
    ),
    rule("extract.last_number(text: text) -> text?", RowKernel(extract.last_number),
         "The last number, as it is written.", example='extract.last_number("3 or 4")'),
    rule("extract.first_number(text: text) -> text?", RowKernel(extract.first_number),
         "The first number, as it is written.", example='extract.first_number("3 or 4")'),
    rule(
        f'extract.fence(text: text, *, language: text = "", {WHICH}) -> text?',
        RowKernel(extract.fence), "What stands in the last (or first) fenced code block.",
    ),
    rule(
        f"extract.regex(text: text, pattern: pattern, *, {WHICH}, group: num = 0) -> text?",
        RowKernel(extract.regex), "The last (or first) find of a pattern, or one of its groups.",
        example=r'extract.regex("a 12", re"\d+")',
    ),
    rule("extract.strip_thoughts(text: text) -> text?", RowKernel(extract.strip_thoughts),
         "What follows the last </think>; null where a thought is open and never closed.",
         example='extract.strip_thoughts("<think>hm</think> 4")'),
    rule("extract.answer(text: text) -> text?", RowKernel(extract.answer),
         "The final answer by the usual habits: box, <answer>, ####, the answer is, last number.",
         example='extract.answer("so the answer is 4.")'),
)  # fmt: skip

_MATH = (
    rule(
        'math.equal(answer: text?, gold: text, *, extract: "auto"|"none" = "auto",'
        ' units: "lenient"|"strict"|"ignore" = "lenient", decimals: num = null, rtol: num = null,'
        " figures: num = 6, evaluate: bool = false, positive: bool = false) -> bool",
        RowKernel(_equal, keyed=True, finish=_symbolic),
        "Whether an answer equals the gold: as text, as an exact number, by algebra.\n\n"
        "A gold that cannot be read gives null; an answer that is missing or unreadable is wrong."
        " What counts as equal, and every option: docs/math.md.",
        cost=3, example='math.equal("1/2", "0.5")', marks=marks.compared_answer,
    ),
    rule("math.eval_arith(text: text) -> num?", RowKernel(arithmetic.eval_arith),
         "The exact value of an arithmetic expression: + - * / ** and brackets over numbers.",
         cost=2, example='math.eval_arith("(1 + 2) * 3 / 4")'),
    rule("math.eval_plain(text: text) -> num?", RowKernel(plain_sums.value),
         "The exact value of plain arithmetic, for games: + - * / and brackets, nothing else.",
         cost=2, example='math.eval_plain("25 * (3 + 1)")'),
    rule("math.uses(text: text, numbers: list[num]) -> bool", RowKernel(plain_sums.uses),
         "Whether plain arithmetic is written with exactly these numbers, each once.", cost=2),
    rule("math.choice(text: text) -> text?", RowKernel(arithmetic.choice),
         "The letter of a multiple-choice answer: (B), B., option B.", cost=2,
         example='math.choice("The answer is (B).")'),
    rule("math.number(text: text) -> num?", RowKernel(arithmetic.number),
         "The number that a text is: 1,234, -1/2, 2 1/2, 50%, $18, 1e3.",
         example='math.number("1,234.50")'),
)  # fmt: skip

_FORMATS = (
    rule(
        "match(format: format, text: text, *, partial_max: num = 0.5) -> match",
        RowKernel(_match, finish=_matched),
        "How a text fits a format: .ok, .credit, .at, and its captures by name.",
        cost=2, validate=_partial, marks=marks.left_format,
    ),
    rule("match.ok(match: match) -> bool", RowKernel(_fits), "Whether the whole text fits.",
         cost=0),
    rule("match.credit(match: match) -> num", RowKernel(_credit),
         "How much of the text fits: 1 if all, else less, capped by partial_max.",
         range=UNIT, cost=0),
    rule("match.at(match: match) -> num?", RowKernel(_failed_at),
         "Where the text left its format; null where it fits.", range=COUNT, cost=0),
    rule("match.capture(match: match, *, name: text, index: num) -> text?", RowKernel(_capture),
         "A part of the text by its name in the format; null unless the whole text fits.",
         cost=0),
    rule(
        'format.tags(text: text, names: text..., *, prefix: text = "", partial_max: num = 0.5)'
        " -> num",
        RowKernel(_tags), "The credit of <a>…</a> <b>…</b>, in this order and nothing else.",
        range=UNIT, cost=2, validate=_check_tags,
        example='format.tags("<think>x</think><answer>4</answer>", "think", "answer")',
    ),
)  # fmt: skip

_JSON = (
    rule("json.field_f1(text: text, gold: any) -> num?", RowKernel(json_fields.f1),
         "The F1 of a JSON text's fields against those of the gold; 0 for what is no JSON.",
         range=UNIT, cost=2, example='json.field_f1("[1, 2]", "[2, 3]")'),
    rule("json.text(value: any) -> text?", RowKernel(json_fields.text_of),
         "A JSON value as text, which a format can be matched with; null for what is no JSON.",
         example='json.text("[1, 2]")'),
)  # fmt: skip

_LANGUAGE = (
    rule(
        "language.share(text: text, target: text, *, min_letters: num = 20) -> num?",
        RowKernel(_share),
        "The share of a text that is in a language (`de`, `de-AT`, `German`); null where there is"
        " too little to judge, 0 for a language that nobody knows.",
        range=UNIT, cost=3, validate=_check_language, marks=marks.foreign_pieces,
        example='language.share("The sum of the two numbers is six.", "en")',
    ),
    rule("language.switches(text: text) -> num", RowKernel(detection.switches),
         "How often a text changes its language.", range=COUNT, cost=3,
         example='language.switches("The sum is six. 所以答案是六。")'),
    rule("language.detect(text: text) -> text?", RowKernel(detection.detect),
         "The language of a whole text; null without letters.", cost=3,
         example='language.detect("Das ist ein deutscher Satz.")'),
)  # fmt: skip

_GROUP = (
    rule("group.mean(values: num) -> num", _grouped(group.mean),
         "The mean of the group; rows without a value do not count.", range=_same),
    rule("group.min(values: num) -> num", _grouped(group.min), "The least of the group.",
         range=_same),
    rule("group.max(values: num) -> num", _grouped(group.max), "The greatest of the group.",
         range=_same),
    rule("group.std(values: num, *, ddof: num = 0) -> num", _grouped(group.std),
         "The standard deviation of the group; null below two values.", range=COUNT),
    rule("group.zscore(values: num, *, ddof: num = 0) -> num", _grouped(group.zscore),
         "How many standard deviations above the group's mean; 0 where all are alike."),
    rule("group.rank(values: num) -> num", _grouped(group.rank),
         "The place in the group, from 0 for the least to 1 for the greatest.", range=UNIT),
    rule("group.argmax(values: num) -> num", _grouped(group.argmax),
         "Which row of the group has the greatest value, from 0; the first of equals.",
         range=COUNT),
    rule("group.fraction(values: num) -> num", _grouped(group.fraction),
         "The share of the group that is not 0: its pass rate.", range=UNIT),
    rule("group.length_relative(n_tokens: num, correct: num) -> num",
         _grouped(group.length_relative),
         "Kimi k1.5's length reward: 0.5 for the shortest of the group to -0.5 for the longest;"
         " a wrong one never gains by it.", range=Interval(-0.5, 0.5)),
)  # fmt: skip

_DATASET = (
    rule("dataset.count(values: num) -> num", DatasetKernel(dataset.Count),
         "How many rows of the dataset have a value.", range=COUNT),
    rule("dataset.missing(values: any) -> num", DatasetKernel(dataset.Missing),
         "The share of rows that have no value: null or error.", range=UNIT),
    rule("dataset.mean(values: num) -> num", DatasetKernel(dataset.Mean),
         "The mean over the dataset.", range=_same),
    rule("dataset.min(values: num) -> num", DatasetKernel(dataset.Min),
         "The least of the dataset.", range=_same),
    rule("dataset.max(values: num) -> num", DatasetKernel(dataset.Max),
         "The greatest of the dataset.", range=_same),
    rule("dataset.std(values: num) -> num", DatasetKernel(dataset.Std),
         "The standard deviation over the dataset.", range=COUNT),
    rule("dataset.fraction(values: num) -> num", DatasetKernel(dataset.Fraction),
         "The share of the dataset that is not 0.", range=UNIT),
    rule("dataset.correlation(left: num, right: num) -> num", DatasetKernel(dataset.Correlation),
         "Pearson's correlation of two columns; null where one is constant.",
         range=Interval(-1, 1)),
    rule("group.fraction_zero_std(values: num) -> num",
         DatasetKernel(dataset.FractionZeroStd, needs_groups=True),
         "The share of groups whose values are all alike, which teach nothing: for `check`.",
         range=UNIT),
)  # fmt: skip

_TEXT = (
    rule("text.length(text: text) -> num", RowKernel(text.length), "Characters.", range=COUNT,
         example='text.length("four")'),
    rule("text.words(text: text) -> num", RowKernel(text.words),
         "Words; scripts without spaces count by letters.", range=COUNT,
         example='text.words("two words")'),
    rule("text.count(text: text, needle: text) -> num", RowKernel(text.count),
         "How often a text occurs, without overlap.", range=COUNT,
         example='text.count("banana", "an")'),
    rule("text.contains(text: text, needle: text) -> bool", RowKernel(text.contains),
         "Whether a text occurs.", example='text.contains("banana", "nan")'),
    rule("text.starts_with(text: text, start: text) -> bool", RowKernel(text.starts_with),
         "Whether a text begins so.", example='text.starts_with("banana", "ban")'),
    rule("text.ends_with(text: text, end: text) -> bool", RowKernel(text.ends_with),
         "Whether a text ends so.", example='text.ends_with("banana", "na")'),
    rule("text.strip(text: text) -> text", RowKernel(text.strip),
         "The text without white space at its ends."),
    rule("text.lower(text: text) -> text", RowKernel(text.lower), "The text in lower case."),
    rule("text.strip_commas(text: text) -> text", RowKernel(text.strip_commas),
         "The text without commas."),
    rule("text.repetition(text: text, *, n: num = 3) -> num?", RowKernel(text.repetition),
         "The share of n-grams of words that occurred before; null below n words.", range=UNIT,
         validate=_check_ngrams, example='text.repetition("a b c a b c", n=3)'),
    rule("text.repetition_ids(ids: list[num], *, n: num = 3) -> num?",
         RowKernel(text.repetition_ids),
         "The share of n-grams of tokens that occurred before; null below n tokens.", range=UNIT,
         validate=_check_ngrams),
    rule(
        "text.overlong(n_tokens: num, max_len: num, cache: num) -> num",
        RowKernel(text.overlong),
        "DAPO's soft punishment of length: 0, then falling to -1 over the last `cache` tokens.",
        range=Interval(-1, 0), cost=0, example="text.overlong(95, 100, 10)",
    ),
    rule("text.outside(text: text, spans: text?...) -> text", RowKernel(text.outside),
         "What is left of a text without some spans of it.",
         example='text.outside("a b", extract.first_number("a b"))'),
    rule(
        "text.cosine_length(n_tokens: num, correct: num, max_len: num, *, correct_short: num = 1,"
        " correct_long: num = 0.5, wrong_short: num = -1, wrong_long: num = -0.5,"
        " exceed: num = -1) -> num?",
        RowKernel(text.cosine_length),
        "The cosine length reward: right is better short, wrong is better long.",
        range=_cosine, cost=0, example="text.cosine_length(50, 1, 100)",
    ),
    rule("matches(text: text, pattern: pattern) -> bool", RowKernel(text.matches),
         'Whether a pattern is found in a text: `x matches re"…"`.'),
)  # fmt: skip

CATALOG: dict[str, Rule] = {
    row.name: row
    for table in (OPERATORS, _EXTRACT, _MATH, _FORMATS, _JSON, _LANGUAGE, _GROUP, _DATASET, _TEXT)
    for row in table
}
