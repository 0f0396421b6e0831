"""Property-based testing of rulesets: what `strategies.py` offers, under the name to import."""

from grpo_rewards.testing.strategies import *  # noqa: F403
from grpo_rewards.testing.strategies import __all__ as __all__
