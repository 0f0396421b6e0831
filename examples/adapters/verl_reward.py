"""verl: custom_reward_function.path=examples/adapters/verl_reward.py (name: compute_score)."""

import grpo_rewards as gr

compute_score = gr.load("rulesets/gsm8k.reward").as_verl()
