"""Train with TRL on a ruleset: python trl_train.py MODEL TRAIN.jsonl OUT"""

import sys

from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer

import grpo_rewards as gr

if __name__ == "__main__":
    model, data, out = sys.argv[1:]
    reward = gr.load("rulesets/arithmetic.reward").as_trl()
    config = GRPOConfig(out, max_steps=5, bf16=False, reward_weights=reward.weights)
    rows = load_dataset("json", data_files=data, split="train")
    GRPOTrainer(model, reward_funcs=reward.funcs, args=config, train_dataset=rows).train()
