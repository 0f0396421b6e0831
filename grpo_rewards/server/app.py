"""A ruleset behind HTTP, for trainers that call out.

    POST /score       {"columns": {"completion": […], "gold": […]}}, or {"rows": [{…}, …]}
    POST /openrlhf    {"query": […], "prompts": […], "labels": […]}
    POST /verl        {"solution_str": …, "ground_truth": …, …}, or its plurals
    PUT  /rulesets    a ruleset's text, where uploads are allowed; then POST /score?ruleset=HASH
    GET  /healthz, /metrics, /openapi.json

Everything is bounded: the body, the rows, the requests that wait (429 beyond), the seconds that one
may take (504 beyond). A wrong request is answered with a 4xx and one message; a completion is never
wrong. Scoring runs in threads, so that the event loop stays free to answer.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import prometheus_client as prometheus
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from grpo_rewards import json_text
from grpo_rewards.adapters.openrlhf import OpenRLHFReward
from grpo_rewards.adapters.verl import VerlReward
from grpo_rewards.columns import Status
from grpo_rewards.errors import BatchError, RewardError, RuleError
from grpo_rewards.limits import (
    MAX_BODY_BYTES,
    MAX_QUEUE,
    MAX_REQUEST_ROWS,
    MAX_RULESET_CHARS,
    MAX_UPLOADS,
)
from grpo_rewards.scoring.scorer import Scorer, loads
from grpo_rewards.server.openapi import document


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """What the server allows. `token` is what clients send as `Authorization: Bearer …`; empty asks
    for none. `deadline_s` counts from the first byte to the reply, waiting included."""

    token: str = ""
    deadline_s: float = 60.0
    max_body_bytes: int = MAX_BODY_BYTES
    max_rows: int = MAX_REQUEST_ROWS
    max_queue: int = MAX_QUEUE
    threads: int = 1
    allow_upload: bool = False


class Refusal(Exception):
    """A reply other than 200: the request is at fault, or it came at a bad moment."""

    def __init__(self, code: int, message: str, *, retry_s: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.headers = {"Retry-After": str(retry_s)} if retry_s else {}


class Meter:
    """What /metrics shows, in a registry of its own, so that several servers fit in one process."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        name, made = "grpo_rewards_", functools.partial(prometheus.Counter, registry=self.registry)
        self.requests = made(f"{name}requests", "Replies by path and code.", ["path", "code"])
        self.rows = made(f"{name}rows", "Rows scored.")
        self.errors = made(f"{name}row_errors", "Rows whose work was cut short.", ["status"])
        self.queue = prometheus.Gauge(
            f"{name}queue", "Requests that wait or run.", registry=self.registry
        )
        self.seconds = prometheus.Histogram(
            f"{name}request_seconds", "From request to reply.", ["path"], registry=self.registry
        )


Work = Callable[[Scorer, Any], Any]


