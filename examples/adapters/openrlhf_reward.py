"""OpenRLHF: --reward.remote_url examples/adapters/openrlhf_reward.py"""

import grpo_rewards as gr

reward_func = gr.load("rulesets/gsm8k.reward").as_openrlhf()
