"""A ruleset in other people's trainers gives what it gives at home."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import json
import math
import pickle
import runpy
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT

import grpo_rewards as gr
from grpo_rewards.adapters.openrlhf import OpenRLHFReward
from grpo_rewards.adapters.registry import ADAPTERS

EXAMPLES = ROOT / "examples" / "adapters"
GROUPED = """ruleset grouped "Right, and shorter than the others"
input completion: chat
input gold: text
score correct = math.equal(extract.boxed(completion), gold)
score brief = group.rank(-text.length(completion))
reward = correct + 0.1 * brief
"""
TEXTS = ["so 9\n#### 9", "#### 8", "", "#### 9\n#### 10", "\ud800 #### 9", "#### \x00", "9" * 5000]


def gsm8k() -> gr.Scorer:
    return gr.load(ROOT / "rulesets" / "gsm8k.reward")


def needs(package: str) -> Any:
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} is not installed"
    )


def test_every_example_is_short() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text("utf-8").splitlines()) <= 15, path.name


def test_the_page_tells_of_every_adapter_in_the_list_and_a_scorer_has_no_other() -> None:
    page = (ROOT / "docs" / "adapters.md").read_text("utf-8")
    for backend, method, null, groups in ADAPTERS:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {backend} | ")]
        assert f"`scorer.{method.__name__}()`" in row and row.endswith(f"| {null} | {groups} |")
    offered = {name for name in dir(gr.Scorer) if name.startswith("as_")}
    assert offered == {adapter.method.__name__ for adapter in ADAPTERS}


# -- TRL ------------------------------------------------------------------------------------------


def test_trl_rewards_are_the_scores_on_plain_and_chat_completions() -> None:
    scorer = gsm8k()
    golds: list[str | None] = ["9"] * len(TEXTS)
    home = scorer(completion=TEXTS, gold=golds)
    reward = scorer.as_trl()
    chats = [[{"role": "assistant", "content": text}] for text in TEXTS]
    for completions in (TEXTS, chats):
        found = reward(prompts=["p"] * len(TEXTS), completions=completions, answer=golds)
        assert found == home.reward.tolist()


def test_trl_hands_on_null_as_none_in_every_function() -> None:
    reward = gsm8k().as_trl()
    completions = ["#### 9", "#### 9"]
    columns = {"prompts": ["p", "q"], "completions": completions, "gold": ["9", None]}
    values = {func.__name__: func(**columns) for func in reward.funcs}
    assert values == {"reward": [1.0, None], "correct": [1.0, None], "answered": [1.0, None]}
    assert reward.weights == [1.0, 0.0, 0.0]


def test_trl_functions_share_one_scoring_and_survive_pickling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reward = gsm8k().as_trl()
    funcs = pickle.loads(pickle.dumps(reward.funcs))
    assert [func.__name__ for func in funcs] == ["reward", "correct", "answered"]
    calls: list[int] = []
    score = gr.Scorer.__call__
    monkeypatch.setattr(gr.Scorer, "__call__", lambda s, **c: calls.append(1) or score(s, **c))
    batch = ["#### 9"]
    assert [func(prompts=["p"], completions=batch, gold=["9"]) for func in funcs] == [[1.0]] * 3
    assert len(calls) == 1
    funcs[0](prompts=["p"], completions=["#### 9"], gold=["9"])
    assert len(calls) == 2


def test_trl_logs_named_scores_of_a_lone_function() -> None:
    logged: dict[str, float] = {}
    gsm8k().as_trl()(["p", "q"], ["#### 9", "8"], gold=["9", "8"], log_metric=logged.__setitem__)
    assert logged == {"score/correct": 0.5, "score/answered": 0.5}


def test_trl_groups_follow_its_batches_and_a_cut_group_is_refused() -> None:
    with gr.loads(GROUPED) as scorer:
        with pytest.raises(gr.BatchError, match="num_generations=8"):
            scorer.as_trl()
        reward = scorer.as_trl(num_generations=2)
        texts = [r"\boxed{1}", r"so \boxed{1}", r"\boxed{1}", r"it is \boxed{1}"]
        prompts = ["same", "same", "same", "same"]  # twice in the data: two groups, not one
        found = reward(prompts=prompts, completions=texts, gold=["1"] * 4)
        home = scorer(completion=texts, gold=["1"] * 4, group=[0, 0, 1, 1])
        assert found == home.reward.tolist()
        for cut in (["a", "a", "a"], ["a", "b", "b", "a"]):
            with pytest.raises(gr.BatchError, match="not one group of 2"):
                reward(prompts=cut, completions=texts[: len(cut)], gold=["1"] * len(cut))


def test_trl_tells_what_only_it_knows() -> None:
    text = "input completion: chat\nreward = truncated + n_tokens / 100 + step / 1000"
    with gr.loads(text) as scorer:
        with pytest.raises(gr.BatchError, match="eos_token_id"):
            scorer.as_trl()
        state = SimpleNamespace(global_step=3, max_steps=10)
        found = scorer.as_trl(eos_token_id=2)(
            ["p", "p"], ["a", "b"], completion_ids=[[5, 2], [5, 5, 5]], trainer_state=state
        )
    assert found == pytest.approx([0.02 + 0.003, 1.03 + 0.003])


@needs("trl")
def test_trl_trains_with_a_ruleset_and_its_rewards_are_the_offline_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grpo_train.demo import TinyConfig, make_tiny

    make_tiny(TinyConfig(hidden=48, layers=2, warm_steps=40, warm_batch=8, train=24), tmp_path, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl import GRPOTrainer
    seen: list[tuple[list[Any], list[Any], list[str], dict[str, list[float]]]] = []
    calculate = GRPOTrainer._calculate_rewards

    def watched(self: Any, inputs: Any, prompts: Any, completions: Any, ids: Any) -> Any:
        found = calculate(self, inputs, prompts, completions, ids)
        columns = dict(zip(self.reward_func_names, found.T.tolist(), strict=True))
        seen.append((prompts, completions, [row["gold"] for row in inputs], columns))
        return found

    monkeypatch.setattr(GRPOTrainer, "_calculate_rewards", watched)
    monkeypatch.setattr(
        sys, "argv", ["x", str(tmp_path / "start"), str(tmp_path / "train.jsonl"), str(tmp_path)]
    )
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(ROOT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_path(str(EXAMPLES / "trl_train.py"), run_name="__main__")
    assert len(seen) == 5
    with gr.load(ROOT / "rulesets" / "arithmetic.reward") as scorer:
        for _, completions, golds, columns in seen:
            home = scorer(completion=completions, gold=golds)
            assert columns["reward"] == pytest.approx(home.reward.tolist())
            for name in scorer.names:
                assert columns[name] == pytest.approx(home[name].astype(float).tolist())
    rewards = [value for *_, columns in seen for value in columns["reward"]]
    assert len(set(rewards)) > 1, "a test of zeros alone says little"


SUM = """input completion: chat
param w: num in 0..1 = 0.3
score a = text.contains(completion, "x")
score b = text.length(completion)
score c = text.words(completion)
score d = text.contains(completion, "y")
"""


@pytest.mark.parametrize(
    ("reward", "weights"),
    [
        ("0.5 * a - w * b + c / 4 - -c", [0.5, -0.3, 1.25, 0.0]),
        ("a", [1.0, 0.0, 0.0, 0.0]),
        ("2 * (a - (b + a * 3))", [-4.0, -2.0, 0.0, 0.0]),
        ("a * b", None),
        ("a + 1", None),
        ("max(a, b)", None),
        ("a / b", None),
    ],
)
def test_trl_gets_the_scores_with_their_weights_where_the_reward_is_a_sum(
    reward: str, weights: list[float] | None
) -> None:
    with gr.loads(f"{SUM}reward = {reward}") as scorer:
        if weights is None:
            with pytest.raises(gr.BatchError, match="not a weighted sum"):
                scorer.as_trl(split=True)
            return
        split = scorer.as_trl(split=True)
        assert split.weights == pytest.approx(weights)
        batch = ["x y", "", "a\nb x"]
        values = [func(["p"] * 3, batch) for func in split.funcs]
        total = [
            sum(w * v for w, v in zip(weights, row, strict=True))
            for row in zip(*values, strict=True)
        ]
        assert total == pytest.approx(scorer(completion=batch).reward.tolist())


@needs("trl")
def test_trl_async_worker_scores_groups_with_the_pickled_reward() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from accelerate import PartialState
        from trl.experimental.async_grpo.async_rollout_worker import RolloutGroup, _AsyncRolloutLoop

        PartialState()  # its logger asks for one
    texts = ["#### 9", "#### 8", "#### 9"]
    known: dict[str, Any] = dict.fromkeys([f.name for f in dataclasses.fields(RolloutGroup)])
    known |= {
        "prompts": ["p"] * 3, "completions": texts, "completions_ids": [[1], [1], [1]],
        "reward_kwargs": {"gold": ["9"] * 3}, "completions_sequences": [[], [], []],
        "tool_call_counts": [0] * 3, "tool_failure_counts": [0] * 3,
    }  # fmt: skip
    reward = pickle.loads(pickle.dumps(gsm8k().as_trl()))
    seen: list[Any] = []

    def watched(**columns: Any) -> Any:
        seen.append(reward(**columns))
        return seen[-1]

    worker = SimpleNamespace(
        reward_funcs=[watched], reward_func_names=["reward"], _env_reward_types=[],
        _provides_rollout_reward=False,
    )  # fmt: skip
    asyncio.run(_AsyncRolloutLoop._score_group(worker, RolloutGroup(**known)))
    assert seen == [[1.0, 0.0, 1.0]]


# -- verl, OpenRLHF -------------------------------------------------------------------------------


def test_verl_rows_and_batches_score_as_at_home() -> None:
    scorer = gsm8k()
    reward = runpy.run_path(str(EXAMPLES / "verl_reward.py"))["compute_score"]
    golds = ["9"] * len(TEXTS)
    home = scorer(completion=TEXTS, gold=golds).reward.tolist()
    decoy = {"answer": "#### 7", "index": 0}  # what the ruleset would read, were it not the gold
    batch = reward(
        data_sources=["gsm8k"] * len(TEXTS), solution_strs=TEXTS, ground_truths=golds,
        extra_infos=[decoy] * len(TEXTS), reward_router_address=None,
    )  # fmt: skip
    assert [row["score"] for row in batch] == home
    rows = [reward("gsm8k", text, "9", decoy) for text in TEXTS]
    assert rows == batch
    assert set(rows[0]) == {"score", "correct", "answered"}


def test_verl_null_is_what_was_asked_for_and_named_scores_are_nan() -> None:
    row = gsm8k().as_verl(on_null=-5.0)("gsm8k", "#### 9", None)
    assert row["score"] == -5.0
    assert math.isnan(row["correct"])


def test_verl_takes_groups_in_batches_with_an_id_only() -> None:
    with gr.loads(GROUPED) as scorer:
        with pytest.raises(gr.BatchError, match='group="index"'):
            scorer.as_verl()
        reward = scorer.as_verl(group="index")
        texts = [r"\boxed{1}", r"so \boxed{1}"]
        infos = [{"index": 7}, {"index": 7}]
        rows = reward(solution_strs=texts, ground_truths=["1", "1"], extra_infos=infos)
        home = scorer(completion=texts, gold=["1", "1"], group=[7, 7])
        assert [row["score"] for row in rows] == home.reward.tolist()
        with pytest.raises(gr.BatchError, match="batch reward manager"):
            reward("d", texts[0], "1", infos[0])
        with pytest.raises(gr.BatchError, match="no `index`"):
            reward(solution_strs=texts, ground_truths=["1", "1"], extra_infos=[{}, {}])


def test_openrlhf_reads_the_completion_out_of_the_query() -> None:
    torch = pytest.importorskip("torch")
    reward = runpy.run_path(str(EXAMPLES / "openrlhf_reward.py"))["reward_func"]
    prompt = "<|im_start|>user\nWhat? #### 9<|im_end|>\n<|im_start|>assistant\n"
    queries = [prompt + "#### 9<|im_end|>\n", "<s>" + prompt + "#### 8</s>", prompt]
    found = reward(queries, [prompt] * 3, ["9"] * 3)
    assert torch.equal(found["rewards"], torch.tensor([1.0, 0.0, 0.0]))
    assert torch.equal(found["scores"], found["rewards"])
    assert torch.equal(found["extra_logs"]["answered"], torch.tensor([1.0, 1.0, 0.0]))
    with pytest.raises(gr.BatchError, match="does not hold its prompt"):
        reward(["other"], [prompt], ["9"])
    with gr.loads("input completion: chat\nreward = text.length(completion)") as scorer:
        found = scorer.as_openrlhf().lists(["pabc</s>\n<|im_end|>", "p</s>x"], ["p", "p"], [0, 0])
    assert found["rewards"] == [3.0, 5.0]


@pytest.mark.parametrize("adapter", ["as_openrlhf", "as_lm_eval", "as_map", "as_inspect"])
def test_backends_of_single_rows_refuse_group_rulesets_at_start(adapter: str) -> None:
    with (
        gr.loads(GROUPED) as scorer,
        pytest.raises(gr.BatchError, match=r"whole groups(?s:.)*hint: "),
    ):
        getattr(scorer, adapter)()


def test_backends_refuse_at_start_what_they_cannot_know() -> None:
    with gr.loads("input completion: chat\nreward = 0 * truncated") as scorer:
        for adapter in (scorer.as_verl, scorer.as_openrlhf):
            with pytest.raises(gr.BatchError, match="reads `truncated`"):
                adapter()


# -- verifiers, datasets, harnesses ---------------------------------------------------------------


def test_verifiers_functions_are_named_weighted_and_without_null() -> None:
    scorer = gsm8k()
    adapter = scorer.as_verifiers()
    values = {
        func.__name__: func(prompt="p", completion="#### 9", answer="9", info={})
        for func in adapter.funcs
    }
    assert values == {"reward": 1.0, "correct": 1.0, "answered": 1.0}
    assert adapter.weights == [1.0, 0.0, 0.0]
    assert adapter.funcs[0](prompt="p", completion="#### 9", answer=None, info=None) == 0.0


def test_verifiers_calls_group_rulesets_with_whole_groups() -> None:
    with gr.loads(GROUPED) as scorer:
        texts = [r"\boxed{1}", r"so \boxed{1}"]
        func = scorer.as_verifiers().funcs[0]
        found = func(prompts=["p"] * 2, completions=texts, answers=["1"] * 2, infos=[{}, {}])
        assert found == scorer(completion=texts, gold=["1"] * 2, group=[0, 0]).reward.tolist()


def test_verifiers_reads_a_v1_trace() -> None:
    adapter = gsm8k().as_verifiers()
    task = SimpleNamespace(model_dump=lambda: {"prompt": "p", "answer": "9"})
    trace = SimpleNamespace(last_reply="#### 9")
    assert adapter.task_reward(task, trace) == 1.0
    assert adapter.task_metrics(task, trace) == {"correct": 1.0, "answered": 1.0}


@needs("datasets")
def test_datasets_map_adds_the_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.jsonl"
    texts = [text for text in TEXTS if "\ud800" not in text]  # Arrow holds UTF-8 only
    rows = [{"completion": text, "gold": "9"} for text in texts]
    data.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    monkeypatch.setattr(sys, "argv", ["x", str(data)])
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(EXAMPLES / "datasets_map.py"), run_name="__main__")
    home = gsm8k()(completion=texts, gold=["9"] * len(texts))
    printed = capsys.readouterr().out
    assert "'correct', 'answered', 'reward'" in printed
    assert printed.strip().endswith(f" {home.reward.sum():.0f}")


@needs("datasets")
def test_datasets_map_scores_whole_groups_at_once() -> None:
    from datasets import Dataset

    with gr.loads(GROUPED) as scorer:
        texts = [r"\boxed{1}", r"so \boxed{1}"] * 3
        rows = Dataset.from_dict({"completion": texts, "gold": ["1"] * 6, "id": [0, 1, 2] * 2})
        scored = rows.map(scorer.as_map(group="id"), batched=True, batch_size=None)
        home = scorer(completion=texts, gold=["1"] * 6, group=[0, 1, 2] * 2)
        assert list(scored["reward"]) == home.reward.tolist()


def test_lm_eval_gets_a_number_a_name() -> None:
    function = runpy.run_path(str(EXAMPLES / "lm_eval_task.py"))["process_results"]
    assert function({"question": "?", "answer": "9"}, ["#### 9"]) == {
        "reward": 1.0, "correct": 1.0, "answered": 1.0,
    }  # fmt: skip
    assert function({"question": "?", "answer": None}, ["#### 9"]) == {"answered": 1.0}


def test_a_pickled_adapter_scores_in_a_spawned_process(tmp_path: Path) -> None:
    path = tmp_path / "reward.pickle"
    path.write_bytes(pickle.dumps([gsm8k().as_trl(), gsm8k().as_verl(), OpenRLHFReward(gsm8k())]))
    code = (
        "import pickle, sys; trl, verl, orlhf = pickle.load(open(sys.argv[1], 'rb'));"
        "print(trl(['p'], ['#### 9'], gold=['9']), verl('d', '#### 9', '9')['score'],"
        "orlhf.lists(['p#### 9'], ['p'], ['9'])['rewards'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[1.0] 1.0 [1.0]"


@needs("inspect_ai")
def test_inspect_scores_a_sample() -> None:
    from inspect_ai.scorer import Target

    state = SimpleNamespace(metadata={}, input="p", output=SimpleNamespace(completion="#### 9"))
    score = asyncio.run(gsm8k().as_inspect()(state, Target("9")))
    assert score.value == {"reward": 1.0, "correct": 1.0, "answered": 1.0}
