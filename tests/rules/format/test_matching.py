"""Formats: what fits, how much of it, and where its parts stand."""

from __future__ import annotations

import functools
import json
import pickle
import time
import timeit
import unicodedata
from itertools import islice, pairwise, product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lark import Lark, UnexpectedInput
from strategies import any_text

from grpo_rewards.columns import Status
from grpo_rewards.limits import MAX_EARLEY_CHARS, MAX_GRAMMAR_CHARS, MAX_JSON_CHARS
from grpo_rewards.rules.format import matching as f
from grpo_rewards.rules.format import regex_cost

R1 = r"""
  start: WS? "<think>" think "</think>" WS? "<answer>" answer "</answer>" WS?
  think: TEXT
  answer: TEXT
  TEXT: /(?:[^<]+|<(?!\/?(?:think|answer)>))+/
  WS: /\s+/
"""
LIST = r"""
  start: "[" (item ("," item)*)? "]"
  item: WORD | start | "{" pair "}"
  pair: WORD ":" item
  WORD: /[a-z]+/
"""
VALID = "<think>6 * 7</think> <answer>42</answer>"

#: Completions that others pay in full, or nearly, and what each earns before the cap.
MALFORMED = {
    "": 0.0,
    "no tags": 0.0,
    "<think>a": 0.25,
    "<think>a</think>": 0.5,
    "<think>a</think><answer>4": 0.75,
    "well <think>a</think><answer>4</answer>": 0.84,
    "<think>a</think> so <answer>4</answer>": 0.84,
    "<think>a<think>b</think></think><answer>4</answer>": 0.69,
    "<think>a</think><answer>4</answer> and more": 0.99,
    "<think>a</think><answer>4</answer><answer>5</answer>": 0.99,
    "<think></think><answer>4</answer>": 0.84,
    "<answer>4</answer><think>a</think>": 0.35,
    "x <think>a<think>b</think></think><answer>4</answer>": 0.2,
}


# Grammars


@st.composite
def grammars(draw: st.DrawFn) -> str:
    """Small grammars over single letters; most of them fit LALR(1)."""
    rules = [f"r{i}" for i in range(draw(st.integers(1, 3)))]
    lines = []
    for i, name in enumerate(["start", *rules]):
        later = rules[i:] or ['"d"']
        symbol = st.sampled_from(['"a"', '"b"', '"c"', *later])
        item = st.tuples(symbol, st.sampled_from(["", "", "", "?", "*", "+"])).map("".join)
        sequence = st.lists(item, min_size=1, max_size=3).map(" ".join)
        lines.append(f"{name}: {' | '.join(draw(st.lists(sequence, min_size=1, max_size=2)))}")
    return "\n".join(lines)


@functools.cache
def earley(grammar: str, start: str = "start") -> Lark:
    return Lark(grammar, parser="earley", start=start)


def accepts(parser: Lark, text: str) -> bool:
    try:
        parser.parse(text)
    except UnexpectedInput:
        return False
    return True


def compiled(grammar: str) -> f.Format:
    try:
        return f.compile_lark("g", grammar)
    except f.FormatError:
        assume(False)
        raise AssertionError from None


@given(grammars(), st.lists(st.text("abcd", max_size=7), min_size=8, max_size=8))
def test_ok_iff_earley_accepts(grammar: str, texts: list[str]) -> None:
    fmt = compiled(grammar)
    for text in texts:
        assert fmt.match(text).ok == accepts(earley(grammar), text), (grammar, text)


STRINGS = ["".join(letters) for size in range(6) for letters in product("abcd", repeat=size)]


def valid_texts(fmt: f.Format, count: int) -> list[str]:
    """Up to `count` texts that fit, from the longest of up to five letters."""
    return list(islice((text for text in reversed(STRINGS) if fmt.match(text).ok), count))


@settings(max_examples=40)
@given(grammars())
def test_captures_parse_again_as_their_rule(grammar: str) -> None:
    fmt = compiled(grammar)
    for text in valid_texts(fmt, 5):
        for name, spans in fmt.match(text).captures.items():
            for span in spans:
                assert text[span.start : span.end] == span
                assert accepts(earley(grammar, name), span)


@settings(max_examples=40)
@given(grammars())
def test_credit_never_falls_along_the_prefixes_of_a_valid_text(grammar: str) -> None:
    fmt = compiled(grammar)
    for text in valid_texts(fmt, 10):
        prefixes = [fmt.match(text[:i], partial_max=1) for i in range(len(text) + 1)]
        partial = [match.credit for match in prefixes if not match.ok]
        assert all(a <= b for a, b in pairwise(partial)), (grammar, text, partial)
        assert all(0 <= match.credit < 1 for match in prefixes if not match.ok)


