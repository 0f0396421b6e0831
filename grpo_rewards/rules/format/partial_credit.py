"""How far a text came in a grammar that it does not fit: a number that ignores its length.

    credit = accepted / (accepted + needed) - 0.15 * resyncs        at the best point reached

`accepted` counts the literals (terminals of fixed text) that were read, `needed` the fewest that
any completion of what was read still takes. Free text counts nothing, so a longer one earns
nothing. On an error the parse may skip, at most twice, to the next place where a literal that is
allowed stands. The best point counts, so a longer prefix of a valid text never earns less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from grpo_rewards.limits import MAX_CREDIT_TOKENS
from grpo_rewards.rules.format.lr_machine import END, Machine, reaches, reduced

MAX_RESYNCS = 2  # a text that goes wrong three times has another form
RESYNC_COST = 0.15  # of the credit, for each skip
ALMOST = 0.99  # every literal is there, and yet the text does not fit

_INF = math.inf
Item = tuple[str, int, float]  # a rule's origin, how many symbols stand, what the rest needs
Level = dict[str, float]  # a rule's origin → what is needed once it is complete


class Needs:
    """What the completions of a stack of states need, from the grammar alone."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        weights = dict.fromkeys(machine.literals, 1.0)
        self.weights: Mapping[str, float] = weights
        self.symbols = self._symbols()
        if self.symbols[machine.root] == 0:  # no literal is needed: all terminals count
            self.weights = {
                name: 1.0 for name in machine.shown if name not in machine.ignored and name != END
            }
            self.symbols = self._symbols()
        self.kernels = self._kernels()

    def _symbols(self) -> dict[str, float]:
        """The fewest literals in each symbol, as a least fixed point."""
        found: dict[str, float] = {rule.origin: _INF for rule in self.machine.rules}
        changed = True
        while changed:
            changed = False
            for rule in self.machine.rules:
                size = sum(found.get(s, self.weights.get(s, 0.0)) for s in rule.symbols)
                if size < found[rule.origin]:
                    found[rule.origin] = size
                    changed = True
        return found

    def _kernels(self) -> list[tuple[Item, ...]]:
        """For each state the rules that are under way there.

        States are sets of such rules; the tables do not keep them, but walking the transitions
        from the start state finds them again.
        """
        by_origin: dict[str, list[tuple[str, ...]]] = {}
        for rule in self.machine.rules:
            by_origin.setdefault(rule.origin, []).append(rule.symbols)
        root = ("", (self.machine.root,), 0)
        kernels: dict[int, set[tuple[str, tuple[str, ...], int]]] = {self.machine.start: {root}}
        queue = [self.machine.start]
        for state in queue:
            closure = _closure(kernels[state], by_origin)
            for symbol, target in self.machine.actions[state].items():
                if isinstance(target, int) and target not in kernels:
                    kernels[target] = {
                        (origin, symbols, dot + 1)
                        for origin, symbols, dot in closure
                        if dot < len(symbols) and symbols[dot] == symbol
                    }
                    queue.append(target)
        return [self._items(kernels.get(i, set())) for i in range(len(self.machine.actions))]

    def _items(self, kernel: set[tuple[str, tuple[str, ...], int]]) -> tuple[Item, ...]:
        best: dict[tuple[str, int], float] = {}
        for origin, symbols, dot in kernel:
            rest = sum(self.symbols.get(s, self.weights.get(s, 0.0)) for s in symbols[dot:])
            key = (origin, dot)
            best[key] = min(best.get(key, _INF), rest)
        return tuple((origin, dot, rest) for (origin, dot), rest in best.items())

    def push(self, state: int, levels: list[Level]) -> None:
        """Append what is needed after each rule that may be completed on top of this state."""
        gotos = {
            name: target
            for name, target in self.machine.actions[state].items()
            if name in self.symbols and isinstance(target, int)
        }
        own = dict.fromkeys(gotos, _INF)
        levels.append(own)
        changed = True
        while changed:
            changed = False
            for name, target in gotos.items():
                size = self.needed(target, levels)
                if size < own[name]:
                    own[name] = size
                    changed = True

    def needed(self, state: int, levels: list[Level]) -> float:
        """The fewest literals from a state to the end; `levels` are those of the states below."""
        if not levels:
            return self.symbols[self.machine.root]
        return min(
            (
                rest + (levels[-dot].get(origin, _INF) if origin else 0.0)
                for origin, dot, rest in self.kernels[state]
            ),
            default=_INF,
        )


