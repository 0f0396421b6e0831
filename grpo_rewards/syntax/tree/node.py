"""What all nodes of the tree have in common."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from grpo_rewards.errors import Place

#: The place of a node that was built in Python.
NOWHERE = Place(0, 0)


@dataclass(frozen=True, eq=False)
class Node:
    """Base of everything that can be written. `str()` gives its canonical text.

    Fields marked as style (places, spellings) do not count when two nodes are compared.
    """

    place: Place = field(default=NOWHERE, kw_only=True, metadata={"style": True})

    def key(self) -> tuple[Any, ...]:
        """All that the node means, as a hashable value."""
        own = (f for f in fields(self) if not f.metadata.get("style"))
        return (type(self).__name__, *(_key(getattr(self, f.name)) for f in own))

    def same(self, other: object) -> bool:
        """Whether the other node says the same, places and spelling aside."""
        return isinstance(other, Node) and self.key() == other.key()


def _key(value: Any) -> Any:
    if isinstance(value, Node):
        return value.key()
    if isinstance(value, tuple):
        return tuple(_key(item) for item in value)
    # In Python True equals 1; in the language they differ.
    return (type(value).__name__, value) if isinstance(value, bool) else value


@dataclass(frozen=True, eq=False)
class Statement(Node):
    """One statement of a ruleset. `keyword` is the word that it begins with."""

    keyword: ClassVar[str] = ""
