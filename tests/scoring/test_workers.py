"""Killable workers: deadlines from any thread, memory limits, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from grpo_rewards.columns import Status
from grpo_rewards.errors import RuleError
from grpo_rewards.scoring.workers.pool import Workers


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
    kills = pool.kills
    assert pool.map(sleep, [(0.0,), (3600.0,), (0.01,)]) == [0.0, Status.TIMEOUT, 0.01]
    assert pool.kills == kills + 1  # it was killed, not waited for


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


def _children(pid: int) -> list[int]:
    """All processes below one, as Linux tells; those that end meanwhile are none."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *_children(int(child))]
    return found


def _gone(pids: list[int], patience_s: float = 30) -> bool:
    """Whether all of them end, in time."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.05)
    return False


linux = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")

PROGRAM = """
import signal, sys, time
from grpo_rewards.scoring.workers.pool import Workers
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
workers = Workers(processes=2, deadline_s=600)
workers.map(divmod, [(7, 2)] * 9)
print("ready", flush=True)
{then}
"""


@linux
def test_a_fork_server_whose_program_went_away_ends_in_silence() -> None:
    """A request was on its way when the program died: its answer finds nobody."""
    module = "grpo_rewards.scoring.workers.fork_server"
    code = f"from {module} import serve_forks; import sys; serve_forks(int(sys.argv[1]))"
    ours, theirs = socket.socketpair()
    gift, other = socket.socketpair()
    with theirs, gift, other:
        program = subprocess.Popen(
            [sys.executable, "-c", code, str(theirs.fileno())],
            pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        for _ in range(20):
            socket.send_fds(ours, [struct.pack("!cq", b"+", 64)], [gift.fileno()])
    ours.close()
    _, told = program.communicate(timeout=120)
    assert program.returncode == 0 and told == ""


@linux
@pytest.mark.parametrize(
    ("then", "signal_number"),
    [
        ("workers.close(); print('closed', flush=True); time.sleep(600)", None),
        ("", None),
        ("workers.map(time.sleep, [(600,), (600,)])", signal.SIGINT),
        ("workers.map(time.sleep, [(600,), (600,)])", signal.SIGTERM),
        ("workers.map(time.sleep, [(600,), (600,)])", signal.SIGKILL),
        ("raise SystemError", None),
    ],
)
def test_no_process_is_left_behind(then: str, signal_number: int | None) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(then=then)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        below = _children(program.pid)
        if signal_number is not None:
            assert len(below) >= 2
            time.sleep(0.2)  # the work that is interrupted has begun
            program.send_signal(signal_number)
        if "closed" in then:
            assert program.stdout.readline() == "closed\n"
        assert _gone(below)
    finally:
        program.kill()
        program.communicate()


@linux
def test_a_worker_killed_by_somebody_else_loses_nothing(pool: Workers) -> None:
    def kill_one() -> None:
        time.sleep(0.3)
        workers = [p for p in _children(os.getpid()) if p not in before]
        os.kill(workers[-1], signal.SIGKILL)

    pool.close()
    before = _children(os.getpid())
    pool.map(double, [(1,)])
    killer = threading.Thread(target=kill_one)
    killer.start()
    assert pool.map(sleep, [(0.1,)] * 8) == [0.1] * 8
    killer.join()


@linux
def test_the_fork_server_may_be_killed_too(pool: Workers) -> None:
    pool.map(double, [(1,)])
    for pid in _children(os.getpid()):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"grpo_rewards.scoring.workers.fork_server" in command:
            os.kill(pid, signal.SIGKILL)
    assert pool.map(double, [(i,) for i in range(20)]) == [2 * i for i in range(20)]


def test_a_forked_copy_of_the_program_has_workers_of_its_own(pool: Workers) -> None:
    """As a DataLoader's workers have, which are daemons and forked."""
    pool.map(double, [(1,)])
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_in_a_daemon, args=(pool, theirs), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this process has threads
        process.start()
    theirs.close()
    assert ours.poll(120)
    assert ours.recv() == [8, Status.TIMEOUT]
    process.join()
    assert pool.map(double, [(4,)]) == [8]


def _in_a_daemon(pool: Workers, connection: Any) -> None:
    connection.send([*pool.map(double, [(4,)]), *pool.map(spin, [(1,)])])
    pool.close()


def test_an_event_loop_may_wait_for_a_deadline(pool: Workers) -> None:
    async def main() -> list[Any]:
        calls = [asyncio.to_thread(pool.map, function, [(3,)]) for function in (double, spin)]
        return await asyncio.gather(*calls)

    assert asyncio.run(main()) == [[6], [Status.TIMEOUT]]


def test_many_threads_share_few_workers() -> None:
    with Workers(processes=2, deadline_s=30) as workers, ThreadPoolExecutor(8) as threads:
        jobs = [[(i + j,) for j in range(50)] for i in range(20)]
        found = list(threads.map(lambda job: workers.map(double, job), jobs))
    assert found == [[2 * x for (x,) in job] for job in jobs]
