"""Files of any size and any state: every row once, as it was, or one line that says where."""

from __future__ import annotations

import datetime
import functools
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scored_run
from hypothesis import given
from hypothesis import strategies as st

import grpo_rewards as gr
from grpo_rewards import limits
from grpo_rewards.data import jsonl
from grpo_rewards.data.file_scoring import Task, score_file
from grpo_rewards.data.group_ids import SeenGroups, group_digest
from grpo_rewards.data.kinds import open_dataset
from grpo_rewards.data.reader import Shard
from grpo_rewards.data.statistics import Totals
from grpo_rewards.scoring.dataset_checks import Checks

LENGTH = "input completion: chat\nscore n = text.length(completion)\nreward = n"


def score(
    data: Path, out: Path | None, ruleset: str = LENGTH, *, batch_rows: int = 8, **task: Any
) -> Totals:
    return score_file(loaded(ruleset), data, out, Task(batch_rows=batch_rows, **task))


@functools.cache
def loaded(ruleset: str) -> gr.Scorer:
    return gr.loads(ruleset, workers=0)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a scored file."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    with path.open("rb") as file:
        return [json.loads(line) for line in jsonl.uncompressed(file, path.suffix)]


def write(path: Path, rows: list[Any]) -> Path:
    texts = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    data = "".join(text + "\n" for text in texts).encode("utf-8", "surrogatepass")
    path.write_bytes(jsonl.compressed(data, path.suffix))
    return path


def rows_of(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"id": i, "completion": "x" * (i % 7), **more} for i in range(count)]


