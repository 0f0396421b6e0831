"""Verdicts kept on disk: equal scores with and without, and nothing in the folder is trusted."""

from __future__ import annotations

import os
import pickle
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import grpo_rewards as gr
from grpo_rewards.columns import Outcome, Status
from grpo_rewards.scoring.memo import FILE, DiskMemo, Memo, code_digest

RULESET = """
input completion: chat
input gold: text
score correct = math.equal(extract.boxed(completion), gold)
reward = correct
"""
#: Answers that only the slow half of `math.equal` decides.
BATCH = {
    "completion": [r"\boxed{\{x: x^2=7\}}", r"\boxed{\{x: x^2=8\}}", r"\boxed{7}", "none"],
    "gold": [r"\{\sqrt{7},-\sqrt{7}\}", r"\{3,-3\}", "7", "7"],
}


def half(x: float) -> float:
    return x / 2


def third(x: float) -> float:
    return x / 3


def rewards(memo: Path | None) -> tuple[list[float], int]:
    """The rewards of the batch, and how many items slow work was done for."""
    with gr.loads(RULESET, workers=0, memo=memo) as scorer:
        scores = scorer(**BATCH)
        return scores.reward.tolist(), sum(op.deferred for op in scores.ops.values())


def test_the_digest_of_the_code_covers_every_rule_and_grammar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: set[Path] = set()
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.add(path) or read_bytes(path))
    code_digest.__wrapped__()
    home = Path(gr.__file__).parent
    rules = {path for path in (home / "rules").rglob("*") if path.suffix in (".py", ".lark")}
    assert len(rules) > 40 and read == rules | set((home / "grammars").glob("*.lark"))


def test_scores_are_equal_with_and_without_a_memo(tmp_path: Path) -> None:
    plain, work = rewards(None)
    assert plain == [1, 0, 1, 0] and work == 2
    assert rewards(tmp_path) == (plain, work)
    again, less = rewards(tmp_path)
    assert again == plain and less == 0


def test_a_scorer_with_a_memo_travels_by_pickle(tmp_path: Path) -> None:
    plain, _ = rewards(tmp_path)
    with gr.loads(RULESET, workers=0, memo=tmp_path) as scorer:
        copy = pickle.loads(pickle.dumps(scorer))
        assert copy(**BATCH).reward.tolist() == plain


