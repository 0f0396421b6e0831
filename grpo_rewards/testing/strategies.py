"""Property-based testing of rulesets: strategies that draw completions and rows, and the laws.

    from hypothesis import given
    from grpo_rewards import load, testing

    SCORER = load("mine.reward")

    @given(testing.batches(SCORER))
    def test_rows_permute(rows):
        testing.rows_permute(SCORER, rows)

Needs the package `hypothesis` (`pip install "grpo-rewards[testing]"`).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpo_rewards.audit.examine import Row, layouts_of
from grpo_rewards.audit.laws import (
    LAWS,
    MOMENT,
    LawBroken,
    alone_as_in_a_batch,
    appending_never_pays,
    deterministic,
    group_members_permute,
    groups_split,
    in_range,
    is_complete,
    rows_permute,
    second_answer_never_pays,
    spawns_the_same,
)
from grpo_rewards.compiler.graph import InputSpec
from grpo_rewards.errors import RewardError
from grpo_rewards.rules.attack_families import FILLER, Target
from grpo_rewards.rules.format.matching import Format
from grpo_rewards.rules.math.equality import compile_gold
from grpo_rewards.scoring.inputs import text_of
from grpo_rewards.scoring.scorer import Scorer
from grpo_rewards.types import Level

try:
    from hypothesis import strategies as st
    from hypothesis.strategies import DrawFn, SearchStrategy
except ImportError as missing:
    raise RewardError(
        "`grpo_rewards.testing` and `grpo-rewards fuzz` need the package `hypothesis`"
        '\n  hint: pip install "grpo-rewards[testing]"'
    ) from missing

__all__ = [
    "LAWS",
    "LawBroken",
    "alone_as_in_a_batch",
    "any_text",
    "appending_never_pays",
    "batches",
    "complete_rows",
    "completions",
    "deterministic",
    "formats_of",
    "group_members_permute",
    "groups_split",
    "in_range",
    "is_complete",
    "mutated",
    "planted",
    "rows",
    "rows_permute",
    "second_answer_never_pays",
    "seed_rows",
    "spawns_the_same",
    "texts_behind",
    "usual_tails",
    "wrong_answers",
]

#: Any text at all: astral characters, NUL and lone surrogates among them.
any_text: SearchStrategy[str] = st.text(st.characters(codec=None), max_size=60)

_GOLDS = ("42", "-7", "1/2", "\\frac{3}{4}", "3.14", "x + 1", "(1, 2)", "B", "1,000", "see figure")
_LANGUAGES = ("en", "de", "fr", "es", "zh", "ja", "xx", "")
_PHRASES = (*FILLER.values(), "6 * 7 = 42.", "So we add them up", "wait, ", "$x = 3$", "\n\n")
_ODD = (
    "\x00", "\ud800", "\u200b", "\u202e", "\ufeff", "\U0001f600", "e\u0301", "\r\n", "\u2028",
    "{", "}", "\\", "$", "$$", "\\boxed{", "\\boxed{}", "<", "</", ">", "```", "\\text{", "|",
    "####",
)  # fmt: skip
_LOOKALIKES = str.maketrans("<>aeio0", "＜＞аеіоΟ")
_TAG = re.compile(r"</?\w{1,20}>")
_LONG_CHARS = 20_000  # of a lengthened text: past every bound of an answer, still quick to score


# Completions


def completions(
    scorer: Scorer, seeds: Sequence[Row] = (), *, gold: str | None = None
) -> SearchStrategy[str]:
    """Completions of a ruleset: what its own formats produce, answers in the layouts that it seems
    to want, the completions of `seeds` and of its tests, any text; and mutations of all these.

    `gold` is the answer that many of them give; any of a few where it is None.
    """
    known = [text_of(row["completion"]) for row in (*seeds, *seed_rows(scorer))]
    sources = [laid_out(scorer, answers(gold)), any_text]
    sources += [planted(form, answers(gold)) for form in formats_of(scorer)]
    sources += [st.sampled_from(known or [""])]
    whole = st.one_of(*reversed(sources))
    return st.one_of(whole, mutated(whole, _fragments(scorer)))


def laid_out(scorer: Scorer, given: SearchStrategy[str]) -> SearchStrategy[str]:
    """A thought and a given answer in one of the layouts that attacks of this ruleset use."""
    return st.builds(
        lambda layout, thought, answer: layout.replace("{thought}", thought).replace(
            "{answer}", answer
        ),
        st.sampled_from(layouts_of(scorer)),
        st.lists(st.sampled_from(_PHRASES), max_size=4).map("".join),
        given,
    )


def answers(gold: str | None = None) -> SearchStrategy[str]:
    """The gold, bare, boxed or hedged; a wrong answer; anything."""
    if gold is None:
        return st.one_of(st.sampled_from(_GOLDS), any_text)
    wrong = Target(gold, "", ()).wrong
    return st.one_of(right_answers(gold), st.sampled_from((wrong, f"{gold} or {wrong}")), any_text)


def right_answers(gold: str) -> SearchStrategy[str]:
    """The gold, bare, boxed, in formula signs or in white space."""
    return st.sampled_from((gold, f"\\boxed{{{gold}}}", f"${gold}$", f" {gold}\n"))


def planted(form: Format, given: SearchStrategy[str]) -> SearchStrategy[str]:
    """Texts that fit a format, the last of its captures often replaced by a given answer."""
    plain = _format_texts(form)

    @st.composite
    def plant(draw: DrawFn) -> str:
        text = draw(plain)
        captures = form.match(text).captures
        spans = [spans[-1] for spans in captures.values() if spans]
        if not spans or not draw(st.booleans()):
            return text
        span = max(spans, key=lambda span: span.start)
        start, end = int(span.start), int(span.end)
        return text[:start] + draw(given) + text[end:]

    return plant()


def formats_of(scorer: Scorer) -> list[Format]:
    """The formats that a ruleset names."""
    graph = scorer.graph
    return [node.value for node in graph.nodes if node.op == "const" and node.type.kind == "format"]


@functools.lru_cache(maxsize=64)
def _format_texts(form: Format) -> SearchStrategy[str]:
    """What a format's own grammar, schema, pattern or tags produce."""
    prefix = str(dict(form.options).get("prefix", ""))
    inner = st.one_of(st.sampled_from(_PHRASES), st.text(max_size=20))
    match form.kind:
        case "lark":
            from hypothesis.extra.lark import from_lark
            from lark import Lark

            engine: Any = dict(form.options).get("engine", "lalr")
            texts = from_lark(Lark(form.body, parser=engine, maybe_placeholders=False))
        case "tags":
            pairs = [st.builds(f"<{tag}>{{}}</{tag}>".format, inner) for tag in form.body.split()]
            texts = st.tuples(*pairs).map("".join)
        case "json":
            texts = st.builds(json.dumps, _json_values(json.loads(form.body)))
        case _:
            texts = _pattern_texts(form.body)
    return texts.map(lambda text: text.removeprefix(prefix))