@pytest.mark.parametrize(("text", "credit"), MALFORMED.items())
def test_partial_credit(text: str, credit: float) -> None:
    match = f.compile_lark("r1", R1).match(text, partial_max=1)
    assert not match.ok
    assert match.credit == pytest.approx(credit)
    assert match.captures == {}
    assert match.at is not None and match.at.expected
    assert f.compile_lark("r1", R1).match(text).credit <= 0.5


@given(st.integers(0, len(VALID)))
def test_every_prefix_of_a_valid_text_earns_as_much_as_the_one_before(size: int) -> None:
    fmt = f.tags("think", "answer")
    assert fmt.match(VALID[:size]).credit <= fmt.match(VALID[: size + 1]).credit


@given(st.sampled_from([VALID, *MALFORMED]), st.integers(2, 50))
def test_credit_is_blind_to_the_length_of_free_text(text: str, times: int) -> None:
    fmt = f.compile_lark("r1", R1)
    longer = text
    for free in (">6 * 7<", ">a<", ">4<", ">42<", "and more", "well ", " so "):
        longer = longer.replace(free, free[0] + free[1:-1] * times + free[-1])
    assert fmt.match(longer, partial_max=1).credit == fmt.match(text, partial_max=1).credit


@given(any_text, any_text)
def test_captures_are_spans_of_the_text(think: str, answer: str) -> None:
    text = f"<think>{think}</think>\r\n<answer>\U0001d54f{answer}</answer>"
    match = f.compile_lark("r1", R1).match(text)
    if match.ok:
        found = match.capture("answer")
        assert found is not None
        assert text[found.start : found.end] == found == f"\U0001d54f{answer}"


def test_captures_come_in_order_and_the_last_by_default() -> None:
    match = f.compile_lark("list", LIST).match("[a,[b,c],{k:v}]")
    assert match.captures["item"] == ("a", "[b,c]", "b", "c", "{k:v}", "v")
    assert match.capture("item") == "v" and match.capture("item", 0) == "a"
    assert match.capture("item", 6) is None and match.capture("nothing") is None


def test_an_empty_rule_has_a_place_where_it_could_stand() -> None:
    match = f.compile_lark("e", 'start: "a" gap "b"\ngap: "x"*').match("ab")
    found = match.capture("gap")
    assert found == "" and found is not None and found.start == 1


def test_ignored_text_is_in_no_capture() -> None:
    grammar = 'start: a b\na: "x"+\nb: "y"+\n%ignore " "\n'
    fmt = f.compile_lark("i", grammar)
    assert [lint.code for lint in fmt.lints] == ["W20"]
    assert fmt.match(" x x  y ").captures == {"a": ("x x",), "b": ("y",)}


def test_a_prefilled_tag_is_part_of_the_text_but_not_of_its_offsets() -> None:
    fmt = f.compile_lark("r1", R1, prefix="<think>")
    match = fmt.match("6</think><answer>4</answer>")
    found = match.capture("think")
    assert match.ok and found is not None and (found, found.start) == ("6", 0)
    assert not fmt.match(VALID).ok
    failed = fmt.match("6</think>!").at
    assert failed is not None and (failed.offset, failed.column) == (9, 10)


def test_an_empty_part_does_not_stretch_the_rule_that_holds_it() -> None:
    fmt = f.compile_lark("e", 'start: "a" rule\nrule: gap "b"\ngap: "z"*\n%ignore " "')
    found = fmt.match("a  b").capture("rule")
    assert found == "b" and found is not None and found.start == 3


def test_keywords_win_over_names_as_in_lark() -> None:
    fmt = f.compile_lark("k", 'start: word | name\nword: "if"\nname: NAME\nNAME: /[a-z]+/')
    assert fmt.match("if").captures == {"word": ("if",)}
    assert fmt.match("iffy").captures == {"name": ("iffy",)}


def test_a_costly_branch_takes_nothing_back() -> None:
    fmt = f.compile_lark("b", 'start: "a" "x" | "a" "b" "c" "d" "e" "f"')
    credits = [fmt.match("abcdef"[:i], partial_max=1).credit for i in range(7)]
    assert credits == pytest.approx([0, 0.5, 0.5, 0.5, 4 / 6, 5 / 6, 1])


