"""In a virtual environment with OpenRLHF: its executor takes the example, or the server."""

import asyncio
import importlib.metadata
import sys
from types import SimpleNamespace
from typing import Any

from openrlhf.utils.agent import SingleTurnAgentExecutor


class Tokenizer:
    """Letters as their code points."""

    def __call__(self, text: str, **_: Any) -> Any:
        import torch

        return {"input_ids": torch.tensor([[ord(c) for c in text]])}

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(map(chr, ids))


class Engine:
    """Answers #### 9, whatever is asked."""

    async def generate(self, *_: Any, **__: Any) -> Any:
        ids = [ord(c) for c in "so #### 9</s>"]
        one = SimpleNamespace(token_ids=ids, finish_reason="stop", logprobs=None)
        return SimpleNamespace(outputs=[one])


async def main() -> None:
    params = SimpleNamespace(max_tokens=64, logprobs=None)
    for label, expected in (("9", 1.0), ("8", 0.0)):
        executor = SingleTurnAgentExecutor(sys.argv[1])
        found = await executor.execute("Q: ? A: ", label, params, 256, Tokenizer(), Engine())
        reward = found["reward"]
        reward = reward[0] if isinstance(reward, list) else reward.item()
        assert reward == expected, found
        assert set(found["extra_logs"]) == {"correct", "answered"}
    print("ok", importlib.metadata.version("openrlhf"))


if __name__ == "__main__":
    asyncio.run(main())
