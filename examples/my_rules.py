"""A rule of one's own, for brevity.reward and for Python."""

import grpo_rewards as gr


@gr.rule(range=(0, 1))
def brevity(text: str) -> float:
    """1 for an empty text, a half at 500 characters."""
    return 500 / (500 + len(text))
