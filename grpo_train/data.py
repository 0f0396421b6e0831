"""Data files → prompts and columns; a sampler whose position is part of the checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch

from grpo_train.config import Data
from grpo_train.errors import DataError
from grpo_train.model.policy import Policy

HUB = "hf:"
SHOWN = 3  # number of bad rows that an error names


@dataclass(frozen=True, slots=True)
class Prompts:
    """P prompts: their text, their tokens, and the rows that they came from."""

    text: list[str]
    ids: list[list[int]]
    rows: list[dict[str, Any]]
    prefix: str = ""
    skipped: int = 0  # too long

    def __len__(self) -> int:
        return len(self.text)

    def digest(self) -> str:
        """A hash of texts and columns in order, to tell whether prompts are the same."""
        found = hashlib.blake2b(digest_size=16)
        for text, row in zip(self.text, self.rows, strict=True):
            found.update(json.dumps([text, row], sort_keys=True, default=str).encode())
        return found.hexdigest()

    def pick(self, index: Iterable[int]) -> Prompts:
        """Some of them, in that order."""
        at = list(index)
        return Prompts(
            [self.text[i] for i in at],
            [self.ids[i] for i in at],
            [self.rows[i] for i in at],
            self.prefix,
        )

    @staticmethod
    def join(parts: Sequence[Prompts]) -> Prompts:
        """One after another."""
        return Prompts(
            [text for part in parts for text in part.text],
            [ids for part in parts for ids in part.ids],
            [row for part in parts for row in part.rows],
            parts[0].prefix,
        )

    def columns(self, repeat: int) -> dict[str, list[Any]]:
        """The rows' columns, each value `repeat` times; `prompt` is the text.

        Every column is there: a ruleset may name an input anew (`gold: text from "answer"`).
        """
        names = dict.fromkeys(name for row in self.rows for name in row)
        found = {
            name: [row.get(name) for row in self.rows for _ in range(repeat)] for name in names
        }
        return found | {"prompt": [text for text in self.text for _ in range(repeat)]}


def read_rows(path: str) -> list[dict[str, Any]]:
    """The rows of a JSONL or Parquet file, or of a Hugging Face data set (`hf:NAME:CONFIG:SPLIT`).

    A half-written line is reported with its number.
    """
    file = Path(path)
    try:
        if path.startswith(HUB):
            rows = _dataset_rows(path)
        elif file.suffix == ".parquet":
            import pyarrow.parquet as pq

            rows = pq.read_table(file).to_pylist()
        else:
            rows = _json_lines(file)
    except OSError as error:
        raise DataError(f"cannot read `{path}`: {error.strerror or error}") from error
    except (UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error
    if not rows:
        raise DataError(f"{path}: no rows")
    return rows


def _dataset_rows(path: str) -> list[dict[str, Any]]:
    """A data set of the hub, or a folder that `save_to_disk` wrote or that holds data files."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"`{path}` needs the package datasets: pip install datasets") from error
    name, config, split, *_ = (*path.removeprefix(HUB).split(":"), "", "")
    saved = any((Path(name) / f).exists() for f in ("state.json", "dataset_dict.json"))
    try:
        found = (
            datasets.load_from_disk(name) if saved else datasets.load_dataset(name, config or None)
        )
    except (datasets.exceptions.DatasetsError, FileNotFoundError) as error:
        raise DataError(f"cannot read `{path}`: {error}") from error
    if isinstance(found, datasets.DatasetDict):
        if (split or "train") not in found:
            have = ", ".join(f"`{name}`" for name in found)
            raise DataError(f"`{path}` has no split `{split or 'train'}`, it has {have}")
        found = found[split or "train"]
    rows: list[dict[str, Any]] = found.to_list()
    return rows


def _json_lines(file: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{file}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{file}:{number}: a row is an object, not {type(row).__name__}")
        rows.append(row)
    return rows


def load_prompts(path: str, data: Data, policy: Policy, *, limit: int = 0) -> Prompts:
    """Prompts of a file, templated and tokenised; `limit` rows at most, 0 = all."""
    rows = [_mapped(row, data.map) for row in read_rows(path)]
    text, ids, kept = [], [], []
    bad: list[str] = []
    for number, row in enumerate(rows, start=1):
        try:
            prompt = _prompt_text(row.get(data.prompt), data, policy)
        except ValueError as error:
            bad.append(f"row {number}: {error}")
            continue
        tokens = _tokens(prompt, policy)
        if data.max_prompt_tokens and len(tokens) > data.max_prompt_tokens:
            continue
        text.append(prompt)
        ids.append(tokens)
        kept.append(row)
        if limit and len(kept) == limit:
            break
    if bad:
        more = f"; and {len(bad) - SHOWN} more rows" if len(bad) > SHOWN else ""
        raise DataError(f"{path}: {'; '.join(bad[:SHOWN])}{more} - column `{data.prompt}`")
    if not kept:
        raise DataError(f"{path}: every prompt is longer than {data.max_prompt_tokens} tokens")
    return Prompts(text, ids, kept, data.prefix, len(rows) - len(kept) if not limit else 0)


def _mapped(row: dict[str, Any], mapping: dict[str, str]) -> dict[str, Any]:
    """The row, with its values also under the names that the ruleset reads."""
    found = dict(row)
    for name, path in mapping.items():
        value: Any = row
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        found[name] = value
    return found


def _prompt_text(prompt: Any, data: Data, policy: Policy) -> str:
    """Plain text as it is, messages through the model's template; then the prefix."""
    if isinstance(prompt, str) and prompt and data.chat:
        prompt = [{"role": "user", "content": prompt + data.suffix}]
    if isinstance(prompt, str) and prompt:
        return prompt + data.suffix + data.prefix
    if isinstance(prompt, list) and prompt:
        if policy.tokenizer.chat_template is None:
            raise ValueError("chat messages, but the tokenizer has no chat template")
        try:
            text: str = policy.tokenizer.apply_chat_template(
                prompt, tokenize=False, add_generation_prompt=True
            )
        except (TypeError, KeyError, jinja2.TemplateError) as error:
            raise ValueError(f"the chat template refuses it: {error}") from error
        return text + data.prefix
    raise ValueError("no prompt" if prompt is None else f"no prompt: {str(prompt)[:40]!r}")


def _tokens(prompt: str, policy: Policy) -> list[int]:
    """Token ids with one BOS at most.

    A chat template or the text may write the BOS that the tokenizer adds as well (Llama, Gemma),
    and no model has seen two in training.
    """
    ids, bos = policy.encode(prompt), policy.tokenizer.bos_token_id
    while bos is not None and ids[:2] == [bos, bos]:
        ids = ids[1:]
    return ids


class Sampler:
    """Draws prompt indices in a new order every epoch; a checkpoint needs only its `position`.

    >>> sampler = Sampler(3, seed=0)
    >>> first = sampler.take(4)
    >>> sorted(first[:3]), sampler.position
    ([0, 1, 2], 4)
    """

    def __init__(self, size: int, *, seed: int, position: int = 0) -> None:
        self.size, self.seed, self.position = size, seed, position
        self._epoch, self._order = -1, [0]

    def take(self, count: int) -> Sequence[int]:
        """The next `count` indices."""
        found = []
        for _ in range(count):
            epoch, place = divmod(self.position, self.size)
            if epoch != self._epoch:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                self._order = torch.randperm(self.size, generator=generator).tolist()
                self._epoch = epoch
            found.append(self._order[place])
            self.position += 1
        return found