# What is read and written


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(rows=st.lists(st.dictionaries(st.text(), JSON, max_size=3), min_size=1, max_size=20))
def test_a_row_keeps_its_own_bytes(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    rows = [{**row, "completion": "abc"} for row in rows]
    rows = [{k: v for k, v in row.items() if not k.startswith(("n", "reward"))} for row in rows]
    data, out = write(folder / "bytes.jsonl", rows), folder / "bytes-out.jsonl"
    score(data, out)
    scores = ',"n":3.0,"reward":3.0,"n_status":"ok","reward_status":"ok"}'
    expected = [line[:-1] + scores for line in data.read_text().splitlines()]
    assert out.read_text().splitlines() == expected


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_every_kind_of_file_becomes_every_kind(tmp_path: Path, ending: str) -> None:
    rows = rows_of(50, deep={"a": [1, 2]})
    data = write(tmp_path / f"data.{ending}", rows) if ending != "parquet" else None
    if data is None:
        data = tmp_path / "data.parquet"
        pq.write_table(pa.Table.from_pylist(rows), data, row_group_size=11)
    for target in ("jsonl", "jsonl.gz", "jsonl.zst", "parquet"):
        score(data, tmp_path / f"out.{target}")
        found = read(tmp_path / f"out.{target}")
        assert [{k: row[k] for k in rows[0]} for row in found] == rows
        assert [row["n"] for row in found] == [len(row["completion"]) for row in rows]


def test_long_integers_and_odd_numbers_stay_as_they_were(tmp_path: Path) -> None:
    gold = 10**30 + 1
    line = f'{{"completion": "\\\\boxed{{{gold}}}", "gold": {gold}, "x": 1.10, "y": 1e400}}'
    rules = (
        "input completion: chat\ninput gold: text\n"
        "reward = math.equal(extract.boxed(completion), gold)"
    )
    score(write(tmp_path / "a.jsonl", [line]), tmp_path / "o.jsonl", rules)
    text = (tmp_path / "o.jsonl").read_text()
    assert text.startswith(line[:-1]) and '"reward":1.0' in text.replace("true", "1.0")


def test_lone_surrogates_and_nul_are_data(tmp_path: Path) -> None:
    rows = ['{"completion": "\\ud800 a\\u0000b", "t": "\\udfff"}', '{"completion": "\U0001f600"}']
    data = write(tmp_path / "a.jsonl", rows)
    score(data, tmp_path / "o.jsonl")
    assert (tmp_path / "o.jsonl").read_text().startswith(rows[0][:-1])
    score(data, tmp_path / "o.parquet")
    found = read(tmp_path / "o.parquet")
    assert [row["n"] for row in found] == [5, 1]
    assert found[0]["completion"] == "� a\0b" or found[0]["completion"].endswith(" a\0b")


@pytest.mark.parametrize(
    "raw", [b'{"completion": "\xed\xa0\x80"}', b'{"completion": "a", "x": NaN}'],
    ids=["a surrogate as bytes", "NaN"],
)  # fmt: skip
def test_what_only_lenient_readers_take_is_written_for_all(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(raw + b"\n")
    score(tmp_path / "a.jsonl", tmp_path / "o.jsonl")
    row = json.loads((tmp_path / "o.jsonl").read_bytes(), parse_constant=pytest.fail)
    assert row["n"] == 1


def test_parquet_keeps_its_types_and_metadata(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame(
        {
            "completion": pd.Series(["a", "bb", None] * 9, dtype="category"),
            "when": [datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)] * 27,
            "small": pd.array([1, 2, None] * 9, dtype="Int8"),
        },
        index=pd.Index(range(100, 127), name="row"),
    )
    frame.to_parquet(tmp_path / "a.parquet", row_group_size=5)
    score(tmp_path / "a.parquet", tmp_path / "o.parquet")
    found = pd.read_parquet(tmp_path / "o.parquet")
    pd.testing.assert_frame_equal(found[list(frame)], frame)
    before, after = (pq.read_schema(tmp_path / f"{name}.parquet") for name in "ao")
    assert [after.field(name) for name in before.names] == list(before)
    score(tmp_path / "a.parquet", tmp_path / "o.jsonl")
    assert read(tmp_path / "o.jsonl")[0]["when"].startswith("2026-01-01")


def test_structs_without_fields_are_written_as_text(tmp_path: Path) -> None:
    rows = [{"completion": "a", "m": {}, "deep": [{"x": {}}], "later": {}} for _ in range(9)]
    rows.append({"completion": "b", "m": {}, "deep": [], "later": {"k": 1}})
    score(write(tmp_path / "a.jsonl", rows), tmp_path / "o.parquet")
    found = read(tmp_path / "o.parquet")
    assert found[0]["m"] == "{}" and json.loads(found[0]["deep"]) == [{"x": {}}]
    assert found[9]["later"] == {"k": 1}


def test_the_schema_of_parquet_does_not_depend_on_the_first_rows(tmp_path: Path) -> None:
    rows = [{"completion": None, "a": None}] * 20 + [{"completion": "x", "a": 1}]
    rows += [{"completion": "x", "a": 1.5, "b": {"c": [None]}}, {"b": {"c": ["t"], "d": True}}]
    rules = "input completion: chat\nscore t = text.length(completion) > 2\nreward = 0.5 * t"
    score(write(tmp_path / "a.jsonl", rows), tmp_path / "o.parquet", rules, batch_rows=1)
    schema = pq.read_schema(tmp_path / "o.parquet")
    assert schema.field("t").type == pa.bool_() and schema.field("reward").type == pa.float64()
    assert schema.field("a").type == pa.float64()
    assert read(tmp_path / "o.parquet")[-1]["b"] == {"c": ["t"], "d": True}


@given(
    kinds=st.lists(st.sampled_from([None, 1, 2.5, "t", True, [1], ["t"], {"a": 1}, {"b": None}]))
)
def test_parquet_has_the_rows_or_says_which_column_fits_no_type(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[Any]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    rows = [{"completion": "x", "k": kind} for kind in [None, *kinds]]
    data, out = write(folder / "kinds.jsonl", rows), folder / "kinds.parquet"
    try:
        score(data, out, batch_rows=2)
    except gr.BatchError as error:
        assert "column `k`" in str(error) and "kinds.jsonl:" in str(error)
        assert "-o OUT.jsonl" in str(error)
    else:
        for row, kind in zip(read(out), [None, *kinds], strict=True):
            found = row["k"]
            if isinstance(kind, dict):
                found = {k: found[k] for k in kind}
            assert found == kind


# What is wrong with a file


def test_mixed_schemas_are_rows_with_nulls(tmp_path: Path) -> None:
    rows = [{"completion": "a"}, {"other": 1}, {"completion": None}, {"completion": "bb", "z": []}]
    for ending in ("jsonl", "parquet"):
        out = tmp_path / f"o.{ending}"
        totals = score(write(tmp_path / "a.jsonl", rows), out, batch_rows=1)
        assert [row["n"] for row in read(out)] == [1, None, None, 2]
        assert totals.tallies["n"].null == 2


def test_inputs_are_found_in_later_rows_too(tmp_path: Path) -> None:
    rows = [{"id": 0}, {"id": 1, "completion": "abc"}]
    score(write(tmp_path / "a.jsonl", rows), tmp_path / "o.jsonl")
    assert [row["n"] for row in read(tmp_path / "o.jsonl")] == [None, 3]


def test_a_column_that_changes_its_type_is_named_with_its_line(tmp_path: Path) -> None:
    rows: list[Any] = rows_of(20)
    rows[13]["completion"] = {"text": "a dict"}
    with pytest.raises(gr.BatchError, match=r"a.jsonl:14: column `completion`: a dict, but"):
        score(write(tmp_path / "a.jsonl", rows), tmp_path / "o.jsonl")


MISTAKES = {
    "Latin-1": ('{"completion": "café"}\n'.encode("latin-1"), r"2:20: byte 0xe9 is not UTF-8"),
    "Latin-1 without an end": ('{"completion": "éa'.encode("latin-1"), r"2:17: byte 0xe9 is not"),
    "a character cut in two": (
        '{"completion": "€'.encode()[:-1],
        r"2:17: the last line is cut off",
    ),
    "a comma too many": (b'{"completion": "a",}\n', r"2:20: not JSON"),
    "an object without end": ('{"completion": "€"\r\n'.encode(), r"2:19: not JSON"),
    "a list": (b"[1]\n", r"2: a row is an object, not a list"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_wrong_with_a_line_has_its_line_and_column(tmp_path: Path, name: str) -> None:
    raw, message = MISTAKES[name]
    data = tmp_path / "a.jsonl"
    data.write_bytes(b'{"completion": "a"}\n' + raw)
    with pytest.raises(gr.BatchError, match=rf"a\.jsonl:{message}"):
        score(data, None)


@pytest.mark.parametrize("batch_rows", [1, 4, 100])
def test_a_value_that_fits_no_type_is_named_with_its_line(tmp_path: Path, batch_rows: int) -> None:
    rows = [{"completion": "a", "k": 7 if i < 20 else "seven"} for i in range(25)]
    data = write(tmp_path / "a.jsonl", [{"completion": "a"}, *rows])
    with pytest.raises(gr.BatchError, match=r"a\.jsonl:22: column `k`"):
        score(data, tmp_path / "o.parquet", batch_rows=batch_rows)


DOUBLED = {
    '{"completion": "a", "completion": "b"}': 1,
    '{"completion": "a", "x": {"k": 1, "k": 2}}': 1,
    '{"completion": "a", "x": [{"k" : 1}, {"k" : 1, "k" : 2}]}': 1,
    '{"completion" : "a", "b" : 1}': 0,
    '{"completion": "{\\"k\\": 1, \\"k\\": 2}"}': 0,
    '{"completion": "say \\"x\\": y", "z": {"completion": 1}}': 0,
    '{"completion": "a", "\\u0061": 1, "a": 2}': 1,
    '{"completion": "a"}': 0,
    "{}": 0,
}


@pytest.mark.parametrize("row", DOUBLED)
def test_a_key_that_stands_twice_is_counted(tmp_path: Path, row: str) -> None:
    data = write(tmp_path / "a.jsonl", [{"completion": "x"}, row, row])
    scorer, task = loaded(LENGTH), Task(batch_rows=2)
    totals = score_file(scorer, data, None, task, checks=Checks(scorer))
    assert totals.duplicate_keys == 2 * DOUBLED[row] and totals.rows == 3


@given(rows=st.lists(st.dictionaries(st.text(), JSON, max_size=3), min_size=1, max_size=9))
def test_rows_that_python_wrote_have_no_key_twice(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    data = write(tmp_path_factory.getbasetemp() / "keys.jsonl", [{"completion": "x"}, *rows])
    with open_dataset(data, counts_duplicate_keys=True) as dataset:
        (batch,) = dataset.batches(100, columns={})
    assert batch.end.duplicate_keys == 0


def test_duplicate_ids_are_rows_like_others(tmp_path: Path) -> None:
    rows = [{"id": 7, "completion": "x" * i} for i in range(30)]
    score(write(tmp_path / "a.jsonl", rows), tmp_path / "o.jsonl")
    assert [row["n"] for row in read(tmp_path / "o.jsonl")] == list(range(30))


def test_rows_of_five_megabytes_come_in_small_batches(tmp_path: Path) -> None:
    rows = [{"completion": "y", "blob": "z" * 5_000_000} for _ in range(9)]
    data = write(tmp_path / "a.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for path in (data, tmp_path / "a.parquet"):
        with open_dataset(path) as dataset:
            found = list(dataset.batches(512, columns={"c": "completion"}))
        assert max(len(batch) for batch in found) <= 4
        assert sum(len(batch) for batch in found) == 9
        score(path, tmp_path / "o.jsonl.zst")
        assert [len(row["blob"]) for row in read(tmp_path / "o.jsonl.zst")] == [5_000_000] * 9


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_MB", 1)
    data = write(tmp_path / "a.jsonl", [{"completion": "a"}, {"completion": "b" * 2_000_000}])
    with pytest.raises(gr.BatchError, match=r"a.jsonl:2: a line of more than 1 MB"):
        score(data, tmp_path / "o.jsonl", batch_rows=1)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
@pytest.mark.parametrize("lost", [1, 9, 400])
def test_a_truncated_tail_has_a_place_and_can_be_passed_over(
    tmp_path: Path, ending: str, lost: int
) -> None:
    rows, data, out = rows_of(3000, noise=""), tmp_path / f"data.{ending}", tmp_path / "o.jsonl"
    for row in rows:
        row["noise"] = group_digest(row["id"]).hex()
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), data)
    else:
        write(data, rows)
    lost += ending == "jsonl"  # its last byte is a line's end, which nobody misses
    data.write_bytes(data.read_bytes()[:-lost])
    with pytest.raises(gr.BatchError) as caught:
        score(data, out)
    assert str(caught.value).startswith(f"{data}:") and "hint: " in str(caught.value)
    assert not out.exists()
    if ending != "parquet":
        totals = score(data, out, on_bad_line="skip")
        found = read(out)
        assert [row["id"] for row in found] == list(range(len(found)))
        assert totals.skipped == 1 and len(found) == totals.rows
        assert len(found) >= (2000 if ending == "jsonl.zst" else 2900)  # it comes in blocks


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_damaged_middle_is_one_clear_error(tmp_path: Path, ending: str) -> None:
    data = write(tmp_path / f"a.jsonl{ending}", rows_of(5000))
    raw = bytearray(data.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 20] = bytes(20)
    data.write_bytes(raw)
    with pytest.raises(gr.BatchError, match=r"damaged or cut off|not JSON|no rows"):
        score(data, tmp_path / "o.jsonl")


def test_a_damaged_parquet_page_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows_of(5000)), path, row_group_size=500)
    raw = bytearray(path.read_bytes())
    raw[200:2000] = bytes([255]) * 1800
    path.write_bytes(raw)
    with pytest.raises(gr.BatchError, match=r"a.parquet: damaged near row \d+"):
        score(path, tmp_path / "o.jsonl")


@given(data=st.binary(min_size=1, max_size=300))
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_any_bytes_at_all_are_rows_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, ending: str, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any.{ending}"
    path.write_bytes(data)
    for mode in ("error", "skip"):
        try:
            score(path, path.with_name("any-out.jsonl"), on_bad_line=mode)
        except gr.BatchError as error:
            assert len(str(error).splitlines()) <= 3


def test_a_score_that_the_data_has_already_is_refused_in_any_row(tmp_path: Path) -> None:
    rows: list[Any] = rows_of(20)
    rows[17]["reward"] = 1
    with pytest.raises(gr.BatchError, match=r"a.jsonl:18: the data has a column `reward` already"):
        score(write(tmp_path / "a.jsonl", rows), tmp_path / "o.jsonl")


# Groups and shards


def test_groups_stay_together_whatever_the_batch_size(tmp_path: Path) -> None:
    rows = scored_run.make_rows(200)
    data = write(tmp_path / "a.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=7)
    for path in (data, tmp_path / "a.parquet"):
        for size in (1, 3, 64, 1000):
            with open_dataset(path) as dataset:
                found = list(dataset.batches(size, columns={"id": "id"}, group="g"))
            groups = [set(batch.columns["group"]) for batch in found]
            assert sum(map(len, groups)) == len(set.union(*groups))
            assert [i for batch in found for i in batch.columns["id"]] == list(range(200))


def test_a_group_that_comes_back_is_an_error_with_its_place(tmp_path: Path) -> None:
    rows = scored_run.make_rows(200)
    rows[150]["g"] = rows[3]["g"]
    with pytest.raises(gr.BatchError, match=r"a.jsonl:151: group \d+ was there before") as caught:
        score(
            write(tmp_path / "a.jsonl", rows), tmp_path / "o.jsonl", scored_run.GROUPED, group="g"
        )
    assert "sort the file by `g`" in str(caught.value)


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_row_without_a_group_is_an_error_with_its_place(tmp_path: Path, value: Any) -> None:
    rows = scored_run.make_rows(50)
    rows[20]["g"] = value
    with pytest.raises(gr.BatchError, match=r"a.jsonl:21: no group id"):
        score(
            write(tmp_path / "a.jsonl", rows), tmp_path / "o.jsonl", scored_run.GROUPED, group="g"
        )


def test_a_group_column_that_names_no_prompts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["grpo_rewards.data.reader"], "MAX_GROUP_ROWS", 50)
    rows = [{**row, "g": 0} for row in scored_run.make_rows(100)]
    with pytest.raises(gr.BatchError, match=r"a.jsonl:51: a group of more than 50 rows"):
        score(
            write(tmp_path / "a.jsonl", rows), tmp_path / "o.jsonl", scored_run.GROUPED, group="g"
        )


def test_group_ids_may_be_anything(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"completion": "a", "answer": "1", "n": 1, "g": g}
        for g in ([1], {"a": 1}, "[1]x", 1, "1", True and 2, 2.5, "\ud800")
    ]
    score(write(tmp_path / "a.jsonl", rows), tmp_path / "o.jsonl", scored_run.GROUPED, group="g")
    assert len(read(tmp_path / "o.jsonl")) == len(rows)


def test_a_limit_ends_with_a_group(tmp_path: Path) -> None:
    rows = scored_run.make_rows(200)
    data = write(tmp_path / "a.jsonl", rows)
    for limit in (1, 10, 100, 200, 500):
        rule = scored_run.GROUPED
        done = score(data, tmp_path / "o.jsonl", rule, group="g", limit=limit).rows
        last = rows[min(limit, 200) - 1]["g"]
        assert done == sum(row["g"] <= last for row in rows)
        assert score(data, None, limit=limit).rows == min(limit, 200)


@pytest.mark.parametrize("group", [None, "g"])
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("count", [1, 2, 5, 60])
def test_shards_deal_out_every_row_once(
    tmp_path: Path, count: int, ending: str, group: str | None
) -> None:
    rows, data = scored_run.make_rows(200), tmp_path / f"a.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), data, row_group_size=33)
    else:
        write(data, rows)
    found: list[int] = []
    groups: list[set[Any]] = []
    for index in range(count):
        shard = Shard(index, count)
        ids: list[int] = []
        groups.append(set())
        with open_dataset(data) as dataset:
            for batch in dataset.batches(16, columns={"id": "id"}, group=group, shard=shard):
                ids += batch.columns["id"]
                groups[-1] |= set(batch.columns.get("group", ()))
        assert ids == sorted(ids)
        found += ids
    assert sorted(found) == list(range(200))
    if group:
        assert sum(map(len, groups)) == len(set.union(*groups))


def test_a_shard_without_rows_is_a_file_without_rows(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", rows_of(1))
    for ending in ("jsonl", "parquet"):
        score(data, tmp_path / f"o.{ending}", shard=Shard(1, 2))
        assert read(tmp_path / f"o.{ending}") == []


@given(numbers=st.lists(st.integers(0, 40)))
def test_seen_knows_what_it_saw(numbers: list[int]) -> None:
    fresh, known = SeenGroups(), set[int]()
    for number in numbers:
        assert fresh.add(group_digest(number)) == (number not in known)
        known.add(number)
    again = SeenGroups(b"".join(group_digest(number) for number in known))
    assert not any(again.add(group_digest(number)) for number in known)


def test_many_groups_are_remembered_in_little_memory() -> None:
    seen = SeenGroups()
    assert all(seen.add(group_digest(i)) for i in range(20_000))
    assert not any(seen.add(group_digest(i)) for i in range(0, 20_000, 97))
    assert seen._sorted.nbytes <= 8 * 20_000


def test_equal_group_ids_have_equal_digests() -> None:
    assert group_digest(1) == group_digest(1.0) == group_digest(True)
    assert group_digest(1) != group_digest("1")


def test_compressed_files_are_rows_of_whole_members(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", rows_of(40))
    score(data, tmp_path / "o.jsonl.gz")
    score(data, tmp_path / "o.jsonl")
    assert (
        gzip.decompress((tmp_path / "o.jsonl.gz").read_bytes())
        == (tmp_path / "o.jsonl").read_bytes()
    )


def test_batches_are_bounded_in_bytes() -> None:
    assert limits.MAX_BATCH_MB * 2**20 < limits.MAX_LINE_MB * 2**20