@dataclass(slots=True)
class Service:
    """One scorer, its threads and its numbers."""

    scorer: Scorer
    config: ServeConfig
    meter: Meter = field(default_factory=Meter)
    uploads: dict[str, Scorer] = field(default_factory=dict)
    waiting: int = 0
    pool: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self.pool = ThreadPoolExecutor(self.config.threads, thread_name_prefix="score")

    def close(self) -> None:
        """Let running work end, drop what waits, and end the processes of the scorers."""
        self.pool.shutdown(wait=True, cancel_futures=True)
        for scorer in (self.scorer, *self.uploads.values()):
            scorer.close()

    # Requests

    async def answer(self, request: Request, work: Work) -> Response:
        """The reply to a POST: reads it within the bounds and scores it in a thread."""
        async with self._place():
            body = await self._json(request)
            scorer = self._scorer(request.query_params.get("ruleset", ""))
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self.pool, work, scorer, body)
        return _reply(found)

    @asynccontextmanager
    async def _place(self) -> Any:
        """A place in the queue; 429 where there is none."""
        if self.waiting >= self.config.max_queue:
            raise Refusal(429, "the queue is full; come back in a second", retry_s=1)
        self.waiting += 1
        self.meter.queue.set(self.waiting)
        try:
            yield
        finally:
            self.waiting -= 1
            self.meter.queue.set(self.waiting)

    async def _json(self, request: Request) -> Any:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # a web page may send other kinds to any address, unasked
            raise Refusal(415, "send application/json")
        body = await self.body(request, self.config.max_body_bytes)
        try:
            return json_text.read_value(body)
        except (ValueError, RecursionError) as error:
            raise Refusal(400, f"not JSON: {str(error)[:200]}") from None

    async def body(self, request: Request, limit: int) -> bytes:
        """The whole body; 413 as soon as it is longer than allowed."""
        parts: list[bytes] = []
        size = 0
        declared = request.headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > limit:
            raise Refusal(413, f"a body may have {limit} bytes")
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise Refusal(413, f"a body may have {limit} bytes")
            parts.append(part)
        return b"".join(parts)

    def _scorer(self, digest: str) -> Scorer:
        if not digest:
            return self.scorer
        if digest not in self.uploads:
            raise Refusal(404, "no such ruleset; PUT it to /rulesets first")
        return self.uploads[digest]

    async def upload(self, request: Request) -> Response:
        """Compile a ruleset that was sent in. Its `extern` functions never run, even where those of
        the served ruleset may."""
        if not self.config.allow_upload:
            raise Refusal(403, "uploads are off; start the server with --allow-upload")
        async with self._place():
            body = await self.body(request, 4 * MAX_RULESET_CHARS)
            try:
                text = body.decode()
            except UnicodeDecodeError:
                raise Refusal(400, "a ruleset is UTF-8 text") from None
            loop = asyncio.get_running_loop()
            scorer = await loop.run_in_executor(self.pool, functools.partial(loads, text))
        if scorer.hash in self.uploads:
            scorer.close()
        else:
            self.uploads[scorer.hash] = scorer
        if len(self.uploads) > MAX_UPLOADS:
            self.uploads.pop(next(iter(self.uploads))).close()
        return _reply({"hash": scorer.hash, "name": scorer.graph.name, "scores": scorer.names})

    # Work, in a thread

    def score(self, scorer: Scorer, body: Any) -> Any:
        """/score: rewards, scores and statuses as columns."""
        columns = self._columns(body)
        scores = scorer(**columns)
        self._count(scores.status, len(scores))
        found = scores.to_columns()
        return {
            "hash": scorer.hash,
            "reward": [None if value is None else float(value) for value in found["reward"]],
            "scores": {name: found[name] for name in scores.names},
            "status": {name: found[f"{name}_status"] for name in (*scores.names, "reward")},
        }

    def openrlhf(self, scorer: Scorer, body: Any) -> Any:
        """/openrlhf: what OpenRLHF's remote reward models answer."""
        queries = self._list(body, "query")
        prompts = self._list(body, "prompts", len(queries), "")
        labels = self._list(body, "labels", len(queries), None)
        if not all(isinstance(text, str) for text in (*queries, *prompts)):
            raise Refusal(422, "`query` and `prompts` are lists of texts")
        self.meter.rows.inc(len(queries))
        return OpenRLHFReward(scorer).lists(queries, prompts, labels)

    def verl(self, scorer: Scorer, body: Any) -> Any:
        """/verl: one row's scores, or a list of them."""
        if not isinstance(body, Mapping):
            raise Refusal(422, "send an object")
        names = ("data_source", "solution_str", "ground_truth", "extra_info")
        if "solution_strs" not in body:
            if not isinstance(body.get("solution_str"), str):
                raise Refusal(422, "`solution_str` is a text")
            body = {f"{name}s": [body.get(name)] for name in names}
            return self.verl(scorer, body)[0]
        size = len(self._list(body, "solution_strs"))
        known: dict[str, Any] = {
            f"{name}s": self._list(body, f"{name}s", size, None) for name in names
        }
        for extra in known["extra_infos"]:
            if extra is not None and not isinstance(extra, Mapping):
                raise Refusal(422, "`extra_infos` holds objects")
        group = body.get("group")
        self.meter.rows.inc(size)
        return VerlReward(scorer, group=group if isinstance(group, str) else None)(**known)

    def _columns(self, body: Any) -> dict[str, Any]:
        if not isinstance(body, Mapping) or ("columns" in body) == ("rows" in body):
            raise Refusal(422, 'send {"columns": {"completion": […], …}} or {"rows": [{…}, …]}')
        if "rows" in body:
            rows = self._list(body, "rows")
            if not all(isinstance(row, Mapping) for row in rows):
                raise Refusal(422, "`rows` holds objects")
            names = dict.fromkeys(name for row in rows for name in row)
            columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in names}
        else:
            columns = dict(body["columns"]) if isinstance(body["columns"], Mapping) else {}
        for name, values in columns.items():
            if not isinstance(values, list | int | float) or isinstance(values, bool):
                raise Refusal(422, f"column `{name[:60]}` is no list")
            if isinstance(values, list) and len(values) > self.config.max_rows:
                raise Refusal(413, f"a request may have {self.config.max_rows} rows")
        groups = columns.get("group", [])
        if not isinstance(groups, list) or not all(
            isinstance(g, str | int | float) for g in groups
        ):
            raise Refusal(422, "`group` is a list of texts or numbers")
        return columns

    def _list(self, body: Any, name: str, size: int | None = None, fill: Any = None) -> list[Any]:
        """A list of the body, of the right length; filled where it may be absent."""
        if not isinstance(body, Mapping):
            raise Refusal(422, "send an object")
        values = body.get(name)
        if values is None and size is not None:
            return [fill] * size
        if not isinstance(values, list):
            raise Refusal(422, f"`{name}` is no list")
        if len(values) > self.config.max_rows:
            raise Refusal(413, f"a request may have {self.config.max_rows} rows")
        if size is not None and len(values) != size:
            raise Refusal(422, f"`{name}` has {len(values)} rows, not {size}")
        return values

    def _count(self, status: Mapping[str, list[str]], rows: int) -> None:
        self.meter.rows.inc(rows)
        for label in (s.label for s in Status if s.is_error):
            found = sum(column.count(label) for column in status.values())
            if found:
                self.meter.errors.labels(label).inc(found)