def _pattern_texts(body: str) -> SearchStrategy[str]:
    """Texts of an RE2 pattern, where Python's engine reads it too."""
    pattern, _, flags = body.rpartition("\n")
    known = {"i": re.I, "m": re.M, "s": re.S}
    try:
        compiled = re.compile(pattern, sum(known.get(flag, 0) for flag in flags))
    except re.error:
        return any_text
    return st.from_regex(compiled, fullmatch=True)


def _json_values(schema: Any) -> SearchStrategy[Any]:
    """Values in the manner of a JSON Schema: its types, properties and enums, not its bounds."""
    rule = schema if isinstance(schema, dict) else {}
    if "const" in rule:
        return st.just(rule["const"])
    if rule.get("enum"):
        return st.sampled_from(rule["enum"])
    kind = rule.get("type", "string")
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "object":
            properties: Mapping[str, Any] = rule.get("properties", {})
            named = [*properties, *rule.get("required", [])]
            fields = {name: _json_values(properties.get(name)) for name in named}
            return st.fixed_dictionaries(fields)
        case "array":
            return st.lists(_json_values(rule.get("items")), max_size=3)
        case "integer" | "number":
            return st.integers(-1000, 1000)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
    return st.text(max_size=10)


# Mutations


def mutated(texts: SearchStrategy[str], fragments: Sequence[str] = ()) -> SearchStrategy[str]:
    """One to three changes of a text: cut, said twice, junk put in, tags swapped, nested or
    dropped, letters replaced by ones that look alike, made very long."""
    junk = st.one_of(st.sampled_from((*fragments, *_ODD)), any_text)

    @st.composite
    def mutate(draw: DrawFn) -> str:
        text = draw(texts)
        for _ in range(draw(st.integers(1, 3))):
            change = draw(st.sampled_from(_CHANGES))
            text = change(text, draw(st.integers(0, len(text))), draw(junk))[:_LONG_CHARS]
        return text

    return mutate()


