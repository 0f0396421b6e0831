"""`make tables`: saves the table of every grammar beside it."""

from grpo_rewards.rules.math.latex.parser import compile_latex
from grpo_rewards.syntax import saved_parsers
from grpo_rewards.syntax.parser import compile_reward_grammar

if __name__ == "__main__":
    saved_parsers.save_parser("reward", compile_reward_grammar)
    saved_parsers.save_parser("latex", compile_latex)
