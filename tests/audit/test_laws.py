"""The laws: each holds for sound rulesets, and breaks for a reward that breaks it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

import grpo_rewards as gr
from grpo_rewards import testing
from grpo_rewards.audit import laws
from grpo_rewards.types import Interval

R1 = gr.load(ROOT / "rulesets" / "r1_zero.reward", workers=0)
COMPETITION = gr.load(ROOT / "rulesets" / "competition.reward", workers=0)
LENGTHS = gr.loads("input completion: chat\nreward = text.length(completion)", workers=0)
GROUPS = gr.loads(
    "input completion: chat\nreward = group.zscore(text.length(completion)) ?? 0", workers=0
)
ROWS = [{"completion": "x" * n, "group": n // 3} for n in range(9)]
SCORING = [law for name, law in laws.LAWS.items() if "pays" not in name and "spawn" not in name]


def _tampered(scorer: gr.Scorer, change: Any) -> gr.Scorer:
    """A copy of a scorer whose reward is changed after the fact: `change(reward, texts)`."""

    class Tampered(type(scorer)):
        def execute(self, plan: Any, columns: Any, **options: Any) -> Any:
            execution = super().execute(plan, columns, **options)
            texts = [str(text) for text in columns["completion"]]
            run = execution.run

            class Run:
                memo = execution.memo

                def run(self) -> Any:
                    found = run()
                    if "reward" in found:
                        values = change(found["reward"].values.copy(), texts)
                        old = found["reward"]
                        found["reward"] = gr.Column(values, old.present, old.status)
                    return found

            return Run()

    return Tampered(scorer._parsed, workers=0)


COUNTER = itertools.count()
BREAKS = {
    "in_range": lambda reward, texts: -1 - reward,
    "deterministic": lambda reward, texts: reward + next(COUNTER),
    "alone_as_in_a_batch": lambda reward, texts: reward + len(texts),
    "rows_permute": lambda reward, texts: reward + np.arange(len(texts)),
    "group_members_permute": lambda reward, texts: reward + np.arange(len(texts)),
    "groups_split": lambda reward, texts: reward + len(texts),
}


@pytest.mark.parametrize("law", SCORING, ids=lambda law: law.name)
@pytest.mark.parametrize("scorer", [LENGTHS, GROUPS], ids=["rows", "groups"])
def test_a_law_holds_for_a_sound_ruleset(scorer: gr.Scorer, law: laws.Law) -> None:
    law.function(scorer, ROWS)


@pytest.mark.parametrize("name", BREAKS)
def test_a_law_breaks_for_the_reward_that_breaks_it(name: str) -> None:
    scorer = _tampered(LENGTHS, BREAKS[name])
    with pytest.raises(testing.LawBroken, match=f"^{name}: ") as raised:
        laws.LAWS[name].function(scorer, ROWS)
    assert raised.value.rows and "completion" in raised.value.rows[raised.value.row]


def test_every_law_of_scoring_has_a_reward_that_breaks_it() -> None:
    assert set(BREAKS) == {law.name for law in SCORING}


def test_a_value_outside_its_range_is_named_with_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = gr.loads("input completion: chat\nreward = text.length(completion)", workers=0)
    monkeypatch.setitem(scorer.graph.ranges, "reward", Interval(0, 3))
    testing.in_range(scorer, ROWS[:4])
    with pytest.raises(testing.LawBroken, match=r"reward = 4\.0, outside 0\.\.3") as raised:
        testing.in_range(scorer, ROWS)
    assert raised.value.completion == "xxxx"


@gr.rule(range=(0, 1))
def fragile(text: str) -> float:
    if "!" in text:
        raise ValueError("an exclamation mark")
    return 1.0


def test_a_rule_that_raises_breaks_a_law() -> None:
    scorer = gr.compile(reward=fragile(gr.completion), workers=0)
    with pytest.raises(testing.LawBroken, match=r"no_text_raises.*an exclamation mark") as raised:
        testing.in_range(scorer, [{"completion": "fine"}, {"completion": "oh!"}])
    assert raised.value.completion == "oh!"


# What is paid for

RIGHT = "<think>6 times 7, and so we are done with it.</think><answer>42</answer>"


@pytest.mark.parametrize(
    ("completion", "gold", "complete"),
    [
        (RIGHT, "42", True),
        (RIGHT, "41", False),  # a wrong answer
        (RIGHT, "see figure", False),  # a gold that cannot be read
        (RIGHT + " junk", "42", False),  # not in form
        ("<think>42", "42", False),
        ("", "42", False),
    ],
)
def test_complete_is_right_and_in_form(completion: str, gold: str, complete: bool) -> None:
    row = {"completion": completion, "gold": gold, "lang": "en"}
    assert testing.is_complete(R1, row) is complete


def test_a_record_that_is_partly_right_is_not_complete() -> None:
    with gr.load(ROOT / "rulesets" / "json_extract.reward") as scorer:
        gold = '{"name": "Ada", "date": "1843-09-01", "total": 12.5}'
        row = {"completion": gold, "gold": gold}
        assert testing.is_complete(scorer, row)
        fenced = f"<think>So.</think>```json\n{gold}\n```"
        assert testing.is_complete(scorer, {**row, "completion": fenced})
        partly = gold.replace("12.5", "13")
        assert not testing.is_complete(scorer, {**row, "completion": partly})


def test_what_was_cut_is_never_complete() -> None:
    row = {"completion": "\\boxed{42}", "gold": "42", "n_tokens": 9, "truncated": False}
    assert testing.is_complete(COMPETITION, row)
    assert not testing.is_complete(COMPETITION, {**row, "truncated": True})


SUMS = "input completion: chat\ninput gold: text\nscore c = math.equal({}, gold)\nreward = c{}"
BOXED, TAIL = "extract.boxed(completion)", " + 0.1 * min(text.length(completion), 1000)"


def test_pay_for_length_breaks_the_laws_of_paying() -> None:
    row = {"completion": "\\boxed{42}", "gold": "42"}
    sound = gr.loads(SUMS.format(BOXED, ""), workers=0)
    assert testing.appending_never_pays(sound, row, "x", "\\boxed{41}")
    assert testing.second_answer_never_pays(sound, row, "41")
    weak = gr.loads(SUMS.format(BOXED, TAIL), workers=0)
    with pytest.raises(testing.LawBroken, match=r"raises the reward from 2 to 2\.1"):
        testing.appending_never_pays(weak, row, "x")
    with pytest.raises(testing.LawBroken, match="a second answer raises the reward"):
        testing.second_answer_never_pays(weak, row, "41")


def test_a_right_answer_out_of_form_is_not_complete_so_text_that_mends_the_form_may_pay() -> None:
    formed = gr.loads(
        'format ended = re".* end"\n' + SUMS.format(BOXED, " + 0.5 * match(ended, completion).ok"),
        workers=0,
    )
    row = {"completion": "\\boxed{42}", "gold": "42"}
    assert not testing.is_complete(formed, row)
    assert testing.appending_never_pays(formed, row, " end") is False
    assert testing.is_complete(formed, {**row, "completion": "\\boxed{42} end"})


def test_the_laws_of_paying_are_silent_about_what_is_not_complete() -> None:
    weak = gr.loads(SUMS.format(BOXED, TAIL), workers=0)
    row = {"completion": "\\boxed{41}", "gold": "42"}
    assert testing.appending_never_pays(weak, row, "x") is False
    assert testing.second_answer_never_pays(LENGTHS, {"completion": "42"}, "41") is False


# Other processes


def test_a_scorer_scores_the_same_in_a_spawned_process() -> None:
    testing.spawns_the_same(GROUPS, [*ROWS, {"completion": "\ud800\x00", "group": 9}])


def test_a_rule_that_cannot_travel_breaks_the_law() -> None:
    @gr.rule(range=(0, 1))
    def local(text: str) -> float:
        return 1.0

    scorer = gr.compile(reward=local(gr.completion), workers=0)
    with pytest.raises(testing.LawBroken, match="does not pickle"):
        testing.spawns_the_same(scorer, ROWS)


# Strategies


@settings(max_examples=40)
@given(st.data())
def test_batches_score_and_groups_share_their_prompt(data: st.DataObject) -> None:
    scorer = data.draw(st.sampled_from([R1, COMPETITION]))
    batch = data.draw(testing.batches(scorer))
    testing.in_range(scorer, batch)
    for _, members in itertools.groupby(batch, key=lambda row: row["group"]):
        assert len({(row["gold"], row.get("lang")) for row in members}) == 1


@pytest.mark.parametrize(
    "form",
    [
        gr.tags_format("f", "think", "answer"),
        gr.json_format("f", '{"type": "object", "required": ["a"], "properties": {"a": {}}}'),
        gr.regex_format("f", r"a(?P<b>\d+)c"),
        gr.lark_format("f", 'start: "<" b ">"\nb: /[a-z]+/'),
    ],
    ids=["tags", "json", "re", "lark"],
)
def test_what_a_format_produces_often_fits_it(form: Any) -> None:
    scorer = gr.compile(reward=gr.match(form, gr.completion).ok, workers=0)
    (found,) = testing.formats_of(scorer)
    texts = testing.planted(found, st.just("abc"))
    assert find(texts, lambda text: found.match(text).ok) is not None


def test_completions_hold_answers_tags_mutants_and_anything() -> None:
    texts: list[str] = []

    @settings(max_examples=300, database=None, phases=[Phase.generate])
    @given(testing.completions(R1, gold="42"))
    def draw(text: str) -> None:
        texts.append(text)

    draw()
    count = len(texts)
    assert (R1(completion=texts, gold=["42"] * count, lang=["en"] * count).reward >= 1).any()
    assert len(set(texts)) > 100
    assert not all(text.isascii() for text in texts)


@settings(max_examples=50)
@given(testing.mutated(st.just("<a>x</a>"), ["junk"]))
def test_mutations_stay_bounded(text: str) -> None:
    assert len(text) <= 20_000


def test_rows_of_a_dataset_are_among_the_seeds() -> None:
    seeds = [{"completion": "from the data", "gold": "77", "lang": "en"}]
    row = find(testing.rows(R1, seeds), lambda row: row["completion"] == "from the data")
    assert set(row) == set(R1.inputs)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "hypothesis", None)
    monkeypatch.delitem(sys.modules, "grpo_rewards.testing")
    monkeypatch.delitem(sys.modules, "grpo_rewards.testing.strategies")
    with pytest.raises(gr.RewardError, match=r'pip install "grpo-rewards\[testing\]"'):
        importlib.import_module("grpo_rewards.testing")


def test_public_names_are_sorted_and_there() -> None:
    assert testing.__all__ == sorted(testing.__all__, key=str)
    assert all(hasattr(testing, name) for name in testing.__all__)
