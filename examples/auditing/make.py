"""Writes completions.jsonl: what a small model might say to forty sums, right and wrong.

Twenty sums, each said twice from a seeded choice of manners: as asked, in words, in German, with a
slip, left open, hedged, without tags, with junk behind the answer. `right` is the label a person
would give. Run: python examples/auditing/make.py
"""

from __future__ import annotations

import json
import random
from pathlib import Path

NAMES = ["Ana", "Ben", "Chloe", "David", "Emma"]
THINGS = ["apples", "coins", "books", "shells", "stamps"]
WORDS = "zero one two three four five six seven eight nine ten eleven twelve thirteen".split()

# manner -> the completion, and whether the answer {g} was given; {s} is a slip
MANNERS: list[tuple[str, bool]] = [
    ("<think>We add the two numbers of {t}: {a} + {b} = {g}.</think><answer>{g}</answer>", True),
    ("<think>There are {a} {t} first, then {b} more of them.</think><answer>{w}</answer>", True),
    (
        "<think>We count all of the {t} that there are now.</think><answer>\\boxed{{{g}}}</answer>",
        True,
    ),
    (
        "<think>We add the two numbers of {t}. Danach zählen wir zur Sicherheit alles noch einmal "
        "zusammen, und es stimmt.</think><answer>{g}</answer>",
        True,
    ),
    ("<think>We add the two numbers of {t}: {a} + {b} = {s}.</think><answer>{s}</answer>", False),
    ("<think>It is {g}, but let me check that once more. {a} + {b} is", False),
    ("<think>It could be either of these two.</think><answer>{g} or {s}</answer>", False),
    ("The answer is {g}.", True),
    ("<think>{a} + {b}</think><answer>{g} {t}</answer>", True),
    ("<think>We add: {a} + {b} = {g}.</think><answer>{s}</answer> No, wait: {g}", False),
]


def rows(seed: int) -> list[dict[str, object]]:
    rng = random.Random(seed)
    made: list[dict[str, object]] = []
    for _ in range(20):
        a, b = rng.randint(1, 7), rng.randint(1, 6)
        name, things = rng.choice(NAMES), rng.choice(THINGS)
        prompt = f"{name} has {a} {things} and gets {b}. How many?"
        words = {"a": a, "b": b, "g": a + b, "s": a + b + 1, "w": WORDS[a + b], "t": things}
        for manner, right in rng.sample(MANNERS, 2):
            text = manner.format(**words)
            made.append({"prompt": prompt, "completion": text, "gold": str(a + b), "right": right})
    return made


if __name__ == "__main__":
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows(seed=2)]
    (Path(__file__).parent / "completions.jsonl").write_text("".join(lines), "utf-8")
