"""`grpo-rewards serve`: a ruleset behind HTTP."""

from __future__ import annotations

import ipaddress
import signal
import socket
from typing import Annotated

import typer

from grpo_rewards.cli.options import AllowExtern, File, Settings, err, opened
from grpo_rewards.errors import RewardError
from grpo_rewards.limits import MAX_BODY_BYTES, MAX_QUEUE


def serve_command(
    ruleset: File,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    token: Annotated[
        str,
        typer.Option(
            envvar="GRPO_REWARDS_TOKEN", help="What clients send as a bearer token; empty: none."
        ),
    ] = "",
    threads: Annotated[int, typer.Option(min=1, help="Requests that are scored at a time.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes for slow checks; 0: none.")] = 1,
    queue: Annotated[
        int, typer.Option(min=1, help="Requests that wait or run; beyond: 429.")
    ] = MAX_QUEUE,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds a request may take.")] = 60.0,
    max_body_mb: Annotated[
        float, typer.Option(min=0.001, help="Megabytes a request may have.")
    ] = MAX_BODY_BYTES / 2**20,
    settings: Settings = None,
    allow_upload: Annotated[
        bool, typer.Option("--allow-upload", help="Let clients send in rulesets.")
    ] = False,
    allow_extern: AllowExtern = False,
) -> None:
    """Serve a ruleset over HTTP: /score, /openrlhf, /verl, /healthz, /metrics, /openapi.json.

    SIGTERM and Ctrl-C let running requests end, then leave.
    """
    try:
        import uvicorn

        from grpo_rewards.server.app import ServeConfig, make_app
    except ImportError as error:
        message = f"serving needs {error.name}"
        raise RewardError(message, hint='pip install "grpo-rewards[serve]"') from None
    if not token and not _is_loopback(host):
        hint = "set GRPO_REWARDS_TOKEN, or listen on 127.0.0.1"
        raise RewardError(f"{host} can be reached by others, and there is no token", hint=hint)
    limits = ServeConfig(
        token=token, deadline_s=deadline, max_body_bytes=int(max_body_mb * 2**20),
        max_queue=queue, threads=threads, allow_upload=allow_upload,
    )  # fmt: skip
    with opened(ruleset, settings, workers, allow_extern=allow_extern) as scorer:
        config = uvicorn.Config(
            make_app(scorer, limits), host=host, port=port, log_level="warning",
            access_log=False, timeout_graceful_shutdown=int(deadline) + 1, server_header=False,
        )  # fmt: skip
        listening = _bound(host, port)
        address = f"http://{host}:{listening.getsockname()[1]}"
        err.print(f"serving {scorer.graph.name} {scorer.hash[:12]} on {address}", markup=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _leave)
        uvicorn.Server(config).run(sockets=[listening])


def _bound(host: str, port: int) -> socket.socket:
    """A socket at the address; RewardError where another program has it."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        message = f"{host}:{port}: {error.strerror or error}"
        raise RewardError(message, hint="another --port, or 0 for any free one") from None


def _leave(number: int, frame: object) -> None:
    """Ignore a signal. uvicorn finishes its requests on one and then raises it again; by then all
    is done, and the exit code is to be 0."""


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