def test_the_failure_has_a_line_and_a_column() -> None:
    at = f.compile_lark("list", LIST).match("[a,\n").at
    assert at == f.Mismatch(3, 1, 4, ('"["', '"{"', "WORD"))
    at = f.compile_lark("r1", R1).match("<think>a\nb</think>\n<x>").at
    assert at == f.Mismatch(19, 3, 1, ('"<answer>"',))


# Tags


@pytest.mark.parametrize("text", [*MALFORMED, "<think> \n</think><answer>4</answer>"])
def test_tags_pay_no_malformed_text_in_full(text: str) -> None:
    assert f.tags("think", "answer").match(text).credit <= 0.5


_SHOWN = "".join(
    map(chr, [*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD])
)
_SHOWN += "".join(map(chr, range(0x13430, 0x13440)))  # hieroglyphs' joiners
#: White space and what has no picture; a few signs of Arabic and Syriac count as format, but show.
UNSEEN = [
    char
    for char in map(chr, range(0x110000))
    if char.isspace() or (unicodedata.category(char) == "Cf" and char not in _SHOWN)
]


@given(st.text(alphabet=UNSEEN))
def test_a_text_that_cannot_be_seen_fills_no_tag(blank: str) -> None:
    shape = f.tags("think", "answer")
    assert not shape.match(f"<think>{blank}</think><answer>4</answer>").ok
    assert shape.match(f"<think>{blank}x{blank}</think><answer>4</answer>").ok


@given(any_text)
def test_tags_let_any_text_stand_that_holds_none_of_them(text: str) -> None:
    assume(any(char not in UNSEEN and char.isprintable() for char in text) and "<" not in text)
    match = f.tags("a", "B_2").match(f"<a>{text}</a>\n<B_2>x < y</B_2>\n")
    assert match.captures == {"a": (text,), "B_2": ("x < y",)}


@pytest.mark.parametrize("names", [(), ("a", "a"), ("<",), ("a b", "b"), ("é",), ("start",)])
def test_tags_refuse_what_is_no_name(names: tuple[str, ...]) -> None:
    with pytest.raises(f.FormatError):
        f.tags(*names)


# JSON


SCHEMA = json.dumps(
    {
        "type": "object",
        "required": ["vendor", "total"],
        "properties": {
            "vendor": {"type": "string", "pattern": "^[a-z]+$"},
            "total": {"type": "number", "minimum": 0},
            "items": {"type": "array", "uniqueItems": True},
        },
    }
)


def test_json_captures_the_properties_of_a_valid_object() -> None:
    text = ' {"vendor": "acme", "total": 1.50, "items": [1, true, "1"]}\n'
    match = f.compile_json("invoice", SCHEMA).match(text)
    assert match.ok
    assert match.captures == {"vendor": ("acme",), "total": ("1.50",), "items": ('[1, true, "1"]',)}
    found = match.capture("total")
    assert found is not None and text[found.start : found.end] == "1.50"


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", '{"vendor": "\ud800", "total": 1}',
        '{"vendor": "acme", "total": 1, "total": 2}',
        '{"vendor": "a", "total": 1, "tota\\u006c": 1}',
        '{"vendor": "acme"}', '{"vendor": "A", "total": 1}',
        '{"vendor": "a", "total": NaN}', '{"vendor": "a", "total": -1}',
        '{"vendor": "a", "total": 1, "items": [1, 1.0]}', '{"vendor": "a", "total": 1} x',
        '{"vendor": "a", "total": ' + "9" * 5000 + "}", "[" * 100_000, '{"a":' * 50_000,
    ],
)  # fmt: skip
def test_json_that_does_not_fit_is_paid_in_part_at_most(text: str) -> None:
    match = f.compile_json("invoice", SCHEMA).match(text)
    assert not match.ok and match.credit <= 0.5 and match.captures == {}


def test_json_with_a_key_twice_says_which() -> None:
    match = f.compile_json("invoice", SCHEMA).match('{"vendor": "acme", "total": 1, "total": 2}')
    assert match.at is not None
    assert match.at.expected == ("each key once, not 'total' twice",)
    assert match.credit == 0


def test_json_pays_for_each_property_that_is_right() -> None:
    fmt = f.compile_json("invoice", SCHEMA)
    credits = [
        fmt.match(text, partial_max=1).credit
        for text in ("{}", '{"total": 1}', '{"vendor": "A", "total": 1}')
    ]
    assert credits == pytest.approx([0, 1 / 3, 1 / 3])


