"""Killable workers: deadlines from any thread, memory limits, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from grpo_rewards.columns import Status
from grpo_rewards.errors import RuleError
from grpo_rewards.workers import Workers


def double(x: int) -> int:
    return 2 * x


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def spin(_: int) -> int:
    while True:
        pass


def fill(megabytes: int) -> int:
    return len(bytearray(megabytes * 2**20))


def die(code: int) -> None:
    os._exit(code)


def fail(x: int) -> int:
    raise KeyError(x)


@pytest.fixture(scope="module")
def pool() -> Iterator[Workers]:
    with Workers(deadline_s=1.0, memory_mb=1024) as workers:
        workers.map(double, [(0,)])
        yield workers


def test_results_come_back_in_order(pool: Workers) -> None:
    assert pool.map(double, [(i,) for i in range(20)]) == [2 * i for i in range(20)]


def test_only_the_item_that_outlives_the_deadline_is_lost(pool: Workers) -> None:
    start = time.perf_counter()
    assert pool.map(sleep, [(0.0,), (60.0,), (0.01,)]) == [0.0, Status.TIMEOUT, 0.01]
    assert time.perf_counter() - start < 15


def test_a_busy_loop_is_killed(pool: Workers) -> None:
    assert pool.map(spin, [(1,)]) == [Status.TIMEOUT]


def test_waiting_does_not_count_against_the_deadline(pool: Workers) -> None:
    assert pool.map(sleep, [(0.3,)] * 6) == [0.3] * 6


def test_memory_is_limited(pool: Workers) -> None:
    assert pool.map(fill, [(4000,)]) == [Status.TOO_LARGE]
    assert pool.map(double, [(4,)]) == [8]


def test_a_worker_that_dies_loses_its_item_only(pool: Workers) -> None:
    assert pool.map(die, [(3,)]) == [Status.FAILED]
    assert pool.map(double, [(4,)]) == [8]


def test_what_a_kernel_raises_is_our_bug(pool: Workers) -> None:
    with pytest.raises(RuleError, match="KeyError"):
        pool.map(fail, [(1,)])


def test_deadlines_work_from_any_thread(pool: Workers) -> None:
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: pool.map(sleep, [(30.0,)]), range(2)))
    assert found == [[Status.TIMEOUT]] * 2


def test_a_closed_pool_starts_again(pool: Workers) -> None:
    with Workers(deadline_s=5) as workers:
        assert workers.map(double, [(1,)]) == [2]
        workers.close()
        assert workers.map(double, [(2,)]) == [4]


def test_no_process_outlives_the_program() -> None:
    program = (
        "from grpo_rewards.workers import Workers\n"
        "import multiprocessing, os\n"
        "if __name__ == '__main__':\n"
        "    w = Workers(deadline_s=60)\n"
        "    w.map(divmod, [(7, 2)])\n"
        "    print(*[p.pid for p in multiprocessing.active_children()])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    pids = [int(pid) for pid in ran.stdout.split()]
    assert pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
