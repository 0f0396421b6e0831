"""In a virtual environment with verifiers < 0.4: a real Rubric scores rollouts and groups."""

import asyncio
import runpy
import sys
from typing import Any

import verifiers as vf

import grpo_rewards as gr

GROUPED = """input completion: chat
input gold: text
score correct = math.equal(extract.boxed(completion), gold)
score brief = group.rank(-text.length(completion))
reward = correct + 0.1 * brief
"""


def state(text: str, gold: str) -> Any:
    made = vf.State()
    made.update(
        prompt=[{"role": "user", "content": "?"}], answer=gold, info={}, task="sum",
        completion=[{"role": "assistant", "content": text}], timing={}, trajectory=[],
    )  # fmt: skip
    return made


async def main() -> None:
    rubric = runpy.run_path(sys.argv[1])["rubric"]
    for text, gold, expected in (("#### 9", "9", 1.0), ("#### 8", "9", 0.0)):
        one = state(text, gold)
        await rubric.score_rollout(one)
        assert one["reward"] == expected, one["reward"]
        assert one["metrics"] == {"reward": expected, "correct": expected, "answered": 1.0}
    scorer = gr.loads(GROUPED)
    adapter = scorer.as_verifiers()
    texts = [r"\boxed{1}", r"so then \boxed{1}"]
    states = [state(text, "1") for text in texts]
    await vf.Rubric(funcs=adapter.funcs, weights=adapter.weights).score_group(states)
    home = scorer(completion=texts, gold=["1", "1"], group=[0, 0]).reward.tolist()
    assert [one["reward"] for one in states] == home, states
    print("ok", vf.__version__)


if __name__ == "__main__":
    asyncio.run(main())
