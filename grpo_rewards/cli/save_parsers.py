"""`make tables`: saves the table of every grammar beside it."""

from grpo_rewards.rules.math.latex.parser import compile_latex
from grpo_rewards.syntax import saved_parsers
from grpo_rewards.syntax.parser import compile_grammar as compile_reward

if __name__ == "__main__":
    saved_parsers.save("reward", compile_reward)
    saved_parsers.save("latex", compile_latex)
