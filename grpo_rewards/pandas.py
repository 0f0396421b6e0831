"""pandas: `df.grpo.score(ruleset)`, from the first `import grpo_rewards.pandas` on.

import grpo_rewards.pandas

df.grpo.score("examples/boxed.reward")               # the scores, under the frame's index
df.join(df.grpo.score("examples/boxed.reward"))      # beside its own columns
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from grpo_rewards.data.frames import score_frame
from grpo_rewards.scoring.scorer import Scorer


@pd.api.extensions.register_dataframe_accessor("grpo")
class GrpoAccessor:
    """What `df.grpo` can do."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    def score(
        self,
        ruleset: Scorer | str | Path,
        *,
        columns: Mapping[str, str] | None = None,
        group: str | None = None,
        step: float | None = None,
        progress: float | None = None,
        status: bool = True,
    ) -> pd.DataFrame:
        """The scores of the rows, see `frames.score_frame`; a path is a `.reward` file."""
        return score_frame(
            self._frame,
            ruleset,
            columns=columns,
            group=group,
            step=step,
            progress=progress,
            status=status,
        )
