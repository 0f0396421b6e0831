"""How well and how fast the share of the target language is estimated.

Regime: one core; `mixed_dev.jsonl.gz`, 463 thoughts of some 1,000 characters that mix two languages
by sentences, phrases or tails, with known shares (`share_tokens`), a third of them pure; and
`langid_dev.jsonl.gz`, 1,582 texts of one language. The data stand in a folder beside the repository
(`--data`), and are no part of it. Rivals where they are installed: the whole-text check that most
recipes use (langdetect says the target or not), lingua, py3langid and pycld2 per sentence.

Speed is that of new texts: every round puts other words around each sentence, so no verdict is
remembered; `repeated` is the same texts again, as the completions of one prompt share sentences.

    pip install lingua-language-detector py3langid pycld2
    python benchmarks/language.py [--data ../shared/data]
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from grpo_rewards.rules.language import detection

Rows = list[dict[str, Any]]
Estimator = Callable[[str, str], float | None]


def read(path: Path) -> Rows:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def whole_text() -> Estimator:
    """1 if langdetect says the target of the whole text, else 0: the common practice."""
    try:
        from langdetect_rs import DetectorFactory, detect
    except ImportError:
        from langdetect import DetectorFactory, detect
    DetectorFactory.seed = 0
    return lambda text, target: float(detect(text).split("-")[0] == target)


def per_sentence(detect: Callable[[str], str]) -> Estimator:
    """The share of words in sentences that a detector takes for the target."""

    def share(text: str, target: str) -> float | None:
        own = total = 0
        for sentence in re.split(r"(?<=[.!?。！？])\s*|\n", text):
            size = len(re.findall(r"\w+", sentence))
            total += size
            own += size * (bool(size) and detect(sentence) == target)
        return own / total if total else None

    return share


def rivals() -> dict[str, Estimator]:
    found = {"langdetect, whole text": whole_text()}
    try:
        import pycld2

        def cld2(text: str) -> str:
            clean = "".join(c for c in text if c.isprintable())
            return str(pycld2.detect(clean)[2][0][1]).split("-")[0]

        found["pycld2 per sentence"] = per_sentence(cld2)
    except ImportError:
        print("pycld2 is not installed")
    try:
        import py3langid

        found["py3langid per sentence"] = per_sentence(lambda text: py3langid.classify(text)[0])
    except ImportError:
        print("py3langid is not installed")
    try:
        from lingua import LanguageDetectorBuilder

        lingua = LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build()

        def by_lingua(text: str) -> str:
            code = lingua.detect_language_of(text)
            return code.iso_code_639_1.name.lower() if code else ""

        found["lingua (low) per sentence"] = per_sentence(by_lingua)
    except ImportError:
        print("lingua is not installed")
    return found


def auc(high: np.ndarray, low: np.ndarray) -> float:
    """How often a pure text scores above a mixed one, ties counting half."""
    above, equal = high[:, None] > low, high[:, None] == low
    return float((above + 0.5 * equal).mean())


def quality(rows: Rows, estimate: Estimator) -> dict[str, float]:
    start = time.process_time()
    got = [estimate(row["text"], row["target"]) for row in rows]
    seconds = time.process_time() - start
    share = np.array([1.0 if value is None else value for value in got])
    want = np.array([row["share_tokens"] for row in rows])
    pure = np.array([row["granularity"] == "pure" for row in rows])
    error = np.abs(share - want)
    kinds = {
        f"AUC {kind}": auc(share[pure], share[[row["granularity"] == kind for row in rows]])
        for kind in ("sentence", "tail", "phrase")
    }
    return {
        "MAE": float(error.mean()),
        "MAE mixed": float(error[~pure].mean()),
        "loss on pure": float((1 - share[pure]).mean()),
        "AUC": auc(share[pure], share[~pure]),
        **kinds,
        "texts/s": len(rows) / seconds,
    }


def thoughts(rows: Rows, size: int = 950) -> list[str]:
    """Texts of one size, cut from those of the data set."""
    texts = [row["text"] for row in rows]
    return [(text + "\n" + texts[(i + 1) % len(texts)])[:size] for i, text in enumerate(texts)]


def speed(rows: Rows) -> dict[str, float]:
    """Texts a second: new ones, the same with every sentence remembered, and one langdetect call
    on each whole text, in turns."""
    texts = thoughts(rows)
    whole = whole_text()
    for text in texts:
        detection.share(text, "en")  # words and tables are warm, as after the first batch
    functions = {"new": detection.share, "repeated": detection.share, "whole text": whole}
    found: dict[str, list[float]] = {kind: [] for kind in functions}
    for turn in range(5):
        fresh = [re.sub(r"([.!?。！？])", rf" {'xyzuvw'[turn]}\1", text) for text in texts]
        for kind, function in functions.items():
            detection.analyse.cache_clear()
            start = time.process_time()
            for text in fresh:
                function(text, "en")
            found[kind].append(len(texts) / (time.process_time() - start))
    return {f"{kind}/s": float(np.median(rates)) for kind, rates in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Language consistency against other detectors.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    data = parser.parse_args().data
    mixed, single = read(data / "mixed_dev.jsonl.gz"), read(data / "langid_dev.jsonl.gz")
    detection.share(mixed[0]["text"], "en")  # tables are loaded once
    result: dict[str, Any] = {"benchmark": "language"}
    for name, estimate in {"ours": detection.share, **rivals()}.items():
        row = quality(mixed, estimate)
        if not result.get("ours"):
            print(f"{'':27}" + "".join(f"{key:>14}" for key in row))
        print(f"{name:27}" + "".join(f"{value:14.4g}" for value in row.values()))
        result[name] = {key: round(value, 4) for key, value in row.items()}
    for kind in ("sentence", "word-pair"):
        rows = [row for row in single if row["kind"] == kind]
        right = float(np.mean([detection.detect(row["text"]) == row["lang"] for row in rows]))
        print(f"detect, {kind}: {right:.3f} of {len(rows)} right")
        result[f"detect {kind}"] = round(right, 4)
    result |= {key: round(value) for key, value in speed(mixed).items()}
    result["new to whole text"] = round(result["new/s"] / result["whole text/s"], 3)
    print(
        f"950 characters: {result['new/s']:,} new, {result['repeated/s']:,} repeated texts/s; "
        f"langdetect on the whole text {result['whole text/s']:,}"
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
