"""Every rule by name: CATALOG, a plain dict.

A rule's entry (name, signature, range, cost) stands beside its kernel, in the tuple `RULES` of the
kernel's module; a module with rules of its own is added to the list below.
"""

from __future__ import annotations

from grpo_rewards.rules import dataset, extract, group, json_fields, operators, text
from grpo_rewards.rules.format import matching
from grpo_rewards.rules.language import detection
from grpo_rewards.rules.math import arithmetic, choices, equality, plain_sums
from grpo_rewards.rules.rule import Rule

_MODULES = (
    operators, extract, equality, arithmetic, plain_sums, choices, matching, json_fields, detection,
    group, dataset, text,
)  # fmt: skip

CATALOG: dict[str, Rule] = {entry.name: entry for module in _MODULES for entry in module.RULES}