@pytest.mark.parametrize(
    "schema",
    [
        "{", '{"type": "objekt"}', '{"$ref": "https://example.org/s.json"}', '{"pattern": "(?=a)"}',
        '{"patternProperties": {"(a+)+\\\\1": {}}}', "[" * 5000,
    ],
)  # fmt: skip
def test_schemas_that_reach_out_or_backtrack_are_refused(schema: str) -> None:
    with pytest.raises(f.FormatError):
        f.compile_json("s", schema)


def test_patterns_in_a_schema_run_in_linear_time() -> None:
    text = json.dumps({"a" * 40: "a" * 40 + "!"})
    for schema in ({"additionalProperties": {"pattern": "^(a+)+$"}},
                   {"patternProperties": {"^(a+)+b$": False}, "maxProperties": 0}):  # fmt: skip
        assert not f.compile_json("s", json.dumps(schema)).match(text).ok


def test_a_schema_that_refers_to_itself_asks_for_a_deadline() -> None:
    assert f.compile_json("s", '{"items": {"$ref": "#"}}').needs_deadline
    assert not f.compile_json("s", SCHEMA).needs_deadline


# Patterns


def test_patterns_match_the_whole_text_and_capture_groups() -> None:
    fmt = f.compile_regex("r", r"(?P<a>\d+)(-(?P<b>.*))?", "s")
    match = fmt.match("12-\U0001f600\n")
    found = match.capture("b")
    assert found == "\U0001f600\n" and found is not None and found.start == 3
    assert fmt.match("12").captures == {"a": ("12",)}
    assert not fmt.match("12 ").ok and not fmt.match("x12").ok


@pytest.mark.parametrize(
    ("pattern", "flags"), [("(", ""), ("a(?=b)", ""), (r"(a)\1", ""), ("a", "z")]
)
def test_patterns_that_are_not_linear_are_refused(pattern: str, flags: str) -> None:
    with pytest.raises(f.FormatError):
        f.compile_regex("r", pattern, flags)


# Earley, by choice


def test_earley_reads_an_ambiguous_grammar() -> None:
    grammar = 'start: e\ne: e "+" e | /[0-9]/'
    with pytest.raises(f.FormatError, match="conflict"):
        f.compile_lark("e", grammar)
    fmt = f.compile_lark("e", grammar, engine="earley")
    assert fmt.needs_deadline and fmt.match("1+2+3").ok and not fmt.match("1+").ok
    assert fmt.match("1" * (MAX_EARLEY_CHARS + 1)).status == Status.TOO_LARGE


# What an author may get wrong


@pytest.mark.parametrize(
    ("grammar", "message", "offset"),
    [
        ("start: foo", "foo", 0),
        ('start: "a" )', "parse", 11),
        ("", "start", 0),
        ("start: A | B\nA: /a+/\nB: /[ab]+/", "Collision", 13),
        ('start: a a\na: "x"?', "conflict", None),
        ('start: "a"\n%import .secrets.KEY', "imports", 11),
        ("%import os.path\nstart: PATH", "imports", 0),
        ("start: /(a|b)*a(a|b){20}/", "costly", 7),
        ('start: "a"~100000', "repeats", 10),
        ("start: /(/", "regular expression", 7),
        ("start: " + "x" * MAX_GRAMMAR_CHARS, "characters", 0),
        ("start: r0\n" + "\n".join(f'r{i}: "a" r{i + 1}' for i in range(900)), "rules", 0),
    ],
)
def test_a_grammar_that_cannot_be_used_says_where(
    grammar: str, message: str, offset: int | None
) -> None:
    with pytest.raises(f.FormatError, match=message) as caught:
        f.compile_lark("g", grammar)
    assert offset is None or caught.value.offset == offset
    assert 0 <= caught.value.offset <= len(grammar)


@given(st.one_of(any_text, st.text('start:|"ab/()[]?*+~%import common.WS\n', max_size=60)))
def test_any_grammar_compiles_or_says_what_is_wrong(grammar: str) -> None:
    for engine in ("lalr", "earley"):
        try:
            f.compile_lark("g", grammar, engine=engine).match("ab")
        except f.FormatError as error:
            assert 0 <= error.offset <= len(grammar)


def test_the_library_of_lark_may_be_imported() -> None:
    fmt = f.compile_lark("c", "start: INT WS INT\n%import common (INT, WS)")
    assert fmt.match("1 2").ok


