"""In a virtual environment with verifiers >= 0.4: a real Task scores a trace."""

import asyncio
import runpy
import sys
from types import SimpleNamespace
from typing import Any

import verifiers
import verifiers.v1 as vf


class Trace(SimpleNamespace):
    """What a Task's scoring touches of a trace; the recording is verifiers' own."""

    record_reward = vf.Trace.record_reward
    record_metric = vf.Trace.record_metric


async def main() -> None:
    task_type = runpy.run_path(sys.argv[1])["SumTask"]
    for text, expected in (("#### 9", 1.0), ("#### 8", 0.0)):
        trace: Any = Trace(last_reply=text, rewards={}, metrics={})
        await task_type(vf.WireTaskData(prompt="?", answer="9")).score(trace)
        assert trace.rewards["reward"].value == expected, trace
    print("ok", verifiers.__version__)


if __name__ == "__main__":
    asyncio.run(main())
