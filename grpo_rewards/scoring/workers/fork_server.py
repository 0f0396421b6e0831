"""The fork server: a process that has SymPy loaded and forks a worker whenever it is asked to.

The program starts one, by `exec`, so nothing of the program's state, threads or `__main__` is
copied, and a worker that had to be killed is replaced in milliseconds. This file is both ends:
`ForkServer` in the program, `serve_forks` in the process.

No process is left behind: the server ends when its socket closes or its parent is gone, and the
kernel ends its workers with it (PR_SET_PDEATHSIG; elsewhere they end when their sockets close).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

_MESSAGE = struct.Struct("!cq")  # b"+" and megabytes, or b"-" and a pid; each has one reply
_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[2]);"
    " from grpo_rewards.scoring.workers.fork_server import serve_forks;"
    " serve_forks(int(sys.argv[1]))"
)
_PDEATHSIG = 1  # the option of Linux's prctl by which a child dies with its parent
_PARENT_CHECK_S = 1.0  # how often the server looks whether its parent lives


class ForkServer:
    """The end of the program: `start` gives (pid, connection) of a new worker, `kill` ends one."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno()), json.dumps(sys.path)],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # the terminal's ^C is the program's to handle
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        self._socket = ours
        self._lock = threading.Lock()

    def start(self, memory_mb: int) -> tuple[int, Any]:
        """A new worker whose address space may grow by `memory_mb`. OSError where the server is
        gone."""
        ours, theirs = socket.socketpair()
        try:
            with self._lock, theirs:
                socket.send_fds(self._socket, [_MESSAGE.pack(b"+", memory_mb)], [theirs.fileno()])
                pid = _receive(self._socket)[1]
        except OSError:
            ours.close()
            raise
        return pid, Connection(ours.detach())

    def kill(self, pid: int) -> None:
        """End a worker at once. Only the server reaps its children, so until then the pid is that
        of the worker and of no other process."""
        with self._lock, contextlib.suppress(OSError):
            self._socket.sendall(_MESSAGE.pack(b"-", pid))
            _receive(self._socket)

    def close(self) -> None:
        """End the server and all of its workers, and wait for it."""
        self._socket.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """Let go of the server in a forked copy of the program; it belongs to the original."""
        self._socket.close()
        self._process.returncode = 0


def _receive(connection: socket.socket) -> tuple[bytes, int]:
    reply = connection.recv(_MESSAGE.size, socket.MSG_WAITALL)
    if len(reply) < _MESSAGE.size:
        raise ConnectionResetError("the fork server is gone")
    kind, number = _MESSAGE.unpack(reply)
    return kind, number


# In the process of the server


def serve_forks(fd: int) -> None:
    """Serve requests until the program is gone. Runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    import sympy  # noqa: F401 - every worker needs it; here it is loaded once

    control = socket.socket(fileno=fd)
    children: set[int] = set()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the program went away
        while os.getppid() == parent and _answer(control, children):
            pass
    for pid in children:
        _end(pid)
    os._exit(0)


def _answer(control: socket.socket, children: set[int]) -> bool:
    """Wait a while for a request and do what it asks; False when there will be no more."""
    ready, _, _ = select.select([control], [], [], _PARENT_CHECK_S)
    _reap(children)
    if not ready:
        return True
    message, fds, _, _ = socket.recv_fds(control, _MESSAGE.size, 1)
    if len(message) < _MESSAGE.size:
        return False
    kind, number = _MESSAGE.unpack(message)
    if kind == b"+":
        number = _fork(control, fds[0], number)
        children.add(number)
        os.close(fds[0])
    elif number in children:
        _end(number)
        children.discard(number)
    control.sendall(_MESSAGE.pack(kind, number))
    return True


def _reap(children: set[int]) -> None:
    for pid in list(children):
        if os.waitpid(pid, os.WNOHANG)[0]:
            children.discard(pid)


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)  # not reaped yet, so the pid is still its own
    os.waitpid(pid, 0)


def _fork(control: socket.socket, fd: int, memory_mb: int) -> int:
    server = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        control.close()
        _die_with(server)
        _limit_memory(memory_mb)
        from grpo_rewards.scoring.workers.worker import serve_tasks

        serve_tasks(Connection(fd))
    finally:
        os._exit(0)


def _die_with(parent: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the kernel was told
        os._exit(0)


def _limit_memory(megabytes: int) -> None:
    """Limit what this process may map to `megabytes` beyond what the server maps, which differs
    from machine to machine."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        limit = _mapped_bytes() + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _mapped_bytes() -> int:
    with contextlib.suppress(OSError), open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return 0