def _closure(
    kernel: set[tuple[str, tuple[str, ...], int]], by_origin: dict[str, list[tuple[str, ...]]]
) -> set[tuple[str, tuple[str, ...], int]]:
    found = set(kernel)
    queue = list(kernel)
    while queue:
        _, symbols, dot = queue.pop()
        for expansion in by_origin.get(symbols[dot], ()) if dot < len(symbols) else ():
            item = (symbols[dot], expansion, 0)
            if item not in found:
                found.add(item)
                queue.append(item)
    return found


class _Walk:
    """A second run over a text that does not fit, which counts and skips."""

    def __init__(self, needs: Needs, text: str) -> None:
        self.needs, self.machine, self.text = needs, needs.machine, text
        self.states = [self.machine.start]
        self.levels: list[Level] = []
        self.accepted = self.best = 0.0
        self.resyncs = 0

    def run(self) -> float:
        pos = 0
        for _ in range(MAX_CREDIT_TOKENS):
            token = self.machine.next_token(self.states[-1], self.text, pos)
            if token and token[0] == END:
                return self.best
            if token and self.shift(token[0]):
                pos = token[2]
                continue
            found = self._resync(pos) if self.resyncs < MAX_RESYNCS else None
            if found is None:
                return self.best
            self.resyncs += 1
            for name in found[1]:
                self.shift(name)
            pos = found[2]
        return self.best

    def shift(self, name: str) -> bool:
        """Take a terminal onto the stack and look at what is needed then."""
        target = reaches(self.machine, self.states, name)
        after = reduced(self.machine, self.states, name)
        if target is None or after is None:
            return False
        depth, tail = after
        del self.states[depth:], self.levels[depth:]
        self.states += tail
        for state in self.states[len(self.levels) :]:
            self.needs.push(state, self.levels)
        self.states.append(target)
        self.accepted += self.needs.weights.get(name, 0.0)
        self._look()
        return True

    def _look(self) -> None:
        needed = self.needs.needed(self.states[-1], self.levels)
        if self.accepted:
            share = min(self.accepted / (self.accepted + needed), ALMOST)
            self.best = max(self.best, share - RESYNC_COST * self.resyncs)

    def _resync(self, pos: int) -> tuple[int, list[str], int] | None:
        """The nearest literal that may come now, or after one missing terminal: start, path, end.

        One missing terminal is what an empty `<think></think>` lacks.
        """
        best: tuple[int, list[str], int] | None = None
        for path in self._paths():
            found = self.machine.literals[path[-1]](self.text, pos)
            if found and (best is None or found.start() < best[0]):
                best = found.start(), path, found.end()
        return best

    def _paths(self) -> list[list[str]]:
        """Terminals that lead to a literal: none missing before one missing."""
        machine, states = self.machine, self.states
        direct = [[name] for name in machine.literals if reaches(machine, states, name) is not None]
        through = []
        for name in machine.actions[states[-1]]:
            after = reduced(machine, states, name) if name in machine.shown else None
            target = reaches(machine, states, name)
            if name in machine.literals or name == END or after is None or target is None:
                continue
            virtual = [*states[: after[0]], *after[1], target]
            through += [
                [name, other]
                for other in machine.literals
                if reaches(machine, virtual, other) is not None
            ]
        return direct + through


def credit_of(needs: Needs, text: str) -> float:
    """The credit of a text that does not fit, in [0, 0.99]; see the module's docstring."""
    return _Walk(needs, text).run()
