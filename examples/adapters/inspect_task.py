# inspect eval examples/adapters/inspect_task.py --model MODEL
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.solver import generate

import grpo_rewards as gr


@task
def gsm8k() -> Task:
    scorer = gr.load(Path(__file__).parents[2] / "rulesets" / "gsm8k.reward").as_inspect()
    rows = [Sample(input="6 * 7?", target="42")]
    return Task(rows, solver=generate(), scorer=scorer)
