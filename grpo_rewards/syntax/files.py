"""Files → Parsed: a `.reward` file with everything it names, its imports and its formats' files."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from pathlib import Path

from grpo_rewards.errors import (
    Finding,
    MissingFileError,
    Place,
    RewardError,
    RulesetError,
    Source,
)
from grpo_rewards.limits import MAX_IMPORT_DEPTH
from grpo_rewards.syntax import tree as x
from grpo_rewards.syntax.parser import Parsed, parse_all


def parse_file(path: str | Path, *, text: str | None = None) -> Parsed:
    """A file and all that it imports, parsed. Mistakes in them become findings.

    Imports are relative to the file that names them and stay inside the folder tree of the first
    one; a cycle is cut where it closes. What could not be read is left out, and the compiler
    reports it. `text` is used instead of the file's own, where an editor holds a newer one.
    Raises RewardError where a file cannot be read, RulesetError where it is not UTF-8.
    """
    file = Path(path)
    own = read_text(file) if text is None else text
    return _parse_tree(file, own, str(path), file.resolve().parent, ())


def _parse_tree(file: Path, text: str, name: str, root: Path, above: tuple[Path, ...]) -> Parsed:
    parsed = parse_all(text, name=name)
    chain = (*above, file.resolve())
    imports: dict[str, Parsed] = {}
    cycles: dict[str, str] = {}
    for statement in parsed.ruleset.of(x.Import):
        target = _inside(file, statement.path, root)
        if target in chain:
            circle = (*chain[chain.index(target) :], target)
            cycles[statement.path] = " → ".join(str(one.relative_to(root)) for one in circle)
        elif target is not None and len(chain) <= MAX_IMPORT_DEPTH:
            inner = _parse_tree(target, read_text(target), statement.path, root, chain)
            imports[statement.path] = inner
    files: dict[str, str] = {}
    for path in _format_files(parsed):
        target = _inside(file, path, root)
        if target is not None:
            files[path] = read_text(target)
    return replace(parsed, imports=imports, cycles=cycles, files=files)


def _inside(file: Path, path: str, root: Path) -> Path | None:
    """The file that another one names; None unless it is a file inside the folder tree."""
    try:
        target = (file.parent / path).resolve()
        return target if target.is_file() and root in target.parents else None
    except (OSError, ValueError):  # a name that no file can have
        return None


def _format_files(parsed: Parsed) -> list[str]:
    """The paths of formats that are written in files of their own."""
    named = [dict(statement.options).get("file") for statement in parsed.ruleset.of(x.FormatDecl)]
    return [c.value for c in named if isinstance(c, x.Const) and isinstance(c.value, str)]


def companions(parsed: Parsed, folder: str = "") -> dict[str, str]:
    """The texts of all files that a ruleset names, directly or through its imports, by their paths
    relative to it."""
    found = {posixpath.normpath(posixpath.join(folder, p)): t for p, t in parsed.files.items()}
    for path, inner in parsed.imports.items():
        place = posixpath.normpath(posixpath.join(folder, path))
        found[place] = inner.source.text
        found |= companions(inner, posixpath.dirname(place))
    return found


def read_text(path: Path) -> str:
    """The text of a file that belongs to a ruleset. RulesetError with the place where it is not
    UTF-8, RewardError in one line where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        at = len(error.object[: error.start].decode("utf-8"))
        source = Source(str(path), error.object.decode("utf-8", "replace"))
        message = f"not text: byte {error.start} is not UTF-8"
        finding = Finding("S16", message, Place(at, at + 1), "a ruleset is a UTF-8 text file")
        raise RulesetError.of(source, [finding]) from None
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file") from None
    except OSError as error:
        raise RewardError(f"{path}: {error.strerror or error}") from None
