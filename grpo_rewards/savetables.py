"""`make tables`: saves the table of every grammar beside it."""

from grpo_rewards import tables
from grpo_rewards.parse import compile_grammar as compile_reward
from grpo_rewards.rules.latex import compile_grammar as compile_latex

if __name__ == "__main__":
    tables.save("reward", compile_reward)
    tables.save("latex", compile_latex)
