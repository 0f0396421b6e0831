"""A process that dies between any two things that it does to the file system."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grpo_train.run import checkpoint


class Killed(BaseException):
    """Stands for a SIGKILL: nothing that is done after it reaches the disk."""


def dies(at: int, function: Callable[[], object]) -> bool:
    """Call a function whose `at`-th change of the file system is done by half; whether it was
    finished before that."""
    left = at

    def guard(real: Callable[..., Any], half: Callable[..., Any] | None = None) -> Any:
        def guarded(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == -1 and half is not None:
                half(*args, **options)
            if left < 0:
                raise Killed
            return real(*args, **options)

        return guarded

    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "replace", "mkdir", "fsync"):
            patch.setattr(os, name, guard(getattr(os, name)))
        patch.setattr(shutil, "rmtree", guard(shutil.rmtree, _empty))
        patch.setattr(Path, "write_text", guard(Path.write_text, _write_half))
        patch.setattr(checkpoint, "save_file", guard(checkpoint.save_file, _touch))
        try:
            function()
        except Killed:
            return False
    return True


def _empty(folder: Path, *_: Any, **__: Any) -> None:
    """All is gone but what makes it look whole."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name != checkpoint.MANIFEST:
            path.unlink()


def _write_half(path: Path, text: str, **_: Any) -> None:
    path.write_bytes(text.encode()[: len(text) // 2])


def _touch(_: Any, path: Path) -> None:
    path.touch()