def _cut(text: str, at: int, junk: str) -> str:
    return text[:at]


def _insert(text: str, at: int, junk: str) -> str:
    return text[:at] + junk + text[at:]


def _say_twice(text: str, at: int, junk: str) -> str:
    return text + junk + text


def _swap_tags(text: str, at: int, junk: str) -> str:
    """Every tag closes where it opened, and opens where it closed."""
    return _TAG.sub(lambda m: m[0].replace("</", "<") if "/" in m[0] else f"</{m[0][1:]}", text)


def _nest_tags(text: str, at: int, junk: str) -> str:
    tags = _TAG.findall(text) or ["<answer>"]
    name = tags[at % len(tags)].strip("</>")
    return f"{text[:at]}<{name}>{text[at:]}</{name}>"


def _drop_tag(text: str, at: int, junk: str) -> str:
    found = list(_TAG.finditer(text))
    if not found:
        return text
    tag = found[at % len(found)]
    return text[: tag.start()] + text[tag.end() :]


def _look_alike(text: str, at: int, junk: str) -> str:
    return text[:at] + text[at:].translate(_LOOKALIKES)


def _lengthen(text: str, at: int, junk: str) -> str:
    piece = text[at : at + 200] or junk or " "
    return text[:at] + piece * (_LONG_CHARS // len(piece)) + text[at:]


_CHANGES: tuple[Callable[[str, int, str], str], ...] = (
    _cut, _insert, _say_twice, _swap_tags, _nest_tags, _drop_tag, _look_alike, _lengthen,
)  # fmt: skip


def _fragments(scorer: Scorer) -> list[str]:
    """Pieces that a ruleset knows: the strings of its grammars, its tags, its params."""
    found = [value for value in scorer.params.values() if isinstance(value, str)]
    for form in formats_of(scorer):
        found += re.findall(r'"([^"\n]{1,40})"', form.body) if form.kind == "lark" else []
        if form.kind == "tags":
            found += [f"<{slash}{tag}>" for tag in form.body.split() for slash in ("", "/")]
    tags = ("<think>", "</think>", "<answer>", "</answer>")
    return [*dict.fromkeys((*found, *tags, *_PHRASES))]


# Rows and batches


def seed_rows(scorer: Scorer) -> list[Row]:
    """The rows of a ruleset's own tests that have a completion."""
    rows = [row for test in scorer.tests for row in test.rows]
    return [row for row in rows if row.get("completion") is not None]


def rows(scorer: Scorer, seeds: Sequence[Row] = ()) -> SearchStrategy[dict[str, Any]]:
    """Rows with all inputs of a ruleset; what `seeds` and its tests know, or values of its type."""
    prompts = _prompts(scorer, (*seeds, *seed_rows(scorer)))
    return prompts.flatmap(_completer(scorer, seeds))


def batches(
    scorer: Scorer, seeds: Sequence[Row] = (), *, max_groups: int = 3, max_size: int = 3
) -> SearchStrategy[list[dict[str, Any]]]:
    """Batches of whole groups, which lie together; a group shares the inputs of its prompt."""
    prompts = _prompts(scorer, (*seeds, *seed_rows(scorer)))
    completed = _completer(scorer, seeds)

    @st.composite
    def batch(draw: DrawFn) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for group in range(draw(st.integers(1, max_groups))):
            prompt = draw(prompts)
            for _ in range(draw(st.integers(1, max_size))):
                found.append({**draw(completed(prompt)), "group": group})
        return found

    return batch()


def complete_rows(scorer: Scorer, seeds: Sequence[Row] = ()) -> SearchStrategy[dict[str, Any]]:
    """Rows that often give the gold, in form and to the end: what the laws of paying speak of."""
    known = [*seeds, *seed_rows(scorer)]
    right = [_with_inputs(scorer, row) for row in known if is_complete(scorer, row)]

    @functools.lru_cache(maxsize=256)
    def answered(gold: str | None) -> SearchStrategy[dict[str, Any]]:
        texts = _right_texts(scorer, gold)
        either = st.one_of(texts, mutated(texts, _fragments(scorer)))
        return either.map(lambda text: _measured(scorer, text))

    fresh = _prompts(scorer, known, absent=False).flatmap(
        lambda prompt: answered(gold_text(prompt)).map(lambda row: {**prompt, **row})
    )
    return st.one_of(st.sampled_from(right), fresh) if right else fresh


def texts_behind(scorer: Scorer, row: Row) -> SearchStrategy[str]:
    """Texts to append to a row's completion: junk, phrases, tags around them, strings of the
    ruleset's own, the completion itself, and others that give the gold again."""
    gold = gold_text(row)
    fragments = _fragments(scorer)
    tagged = st.builds(
        lambda tag, text: f"{tag}{text}</{tag[1:]}",
        st.sampled_from(_opening(fragments)),
        st.one_of(st.sampled_from(_PHRASES), answers(gold)),
    )
    pieces = st.one_of(tagged, st.sampled_from([*fragments, *_ODD]), any_text)
    pieces = st.one_of(st.just(text_of(row["completion"])), pieces)
    spaced = st.lists(pieces, min_size=1, max_size=6).map("".join)
    return st.one_of(spaced, _right_texts(scorer, gold))


def usual_tails(scorer: Scorer, row: Row) -> list[str]:
    """What a model finds first when text behind its answer pays: prose, prose in every tag that the
    ruleset knows, the completion once more, with a thought before it or without."""
    again = text_of(row["completion"])
    tags = _opening(_fragments(scorer))
    tagged = [f"{tag}{prose}</{tag[1:]}" for tag in tags for prose in FILLER.values()]
    return [*FILLER.values(), *tagged, again, *(text + again for text in tagged[:: len(FILLER)])]


def _right_texts(scorer: Scorer, gold: str | None) -> SearchStrategy[str]:
    """The gold in a layout, in one tag alone, or in what a format produces."""
    given = answers() if gold is None else right_answers(gold)
    opening = st.sampled_from(_opening(_fragments(scorer)))
    alone = st.builds(lambda tag, answer: f"{tag}{answer}</{tag[1:]}", opening, given)
    ways = [laid_out(scorer, given), alone]
    return st.one_of(*(planted(form, given) for form in formats_of(scorer)), *ways)


def _opening(fragments: Sequence[str]) -> list[str]:
    """The opening tags among some pieces."""
    return [tag for tag in fragments if _TAG.fullmatch(tag) and "/" not in tag]


def wrong_answers(row: Row) -> SearchStrategy[str]:
    """Answers to give after a row's own: none of them is its gold by its text."""
    gold = (gold_text(row) or "").strip()
    texts = st.one_of(st.sampled_from(("123454321", "0", "A", "E", *_GOLDS)), any_text)
    return texts.filter(lambda text: text.strip() != gold)


def _prompts(
    scorer: Scorer, known: Sequence[Row], *, absent: bool = True
) -> SearchStrategy[dict[str, Any]]:
    """The inputs of a prompt: those of a known row, or values by name and type."""
    names = [name for name in scorer.inputs if scorer.graph.inputs[name].level != Level.ROW]
    specs = {name: scorer.graph.inputs[name] for name in names}
    drawn = st.fixed_dictionaries(
        {name: _values(spec) if absent else _values(spec).filter(_is_there)
         for name, spec in specs.items()}
    )  # fmt: skip
    taken = [{name: _with_inputs(scorer, row).get(name) for name in names} for row in known]
    return st.one_of(st.sampled_from(taken), drawn) if taken else drawn


def _is_there(value: Any) -> bool:
    return value is not None


def _completer(
    scorer: Scorer, seeds: Sequence[Row]
) -> Callable[[Mapping[str, Any]], SearchStrategy[dict[str, Any]]]:
    """A prompt's inputs → them with a completion and the other inputs of a row."""
    others = {
        name: _values(spec)
        for name in scorer.inputs
        if (spec := scorer.graph.inputs[name]).level == Level.ROW and name not in _MEASURED
    }

    @functools.lru_cache(maxsize=256)  # building a strategy takes longer than drawing from it
    def completed(gold: str | None) -> SearchStrategy[dict[str, Any]]:
        return st.builds(
            lambda text, values, cut: {**values, **_measured(scorer, text, cut)},
            completions(scorer, seeds, gold=gold),
            st.fixed_dictionaries(others),
            st.sampled_from((False, False, False, True)),
        )

    return lambda prompt: completed(gold_text(prompt)).map(lambda row: {**prompt, **row})


_MEASURED = ("completion", "n_tokens", "truncated")


def _measured(scorer: Scorer, text: str, cut: bool = False) -> dict[str, Any]:
    """A completion with what goes with it: its tokens, as a tokenizer might count them."""
    found = {"completion": text, "n_tokens": max(1, len(text) // 4), "truncated": cut}
    return {name: found[name] for name in _MEASURED if name in scorer.inputs}


def _with_inputs(scorer: Scorer, row: Row) -> dict[str, Any]:
    """A row by the ruleset's own names for its inputs, defaults where it says nothing."""
    found: dict[str, Any] = {}
    for name in scorer.inputs:
        spec = scorer.graph.inputs[name]
        sources = [source for source in spec.names if source in row]
        found[name] = row[sources[0]] if sources else MOMENT.get(name, spec.default)
    if found.get("n_tokens") is None and "n_tokens" in found:
        found["n_tokens"] = max(1, len(text_of(found.get("completion"))) // 4)
    return found


def gold_text(prompt: Mapping[str, Any]) -> str | None:
    """A prompt's gold as an answer is written."""
    gold = prompt.get("gold")
    if gold is None:
        return None
    return compile_gold(gold).text or gold if isinstance(gold, str) else json.dumps(gold)


def _values(spec: InputSpec) -> SearchStrategy[Any]:
    """Values of an input by its name and type."""
    if spec.level == Level.CONST:
        return st.just(MOMENT[spec.name])  # one for all
    match spec.type.kind:
        case "num":
            return st.one_of(st.none(), st.integers(0, 10_000), st.floats(-1e6, 1e6))
        case "bool":
            return st.one_of(st.none(), st.booleans())
        case "list":
            return st.lists(st.integers(-9, 9), max_size=4)
        case "json":
            return st.one_of(st.none(), st.dictionaries(st.text(max_size=5), st.integers()))
    if spec.name in ("lang", "language"):
        return st.sampled_from(_LANGUAGES)
    known = st.sampled_from(_GOLDS) if spec.name == "gold" else st.sampled_from(_PHRASES)
    return st.one_of(known, any_text, st.none())
