"""verifiers: a task whose fields are the ruleset's columns (from 0.4 on)."""

import verifiers.v1 as vf

import grpo_rewards as gr

scorer = gr.load("rulesets/gsm8k.reward").as_verifiers()


class SumTask(vf.Task[vf.WireTaskData]):
    @vf.reward
    async def reward(self, trace: vf.Trace) -> float:
        return scorer.task_reward(self.data, trace)
