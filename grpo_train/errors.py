"""What can go wrong while training, and where.

TrainError
├ ConfigError       Expected `int`, got `str` - at `sampling.group_size`
├ DataError         prompts that cannot be used: which file, which row, why
├ CheckpointError   which file lacks what, or whose checkpoint it is
├ EngineError       an engine that does not sample from the policy
└ DivergenceError   not finite: what, at which step, what was saved
"""

from __future__ import annotations


class TrainError(Exception):
    """Base of everything that this package raises on purpose."""


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
