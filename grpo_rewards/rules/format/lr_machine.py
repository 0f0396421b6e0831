"""Lark compiles a grammar to tables; this module runs the tables without tokens and trees.

A `Machine` holds what a parse needs: per state the actions and the regular expressions of the
terminals that may come there (the contextual lexer). `parse` keeps a stack of states and, beside
it, where each symbol started and ended, so that a rule's text is known when the rule is reduced.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from grpo_rewards.rules.format import regex_cost

END = "$END"


class Reduction(NamedTuple):
    """Replace `size` symbols by `origin`; `names` are what the text may be captured as."""

    size: int
    origin: str
    names: tuple[str, ...]
    symbols: tuple[str, ...]


Action = int | Reduction  # shift to a state, or reduce
Scan = Callable[[str, int], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """The tables of one grammar. `literals` maps a terminal that is fixed text to its finder."""

    start: int
    end: int
    actions: tuple[dict[str, Action], ...]
    scans: tuple[tuple[Scan, ...], ...]
    renames: tuple[dict[str, Scan], ...]
    ignored: frozenset[str]
    literals: dict[str, Scan]
    shown: dict[str, str]
    rules: tuple[Reduction, ...]
    root: str
    captures: tuple[str, ...]
    risky: tuple[tuple[str, regex_cost.Cost], ...]
    needs_deadline: bool

    def next_token(self, state: int, text: str, pos: int) -> tuple[str, int, int] | None:
        """The next terminal that is not ignored: its name, start and end; None where none fits."""
        while pos < len(text):
            found = self._scan(state, text, pos)
            if found is None:
                return None
            name, end = found
            if name not in self.ignored:
                return name, pos, end
            pos = end
        return END, pos, pos

    def _scan(self, state: int, text: str, pos: int) -> tuple[str, int] | None:
        for scan in self.scans[state]:
            found = scan(text, pos)
            if found:
                name = found.lastgroup
                if name in self.renames[state]:
                    other = self.renames[state][name](found.group(), 0)
                    name = other.lastgroup if other else name
                return name, found.end()
        return None


class Failed(NamedTuple):
    """Where a parse stopped, and the terminals that were allowed there."""

    pos: int
    expected: tuple[str, ...]


#: What a parse that reached the end captured: (name, start, end), inner before outer.
Captured = list[tuple[str, int, int]]


def run_machine(machine: Machine, text: str) -> Captured | Failed:
    """One run over a text, in linear time (as far as its terminals are linear)."""
    actions, scans, renames = machine.actions, machine.scans, machine.renames
    states, starts, ends = [machine.start], [0], [0]
    captured: Captured = []
    pos, size = 0, len(text)
    while True:
        state = states[-1]
        if pos < size:
            found = None
            for scan in scans[state]:
                found = scan(text, pos)
                if found:
                    break
            if not found:
                return Failed(pos, expected(machine, states))
            name, end = found.lastgroup, found.end()
            if name in renames[state]:
                other = renames[state][name](found.group(), 0)
                name = other.lastgroup if other else name
            if name in machine.ignored:
                pos = end
                continue
        else:
            name, end = END, pos
        action: Any = actions[state].get(name)
        while type(action) is Reduction:
            _reduce(action, states, starts, ends, captured)
            goto: Any = actions[states[-1]][action.origin]
            states.append(goto)
            if goto == machine.end and name is END:
                return captured
            action = actions[goto].get(name)
        if action is None:
            return Failed(pos, expected(machine, states))
        states.append(action)
        starts.append(pos)
        ends.append(end)
        pos = end


def _reduce(
    rule: Reduction, states: list[int], starts: list[int], ends: list[int], captured: Captured
) -> None:
    """Take the rule's symbols off the stacks and put down where its text stands."""
    size = rule.size
    if not size:
        start = end = ends[-1]
    else:
        start, end = starts[-size], ends[-1]
        if start == ends[-size]:  # empty symbols have no place of their own: skip them
            start = next(
                (s for s, e in zip(starts[-size:], ends[-size:], strict=True) if s < e), end
            )
        del states[-size:], starts[-size:], ends[-size:]
    starts.append(start)
    ends.append(end)
    for name in rule.names:
        captured.append((name, start, end))


def reaches(machine: Machine, states: list[int], name: str) -> int | None:
    """The state after reducing and then shifting a terminal, and None where it may not come.

    The stack itself is left alone; END asks whether the text may end here.
    """
    after = reduced(machine, states, name)
    if after is None:
        return None
    depth, tail = after
    top = tail[-1] if tail else states[depth - 1]
    if name == END:
        return top
    action = machine.actions[top].get(name)
    return action if isinstance(action, int) else None


