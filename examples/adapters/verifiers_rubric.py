"""verifiers: an environment's rubric (for verifiers before 0.4)."""

import verifiers as vf

import grpo_rewards as gr

reward = gr.load("rulesets/gsm8k.reward").as_verifiers()
rubric = vf.Rubric(funcs=reward.funcs, weights=reward.weights)
