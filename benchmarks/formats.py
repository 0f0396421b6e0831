"""How fast formats are checked, and what malformed completions are paid.

Regime: one core, one text at a time, `<think>…</think> <answer>…</answer>` of 200, 1,000 and 4,000
tokens (four characters each), valid and with trailing junk. Rivals, interleaved with ours in the
same run: `re.fullmatch` with lazy groups, Lark's own LALR and Earley parsers on the same grammar,
and the format rewards of open-r1 (`^…$` under re.MULTILINE) and TRL (one think block, then
anything), by their published patterns. Medians of rounds; the ratios to `re.fullmatch` carry over
to other machines, the rates do not.

    python benchmarks/formats.py            # two tables and one JSON line
"""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable

from lark import Lark, UnexpectedInput

from grpo_rewards.rules.format import matching as formats

GRAMMAR = r"""
  start: WS? "<think>" think "</think>" WS? "<answer>" answer "</answer>" WS?
  think: TEXT
  answer: TEXT
  TEXT: /\s*(?:[^<\s]|<(?!\/?(?:think|answer)>))(?:[^<]+|<(?!\/?(?:think|answer)>))*/
  WS: /\s+/
"""
SENTENCE = "If x < 3 then both boxes together hold 7 apples, so let me check this again. "
ROUNDS = 7
SECONDS = 0.06  # of one measurement

OURS = formats.compile_lark("r1", GRAMMAR)
TAGS = formats.tags("think", "answer")
BY_RE = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)


def lines_of(*tags: str) -> re.Pattern[str]:
    """open-r1's way: blocks on lines of their own, `$` at the end of any line."""
    blocks = r"\n".join(rf"<{tag}>\n.*?\n</{tag}>" for tag in tags)
    return re.compile(f"^{blocks}$", re.DOTALL | re.MULTILINE)


OPEN_R1 = lines_of("think", "answer")
TRL = re.compile(r"^<think>(?!.*<think>)(.*?)</think>.*$", re.DOTALL | re.MULTILINE)

MALFORMED = {
    "trailing garbage": "<think>\n6*7\n</think>\n<answer>\n42\n</answer>\nthen some more text",
    "two answers": "<think>\n6*7\n</think>\n<answer>\n42\n</answer>\n<answer>\n43\n</answer>",
    "answer inside answer": "<think>\n6*7\n</think>\n<answer>\n<answer>\n42\n</answer>\n</answer>",
    "nested think": "<think>\na\n<think>\nb\n</think>\n</think>\n<answer>\n42\n</answer>",
    "two thinks": "<think>\na\n</think>\n<think>\nb\n</think>\n<answer>\n42\n</answer>",
    "empty think": "<think>\n\n</think>\n<answer>\n42\n</answer>",
    "empty answer": "<think>\n6*7\n</think>\n<answer>\n\n</answer>",
    "answer before think": "<answer>\n42\n</answer>\n<think>\n6*7\n</think>",
    "answer inside think": "<think>\n6*7\n<answer>\n42\n</answer>\n</think>",
    "text between": "<think>\n6*7\n</think>\nso\n<answer>\n42\n</answer>",
    "no answer": "<think>\n6*7\n</think>\nit is 42",
    "unclosed answer": "<think>\n6*7\n</think>\n<answer>\n42",
}


def completion(tokens: int) -> str:
    """A valid completion of about so many tokens."""
    thought = (SENTENCE * (tokens * 4 // len(SENTENCE) + 1))[: tokens * 4 - 40]
    return f"<think>\n{thought}\n</think>\n<answer>\n42\n</answer>"


def quiet(parse: Callable[[str], object]) -> Callable[[str], object]:
    def tried(text: str) -> object:
        try:
            return parse(text)
        except UnexpectedInput:
            return None

    return tried


def rates(functions: dict[str, Callable[[str], object]], text: str) -> dict[str, float]:
    """Texts a second for each function: medians of interleaved rounds."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start, count = time.perf_counter(), 0
            while time.perf_counter() - start < SECONDS or not count:
                function(text)
                count += 1
            times[name].append((time.perf_counter() - start) / count)
    return {name: 1 / statistics.median(spent) for name, spent in times.items()}


def main() -> None:
    lalr = Lark(GRAMMAR, parser="lalr", propagate_positions=True)
    earley = Lark(GRAMMAR, parser="earley")
    functions: dict[str, Callable[[str], object]] = {
        "ours": OURS.match,
        "ours, tags()": TAGS.match,
        "re.fullmatch": BY_RE.fullmatch,
        "open-r1": OPEN_R1.match,
        "TRL": TRL.match,
        "Lark LALR": quiet(lalr.parse),
        "Lark Earley": quiet(earley.parse),
    }
    result: dict[str, object] = {"benchmark": "formats"}
    for kind, tail in (("valid", ""), ("broken", " junk")):
        print(f"\n{kind:14}{'texts/s and, in brackets, the ratio to re.fullmatch':>50}")
        print(f"{'tokens':14}{200:>20,}{1000:>20,}{4000:>20,}")
        table = {n: rates(functions, completion(n) + tail) for n in (200, 1000, 4000)}
        for name in functions:
            cells = (
                f"{table[n][name]:>12,.0f} ({table[n][name] / table[n]['re.fullmatch']:5.2f})"
                for n in table
            )
            print(f"{name:14}" + "".join(cells))
        result[kind] = {
            str(n): {name: round(row[name] / row["re.fullmatch"], 3) for name in functions}
            | {"ours/s": round(row["ours"])}
            for n, row in table.items()
        }
    print(f"\n{'paid':24}{'ours':>8}{'tags()':>8}{'open-r1':>9}{'TRL':>6}")
    paid = {"ours": 0, "open-r1": 0, "TRL": 0}
    for name, text in MALFORMED.items():
        row = {
            "ours": max(OURS.match(text).credit, TAGS.match(text).credit),
            "open-r1": float(bool(OPEN_R1.match(text))),
            "TRL": float(bool(TRL.match(text))),
        }
        for who, credit in row.items():
            paid[who] += credit == 1
        ours, tags = OURS.match(text).credit, TAGS.match(text).credit
        print(f"{name:24}{ours:8.2f}{tags:8.2f}{row['open-r1']:9.2f}{row['TRL']:6.2f}")
    print(f"paid in full of {len(MALFORMED)}: {paid}")
    assert all(fmt.match(completion(200)).ok for fmt in (OURS, TAGS))
    print(json.dumps({**result, "paid_in_full": paid}))


if __name__ == "__main__":
    main()