def reduced(machine: Machine, states: list[int], name: str) -> tuple[int, list[int]] | None:
    """The stack after all reductions that a terminal asks for: `states[:depth] + tail`."""
    depth, tail = len(states), list[int]()
    while True:
        top = tail[-1] if tail else states[depth - 1]
        if name == END and top == machine.end:
            return depth, tail
        action = machine.actions[top].get(name)
        if action is None:
            return None
        if isinstance(action, int):
            return depth, tail
        size = action.size
        own = min(size, len(tail))
        if own:
            del tail[-own:]
        depth -= size - own
        goto: Any = machine.actions[tail[-1] if tail else states[depth - 1]][action.origin]
        tail.append(goto)


def expected(machine: Machine, states: list[int]) -> tuple[str, ...]:
    """The terminals that may come next, as the grammar's author knows them."""
    names = [name for name in machine.actions[states[-1]] if name in machine.shown]
    return tuple(
        sorted(machine.shown[name] for name in names if reaches(machine, states, name) is not None)
    )


def build_machine(parser: Any) -> Machine:
    """The machine of a compiled `lark.Lark` (LALR, contextual lexer).

    Lark has no public name for its tables (`_parse_table`) and compiled terminals (`_mres`). The
    tests of this folder read texts through both and compare, so a release of Lark that renames or
    changes them fails there first.
    """
    from lark.lexer import PatternStr
    from lark.parsers.lalr_analysis import Shift

    table = parser.parser.parser._parse_table
    lexers = parser.parser.lexer.lexers
    start_name = parser.options.start[0]
    reductions = {rule: _reduction(rule, start_name) for rule in parser.rules}
    actions: list[dict[str, Action]] = [{} for _ in range(len(table.states))]
    for state, row in table.states.items():
        for name, (kind, arg) in row.items():
            actions[state][name] = arg if kind is Shift else reductions[arg]
    scans: list[tuple[Scan, ...]] = [()] * len(actions)
    renames: list[dict[str, Scan]] = [{}] * len(actions)
    for state, lexer in lexers.items():
        scans[state] = tuple(mre.match for mre in lexer.scanner._mres)
        renames[state] = {
            name: call.scanner._mres[0].fullmatch for name, call in lexer.callback.items()
        }
    patterns = {terminal.name: terminal.pattern for terminal in parser.terminals}
    literals: dict[str, Scan] = {
        name: re.compile(pattern.to_regexp()).search
        for name, pattern in patterns.items()
        if isinstance(pattern, PatternStr)
    }
    shown = {
        name: f'"{pattern.value}"' if name in literals else name
        for name, pattern in patterns.items()
    }
    risky = tuple(
        (name, cost)
        for name, pattern in patterns.items()
        if name not in literals and (cost := regex_cost.cost(pattern.to_regexp()))
    )
    captures = {name for rule in reductions.values() for name in rule.names}
    return Machine(
        start=table.start_states[start_name],
        end=table.end_states[start_name],
        actions=tuple(actions),
        scans=tuple(scans),
        renames=tuple(renames),
        ignored=frozenset(parser.ignore_tokens),
        literals=literals,
        shown={**shown, END: "the end"},
        rules=tuple(reductions.values()),
        root=start_name,
        captures=tuple(sorted(captures)),
        risky=risky,
        needs_deadline=bool(risky) or _rescans(lexers, patterns),
    )


def _reduction(rule: Any, root: str) -> Reduction:
    names = [str(rule.origin.name)] + ([str(rule.alias)] if rule.alias else [])
    shown = tuple(name for name in names if name != root and re.fullmatch(r"[a-z][a-z0-9_]*", name))
    symbols = tuple(str(symbol.name) for symbol in rule.expansion)
    return Reduction(len(symbols), str(rule.origin.name), shown, symbols)


def _rescans(lexers: Any, patterns: Any) -> bool:
    """Whether a terminal may read far, fail, and be tried again a few characters later."""
    far = {name for name, p in patterns.items() if regex_cost.scans_far(p.to_regexp())}
    firsts = {name: regex_cost.first(p.to_regexp()) for name, p in patterns.items()}
    for lexer in {id(lexer): lexer for lexer in lexers.values()}.values():
        names = [terminal.name for terminal in lexer.terminals]
        for name in far.intersection(names):
            if any(firsts[name] & firsts[other] for other in names if other != name):
                return True
    return False