@pytest.mark.parametrize(
    ("terminal", "code"),
    [
        (r"/(\w+\s?)+(?=<)/", "W21"),
        (r"/(a+)+b/", "W21"),
        (r"/\s*\s*x/", "W21"),
        (r"/.+?/", "W22"),
        (r"/.+/s", "W22"),
        (r"/[\s\S]+/", "W22"),
    ],
)
def test_terminals_that_backtrack_or_swallow_are_reported(terminal: str, code: str) -> None:
    fmt = f.compile_lark("g", f'start: T "<"\nT: {terminal}')
    assert code in [lint.code for lint in fmt.lints]
    assert code != "W21" or fmt.needs_deadline


@pytest.mark.parametrize("grammar", [R1, LIST, 'start: STRING\nSTRING: /"[^"]*"/'])
def test_sound_grammars_need_no_deadline_and_have_no_lints(grammar: str) -> None:
    fmt = f.compile_lark("g", grammar)
    assert not fmt.needs_deadline and fmt.lints == ()


def test_a_terminal_that_is_tried_again_and_again_asks_for_a_deadline() -> None:
    assert f.compile_lark("g", 'start: (A | "a")+\nA: /a*b/').needs_deadline


@pytest.mark.parametrize(
    "regexp",
    [
        r"(\w+\s?)+(?=<)", r"(a+)+b", r"(x+x+)+y", r"(?:(?:a+)+x)*",
        r"(a|a)*b", r"(a|b|ab)*c", r"(ab?b?)*c",
    ],
)  # fmt: skip
def test_nested_repeats_that_can_fail_are_exponential(regexp: str) -> None:
    assert regex_cost.cost(regexp) is regex_cost.Cost.EXPONENTIAL


@pytest.mark.parametrize(
    "regexp",
    [
        r"(?:[^<]+|<(?!\/?t>))+",
        r'"(?:[^"\\]|\\.)*"',
        r"(?:[a-z]+,)*x",
        r"\d+(?:\.\d+)?",
        r".*x",
        "a*a*a*",
    ],
)
def test_repeats_that_cannot_share_are_linear(regexp: str) -> None:
    assert regex_cost.cost(regexp) is regex_cost.Cost.LINEAR


# Hostile texts


FORMATS = [
    f.compile_lark("r1", R1),
    f.compile_lark("list", LIST),
    f.compile_lark("e", R1, engine="earley"),
    f.tags("think", "answer"),
    f.compile_json("invoice", SCHEMA),
    f.compile_regex("r", "(?P<a>.*)b"),
]
PIECES = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    '"',
    "\0",
    " ",
]


@given(st.lists(st.one_of(st.sampled_from(PIECES), any_text), max_size=12).map("".join))
def test_no_text_raises_and_partial_credit_stays_under_its_cap(text: str) -> None:
    for fmt in FORMATS:
        match = fmt.match(text, partial_max=0.4)
        assert match.credit == 1 if match.ok else 0 <= match.credit <= 0.4
        assert match.ok == (match.at is None)
        assert match.at is None or 0 <= match.at.offset <= len(text)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000, "<think>" * 100_000, "<" * 400_000, "{a:" * 100_000, " " * 500_000,
        "<think>" + "<thin" * 100_000, "[a," * 100_000, "</think>" * 100_000, "[" + "a," * 100_000,
    ],
)  # fmt: skip
def test_long_hostile_texts_take_linear_time(text: str) -> None:
    half = text[: len(text) // 2]
    for fmt in FORMATS:
        if not fmt.needs_deadline:
            fmt.match(half[:100])
            short, long = _seconds(fmt, half), _seconds(fmt, text)
            assert long < 3 * short + 0.2, fmt.name


def _seconds(fmt: f.Format, text: str) -> float:
    """Of this process, without collections of garbage, which cost what other tests left."""
    return timeit.timeit(lambda: fmt.match(text), timer=time.process_time, number=1)


def test_json_over_the_limit_is_too_large() -> None:
    match = f.compile_json("invoice", SCHEMA).match(" " * (MAX_JSON_CHARS + 1))
    assert match.status == Status.TOO_LARGE and match.credit == 0


# Formats as values


def test_formats_are_values() -> None:
    for fmt in FORMATS:
        again = pickle.loads(pickle.dumps(fmt))
        assert again == fmt and hash(again) == hash(fmt) and again.identity == fmt.identity
        assert again.match(VALID) == fmt.match(VALID)
    assert len({fmt.identity for fmt in FORMATS}) == len(FORMATS)
    assert f.compile_lark("other", R1).identity == FORMATS[0].identity
    error = pickle.loads(pickle.dumps(f.FormatError("m", 3, "h")))
    assert (error.message, error.offset, error.hint) == ("m", 3, "h")
