"""What names mean. Statements define names in a scope; expressions look them up there."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grpo_rewards.errors import Place, Problem
from grpo_rewards.rules.rule import Rule
from grpo_rewards.syntax import tree as x
from grpo_rewards.syntax.parser import Parsed


@dataclass(frozen=True, slots=True)
class Function:
    """A `let` with parameters: inlined where it is called, in the scope where it was written."""

    name: str
    params: tuple[str, ...]
    body: x.Expr
    scope: Scope


#: A name stands for a node of the graph (by number), a function, or a rule of the user's own.
Meaning = int | Function | Rule


def nearest(name: str, known: Sequence[str]) -> str:
    """The hint `did you mean …?`, "" where no known name is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else ""


class Scope:
    """What names mean at one point of a file.

    An inner scope (of a function's body, of a test) sees the names of the outer one, and what it
    defines ends with it. Which names are broken or used is known for the whole file.
    """

    def __init__(self, parsed: Parsed) -> None:
        self.names: dict[str, Meaning] = {}
        self.aliases: set[str] = set()  # of imported files, whose names stand in `names` as `a.b`
        self._used: set[str] = set()
        self._broken = set(parsed.broken)
        self._source = parsed.source
        self._statements = {name_defined(one): one for one in reversed(parsed.ruleset.statements)}

    def inner(self, names: Mapping[str, Meaning] | None = None) -> Scope:
        """A scope inside this one, in which some names mean something else."""
        inner = object.__new__(Scope)
        inner.__dict__.update(self.__dict__, names={**self.names, **(names or {})})
        return inner

    def define(self, name: str, meaning: Meaning) -> None:
        """From here on the name means this."""
        self.names[name] = meaning

    def define_import(self, alias: str, names: Mapping[str, Meaning]) -> None:
        """From here on `alias.name` means what `name` does in an imported file."""
        self.aliases.add(alias)
        self.names.update({f"{alias}.{name}": meaning for name, meaning in names.items()})

    def find(self, name: str) -> Meaning | None:
        """What a name means here, None where it means nothing; its statement counts as used.

        Raises a silent Problem where the statement that defines the name has a finding already.
        """
        root = name.split(".")[0]
        if root in self._broken:
            raise Problem.silent()
        found = self.names.get(name)
        if found is not None:
            self._used.add(root)
        return found

    def mark_broken(self, name: str) -> None:
        """The statement that would define the name has a finding."""
        self._broken.add(name)

    def is_broken(self, name: str) -> bool:
        """Whether the statement that would define the name has a finding."""
        return name in self._broken

    def is_used(self, name: str) -> bool:
        """Whether anything has looked the name up."""
        return name in self._used

    def refuse_early(self, name: str, place: Place) -> None:
        """Raises the Problem of a name that is used before its statement, or inside it."""
        root = name.split(".")[0]
        statement = self._statements.get(root)
        if statement is None or root in self.names:
            return
        if statement.place.start <= place.start < statement.place.end:
            raise Problem("N01", f"`{root}` is used in its own definition", place)
        if statement.place.start > place.start:
            line, _ = self._source.line_col(statement.place.start)
            message = f"`{root}` is defined below, on line {line}"
            raise Problem("N01", message, place, "move its statement above this one")


def name_defined(statement: x.Statement) -> str:
    """The name that a statement defines, "" where it defines none."""
    if isinstance(statement, x.Reward):
        return "reward"
    defines = (x.Import, x.Input, x.Param, x.FormatDecl, x.Extern, x.Let, x.Score)
    return statement.name if isinstance(statement, defines) else ""
