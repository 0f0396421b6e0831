"""Inspect: inspect eval examples/adapters/inspect_task.py --model MODEL"""

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.solver import generate

import grpo_rewards as gr


@task
def gsm8k() -> Task:
    rows = [Sample(input="What is 6 * 7? End with #### and the number.", target="42")]
    return Task(rows, solver=generate(), scorer=gr.load("rulesets/gsm8k.reward").as_inspect())
