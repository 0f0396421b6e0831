"""Every rule by name: a plain dict, made of the modules' own tables."""

from __future__ import annotations

from grpo_rewards.catalog import Rule
from grpo_rewards.rules.operators import OPERATORS

CATALOG: dict[str, Rule] = {rule.name: rule for rule in OPERATORS}
