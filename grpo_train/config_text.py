"""A config as text: resolved TOML, dotted paths, and the commented starter."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import msgspec

from grpo_train import config as config_module
from grpo_train.config import Config, Section


def dump_config(config: Config) -> bytes:
    """The resolved config as TOML that `load_config` reads back; every field is written."""
    return _toml(msgspec.to_builtins(config)).encode()


def flat_config(config: Config) -> dict[str, Any]:
    """Every field by its dotted path."""
    found: dict[str, Any] = {}

    def walk(tree: dict[str, Any], path: str) -> None:
        for key, value in tree.items():
            if isinstance(value, dict):
                walk(value, f"{path}{key}.")
            else:
                found[f"{path}{key}"] = value

    walk(msgspec.to_builtins(config), "")
    return found


def starter() -> str:
    """A commented config: every field with its default; what must be filled in comes first.

    The comments are the fields' own docstrings, read from its source.
    """
    text = Path(config_module.__file__).read_text(encoding="utf-8")
    sections = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    parts = [_starter_fields(sections["Config"])]
    for field in msgspec.structs.fields(Config):
        if isinstance(field.type, type) and issubclass(field.type, Section):
            node = sections[field.type.__name__]
            head = ast.get_docstring(node) or ""
            parts.append(f"[{field.name}]  # {head}\n{_starter_fields(node)}")
    return "\n".join(parts)


def _starter_fields(node: ast.ClassDef) -> str:
    """The plain fields of a section; those with a default are commented out."""
    lines: list[str] = []
    for item, following in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        if isinstance(item.value, ast.Call) or item.target.id in ("data", "reward"):
            continue  # a section: it has a table of its own
        said = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            said = " ".join(str(following.value.value).split())
        if said:
            lines.append(f"# {said}")
        if item.value is None:
            lines.append(f'{item.target.id} = ""')  # must be filled in
        else:
            lines.append(f"# {item.target.id} = {_value(ast.literal_eval(item.value))}")
    return "\n".join(lines) + "\n"


def _toml(tree: dict[str, Any], path: str = "") -> str:
    """The tree as TOML: plain values first, then one table for each dict."""
    lines = [f"{k} = {_value(v)}" for k, v in tree.items() if not isinstance(v, dict)]
    for key, value in tree.items():
        if isinstance(value, dict):
            lines.append(f"\n[{path}{key}]\n{_toml(value, f'{path}{key}.')}")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """A value as TOML, whose strings, numbers and booleans are those of JSON."""
    return msgspec.json.encode(value).decode()