def make_app(scorer: Scorer, config: ServeConfig | None = None) -> Starlette:
    """The ASGI application of a scorer, which it closes when it shuts down."""
    service = Service(scorer, config or ServeConfig())

    def posted(work: Work) -> Callable[[Request], Awaitable[Response]]:
        return lambda request: service.answer(request, work)

    async def healthz(_: Request) -> Response:
        graph = service.scorer.graph
        return _reply({"status": "ok", "ruleset": graph.name, "hash": service.scorer.hash})

    async def metrics(_: Request) -> Response:
        text = prometheus.generate_latest(service.meter.registry)
        return PlainTextResponse(text, media_type=prometheus.CONTENT_TYPE_LATEST)

    async def openapi(_: Request) -> Response:
        return _reply(document(service.scorer))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        yield
        service.close()

    routes = [
        ("/score", posted(service.score), "POST"),
        ("/openrlhf", posted(service.openrlhf), "POST"),
        ("/verl", posted(service.verl), "POST"),
        ("/rulesets", service.upload, "PUT"),
        ("/healthz", healthz, "GET"),
        ("/metrics", metrics, "GET"),
        ("/openapi.json", openapi, "GET"),
    ]
    return Starlette(
        routes=[
            Route(path, _guarded(service, path, endpoint), methods=[method])
            for path, endpoint, method in routes
        ],
        lifespan=lifespan,
    )


def _guarded(
    service: Service, path: str, endpoint: Callable[[Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint behind the token and the deadline, with its errors as replies, counted."""

    async def guarded(request: Request) -> Response:
        started = time.perf_counter()
        try:
            if path != "/healthz":
                _check_token(request, service.config.token)
            reply = await asyncio.wait_for(endpoint(request), service.config.deadline_s)
        except Refusal as refused:
            reply = _reply({"error": str(refused)}, refused.code, refused.headers)
        except RuleError as error:  # a bug in a kernel, which is ours
            reply = _reply({"error": str(error)}, 500)
        except RewardError as error:
            if isinstance(error, BatchError) and error.missing:
                error.tell_remedy(f"send `{error.missing}` among the columns")
            reply = _reply({"error": str(error)}, 422)
        except TimeoutError:
            reply = _reply({"error": f"not done in {service.config.deadline_s:g} s"}, 504)
        except ClientDisconnect:
            reply = _reply({"error": "the client has gone"}, 499)
        service.meter.requests.labels(path, str(reply.status_code)).inc()
        service.meter.seconds.labels(path).observe(time.perf_counter() - started)
        return reply

    return guarded


def _check_token(request: Request, token: str) -> None:
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(given.strip().encode(), token.encode())
    if token and not (kind.lower() == "bearer" and same):
        raise Refusal(401, "send Authorization: Bearer TOKEN")


def _reply(value: Any, code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON reply in ASCII, so that lone surrogates, which UTF-8 refuses, come through escaped."""
    body = json.dumps(json_text.json_safe(value), allow_nan=False)
    return Response(body, code, dict(headers or {}), media_type="application/json")
