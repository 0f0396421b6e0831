"""Hugging Face datasets: add the scores as columns. python datasets_map.py DATA.jsonl"""

import sys

from datasets import load_dataset

import grpo_rewards as gr

if __name__ == "__main__":
    rows = load_dataset("json", data_files=sys.argv[1], split="train")
    scored = rows.map(gr.load("rulesets/gsm8k.reward").as_map(), batched=True)
    print(scored.column_names, sum(scored["reward"]))
