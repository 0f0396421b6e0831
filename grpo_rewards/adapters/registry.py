"""The adapters: methods of a scorer that hand it to somebody else's program, and a list of them.

A new adapter has a module of its own in this folder, a method here, and an entry in `ADAPTERS`,
from which the table in docs/adapters.md is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from grpo_rewards.adapters.base import BatchScorer

if TYPE_CHECKING:
    from grpo_rewards.adapters.datasets import MapFunction
    from grpo_rewards.adapters.evals import LMEvalResults
    from grpo_rewards.adapters.openrlhf import OpenRLHFReward
    from grpo_rewards.adapters.trl import TRLReward
    from grpo_rewards.adapters.verifiers import VerifiersReward
    from grpo_rewards.adapters.verl import VerlReward


class AdapterMethods:
    """What `gr.Scorer` offers to other programs. Each method takes the options of the class that it
    returns, and imports it only then."""

    def as_trl(self: BatchScorer, **options: Any) -> TRLReward:
        """A reward function for TRL's `GRPOTrainer`; see `adapters.trl.TRLReward`."""
        from grpo_rewards.adapters.trl import TRLReward

        return TRLReward(self, **options)

    def as_verl(self: BatchScorer, **options: Any) -> VerlReward:
        """A `custom_reward_function` for verl; see `adapters.verl.VerlReward`."""
        from grpo_rewards.adapters.verl import VerlReward

        return VerlReward(self, **options)

    def as_openrlhf(self: BatchScorer, **options: Any) -> OpenRLHFReward:
        """A `reward_func` for OpenRLHF; see `adapters.openrlhf.OpenRLHFReward`."""
        from grpo_rewards.adapters.openrlhf import OpenRLHFReward

        return OpenRLHFReward(self, **options)

    def as_verifiers(self: BatchScorer, **options: Any) -> VerifiersReward:
        """Functions and weights of a verifiers `Rubric`; see `adapters.verifiers`."""
        from grpo_rewards.adapters.verifiers import VerifiersReward

        return VerifiersReward(self, **options)

    def as_map(self: BatchScorer, **options: Any) -> MapFunction:
        """A function for `datasets.Dataset.map`; see `adapters.datasets.MapFunction`."""
        from grpo_rewards.adapters.datasets import MapFunction

        return MapFunction(self, **options)

    def as_lm_eval(self: BatchScorer, **options: Any) -> LMEvalResults:
        """A `process_results` for lm-eval; see `adapters.evals.LMEvalResults`."""
        from grpo_rewards.adapters.evals import LMEvalResults

        return LMEvalResults(self, **options)

    def as_inspect(self: BatchScorer) -> Any:
        """A scorer for an Inspect `Task`; see `adapters.evals.inspect_scorer`."""
        from grpo_rewards.adapters.evals import inspect_scorer

        return inspect_scorer(self)


class Adapter(NamedTuple):
    """An adapter as the documentation tells of it: whom it serves, the method that makes it, what
    becomes of a null reward, and how a ruleset that looks at whole groups gets them."""

    backend: str
    method: Callable[..., Any]
    null: str
    groups: str = "refused"


ADAPTERS = (
    Adapter("TRL", AdapterMethods.as_trl, "None: left out of the baseline",
            "`as_trl(num_generations=8)`"),
    Adapter("verl", AdapterMethods.as_verl, "`on_null`, 0 unless given",
            'batch manager, `as_verl(group="index")`'),
    Adapter("OpenRLHF", AdapterMethods.as_openrlhf, "`on_null`"),
    Adapter("verifiers", AdapterMethods.as_verifiers, "`on_null`", "Rubric: group functions"),
    Adapter("HF datasets", AdapterMethods.as_map, "None",
            '`as_map(group="id")`, `batch_size=None`'),
    Adapter("lm-eval", AdapterMethods.as_lm_eval, "left out"),
    Adapter("Inspect", AdapterMethods.as_inspect, "NaN, its mark for unscored"),
)  # fmt: skip
