"""A command of the trainer, run in this process."""

from __future__ import annotations

import pytest

from grpo_train import cli


def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    monkeypatch.setattr("sys.argv", ["grpo-train", *arguments])
    with pytest.raises(SystemExit) as done:
        cli.main()
    out, err = capsys.readouterr()
    code = done.value.code
    return (code if isinstance(code, int) else 0), out, err