@given(value=st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, width=64))
def test_what_was_put_is_found(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    folder = tmp_path_factory.getbasetemp() / "law"
    finite = not isinstance(value, float) or abs(value) != float("inf")
    memo = DiskMemo(folder)
    memo.put(half, (value, "x"), Outcome(value, Status.OK))
    found = memo.get(half, (value, "x"))
    assert not finite or (found == (value, Status.OK) and type(found[0]) is type(value))
    memo.close()


@given(keys=st.lists(st.integers(0, 30)), limit=st.integers(0, 12))
def test_a_memo_in_memory_is_bounded_and_never_wrong(keys: list[int], limit: int) -> None:
    memo = Memo(limit)
    for key in keys:
        assert memo.get(key) in (None, (key, Status.OK))
        memo.put(key, Outcome(key, Status.OK))
        assert len(memo) <= limit
        assert limit < 2 or memo.get(key) == (key, Status.OK)


def test_entries_of_other_work_and_other_versions_are_not_found(tmp_path: Path) -> None:
    DiskMemo(tmp_path, versions="1").put(half, (1,), Outcome(0.5, Status.OK))
    assert DiskMemo(tmp_path, versions="1").get(half, (1,)) == (0.5, Status.OK)
    assert DiskMemo(tmp_path, versions="2").get(half, (1,)) is None
    assert DiskMemo(tmp_path, versions="1").get(third, (1,)) is None
    assert DiskMemo(tmp_path, versions="1").get(half, (1.5,)) is None


def test_equal_arguments_are_one_entry_whatever_objects_they_share(tmp_path: Path) -> None:
    memo, text = DiskMemo(tmp_path), "".join(["4", "2"])
    memo.put(half, (text, text), Outcome(True, Status.OK))
    assert memo.get(half, ("42", "".join(["4", "2"]))) == (True, Status.OK)


@pytest.mark.parametrize("status", [Status.TIMEOUT, Status.FAILED, Status.TOO_LARGE])
def test_what_the_machine_cut_short_is_not_kept(tmp_path: Path, status: Status) -> None:
    memo = DiskMemo(tmp_path)
    memo.put(half, (1,), Outcome(None, status))
    assert memo.get(half, (1,)) is None


class Trap:
    """Unpickling one leaves a trace."""

    def __reduce__(self) -> Any:
        return os.putenv, ("GRPO_TRAP", "sprung")


DAMAGE = {
    "a pickle": (pickle.dumps(Trap()), 0, b"12345678"),
    "another value": ("true", 0, None),
    "another status": (None, 2, None),
    "no JSON": ("{", 0, b""),
    "a list": ("[1]", 0, None),
    "another kind": (3.5, "x", 7),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_or_foreign_entry_counts_as_absent(tmp_path: Path, damage: Any) -> None:
    memo = DiskMemo(tmp_path)
    memo.put(half, (1,), Outcome(0.5, Status.OK))
    memo.close()
    with sqlite3.connect(tmp_path / FILE) as database:
        for name, value in zip(("value", "status", "seal"), damage, strict=True):
            if value is not None:
                database.execute(f"UPDATE verdicts SET {name} = ?", (value,))
    database.close()
    memo = DiskMemo(tmp_path)
    assert memo.get(half, (1,)) is None
    memo.put(half, (1,), Outcome(0.5, Status.OK))
    assert memo.get(half, (1,)) == (0.5, Status.OK)


@pytest.mark.parametrize(
    "content", [b"", b"not a database" * 100, b"SQLite format 3\0" + b"x" * 99]
)
def test_a_file_that_is_no_database_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    memo = DiskMemo(tmp_path)
    memo.put(half, (1,), Outcome(0.5, Status.OK))
    assert memo.get(half, (1,)) == (0.5, Status.OK)


def test_a_table_of_another_shape_is_replaced(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute("CREATE TABLE verdicts (a, b)")
    database.close()
    memo = DiskMemo(tmp_path)
    memo.put(half, (1,), Outcome(0.5, Status.OK))
    assert memo.get(half, (1,)) == (0.5, Status.OK)


def test_a_memo_is_bounded_and_the_oldest_go_first(tmp_path: Path) -> None:
    memo = DiskMemo(tmp_path, limit_mb=0.25)
    for i in range(6000):
        memo.put(half, (i,), Outcome(i / 2, Status.OK))
    assert memo.get(half, (0,)) is None
    assert memo.get(half, (5999,)) == (2999.5, Status.OK)
    memo.close()
    assert (tmp_path / FILE).stat().st_size <= 2**18


def test_a_folder_that_cannot_be_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(gr.BatchError, match="no memo can be kept here"):
        DiskMemo(tmp_path / "file")


def test_a_memo_that_breaks_costs_no_score(tmp_path: Path) -> None:
    plain, _ = rewards(None)
    with gr.loads(RULESET, workers=0, memo=tmp_path) as scorer:
        (tmp_path / FILE).write_bytes(b"broken" * 4000)
        assert scorer(**BATCH).reward.tolist() == plain


def test_threads_share_a_memo(tmp_path: Path) -> None:
    memo = DiskMemo(tmp_path)
    with ThreadPoolExecutor(4) as threads:
        for i in range(60):
            threads.submit(memo.put, half, (i,), Outcome(i / 2, Status.OK))
    assert [memo.get(half, (i,)) for i in range(60)] == [(i / 2, Status.OK) for i in range(60)]
