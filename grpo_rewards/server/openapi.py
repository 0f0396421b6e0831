"""The OpenAPI document of a served ruleset."""

from __future__ import annotations

from typing import Any

from grpo_rewards.scoring.scorer import Scorer, version_of

_TYPES = {"num": {"type": "number"}, "bool": {"type": "boolean"}, "text": {"type": "string"}}
_REFUSALS = {
    "400": "not JSON",
    "401": "no token, or another",
    "413": "too long",
    "415": "not declared as JSON",
    "422": "columns that the ruleset cannot take",
    "429": "the queue is full",
    "504": "the deadline struck",
}


def document(scorer: Scorer) -> dict[str, Any]:
    """OpenAPI 3.1 for the columns and scores of this ruleset."""
    title = scorer.graph.name or "ruleset"
    return {
        "openapi": "3.1.0",
        "info": {"title": f"grpo-rewards: {title}", "version": version_of("grpo-rewards")},
        "paths": {
            "/score": _post("Score a batch", _batch(scorer), _scores(scorer)),
            "/openrlhf": _post("Score as OpenRLHF asks", _lists("query", "prompts", "labels"), {}),
            "/verl": _post("Score as verl asks", {"type": "object"}, {}),
            "/rulesets": {"put": _operation("Send in a ruleset, where allowed", None, {})},
            "/healthz": {"get": _operation("Whether the server is up", None, {})},
            "/metrics": {"get": _operation("Prometheus metrics", None, {})},
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
    }


def _batch(scorer: Scorer) -> dict[str, Any]:
    columns = {
        name: {"type": "array", "items": _nullable(scorer.graph.inputs[name].type.kind)}
        for name in scorer.inputs
    }
    if scorer.needs_groups:
        columns["group"] = {"type": "array", "items": {"type": ["string", "number"]}}
    batch = {"type": "object", "properties": columns}
    rows = {"type": "array", "items": {"type": "object"}}
    return {"type": "object", "properties": {"columns": batch, "rows": rows}}


def _scores(scorer: Scorer) -> dict[str, Any]:
    numbers = {"type": "array", "items": {"type": ["number", "boolean", "null"]}}
    texts = {"type": "array", "items": {"type": "string"}}
    named = dict.fromkeys(scorer.names, numbers)
    status = dict.fromkeys((*scorer.names, "reward"), texts)
    return {
        "type": "object",
        "properties": {
            "hash": {"type": "string"},
            "reward": {"type": "array", "items": {"type": ["number", "null"]}},
            "scores": {"type": "object", "properties": named},
            "status": {"type": "object", "properties": status},
        },
    }


def _nullable(kind: str) -> dict[str, Any]:
    known = _TYPES.get(kind)
    return {"type": [known["type"], "null"]} if known else {}


def _lists(*names: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "array"} for name in names}}


def _post(summary: str, body: dict[str, Any], reply: dict[str, Any]) -> dict[str, Any]:
    return {"post": _operation(summary, body, reply)}


def _operation(summary: str, body: dict[str, Any] | None, reply: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": reply}}
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {"200": {"description": "done", "content": content}}
        | {code: {"description": why} for code, why in _REFUSALS.items()},
    }
    if body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": body}},
        }
    return operation
