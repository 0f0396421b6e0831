"""The catalog as Python sees it: `gr.math.equal`, `gr.extract.boxed`, `gr.completion`, …"""

from __future__ import annotations

from grpo_rewards.rules.catalog import CATALOG
from grpo_rewards.rules.rule import Rule
from grpo_rewards.syntax.builders import column
from grpo_rewards.syntax.tree import Name


class Namespace:
    """The rules whose names begin alike: `gr.math.equal` is the rule `math.equal`."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def __getattr__(self, name: str) -> Rule:
        rule = CATALOG.get(f"{self._prefix}.{name}")
        if rule is None:
            known = ", ".join(dir(self))
            raise AttributeError(f"no rule `{self._prefix}.{name}`; there are {known}")
        return rule

    def __dir__(self) -> list[str]:
        start = f"{self._prefix}."
        return sorted(name.removeprefix(start) for name in CATALOG if name.startswith(start))

    def __repr__(self) -> str:
        return f"<rules {self._prefix}.*>"


dataset = Namespace("dataset")
extract = Namespace("extract")
format = Namespace("format")  # the language's word
group = Namespace("group")
json = Namespace("json")
language = Namespace("language")
math = Namespace("math")
text = Namespace("text")

match = CATALOG["match"]

# Functions of numbers; the language's words.
abs = CATALOG["abs"]
clamp = CATALOG["clamp"]
exp = CATALOG["exp"]
floor = CATALOG["floor"]
log = CATALOG["log"]
max = CATALOG["max"]
min = CATALOG["min"]
round = CATALOG["round"]
sqrt = CATALOG["sqrt"]

completion = column("completion", "chat")
gold = column("gold", "text")

# Columns that every batch may bring are known without a statement.
prompt = Name("prompt")
n_tokens = Name("n_tokens")
truncated = Name("truncated")
step = Name("step")
progress = Name("progress")
