"""The errors of training.

TrainError
├ ConfigError       Expected `int`, got `str` - at `sampling.group_size`
├ DataError         prompts that cannot be used: which file, which row, why
├ CheckpointError   which file lacks what, or whose checkpoint it is
├ EngineError       an engine that does not sample from the policy
└ DivergenceError   not finite: what, at which step, what was saved
"""

from __future__ import annotations


class TrainError(Exception):
    """Base of all errors that this package raises on purpose."""


class ConfigError(TrainError):
    """A configuration that cannot be used: one line with the path and a hint."""


class DataError(TrainError):
    """Prompts that cannot be read or used."""


class CheckpointError(TrainError):
    """A checkpoint that is incomplete, damaged or from another run."""


class EngineError(TrainError):
    """An engine whose logprobs are not the trainer's."""


class DivergenceError(TrainError):
    """A loss, gradient or weight that is not finite."""


#: What torch and transformers raise where a model, a card or a version cannot do something.
FAILURES = (
    *(TypeError, ValueError, AttributeError, LookupError, ImportError, AssertionError),
    *(OSError, RuntimeError),
)


def said(error: Exception) -> str:
    """An error's first line; with its kind where that alone says little: `'sinks'`."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    line = (str(text).strip().splitlines() or [""])[0][:200]
    plain = isinstance(error, OSError | ValueError | ImportError) and line
    return line if plain else f"{type(error).__name__}: {line}".removesuffix(": ")
