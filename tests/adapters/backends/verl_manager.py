"""In a virtual environment with verl: its loader takes the example, its managers call it."""

import asyncio
import importlib.metadata
import sys

import numpy as np
import torch
from omegaconf import OmegaConf
from verl import DataProto
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.workers.reward_manager.batch import BatchRewardManager


class Tokenizer:
    """Letters as their code points."""

    def decode(self, ids: torch.Tensor, skip_special_tokens: bool = True) -> str:
        return "".join(map(chr, ids.tolist()))


def batch(texts: list[str]) -> DataProto:
    width = max(map(len, texts))
    ids = torch.tensor([[ord(c) for c in text] + [0] * (width - len(text)) for text in texts])
    prompts = torch.ones(len(texts), 2, dtype=torch.long)
    mask = torch.cat([prompts, (ids != 0).long()], dim=1)
    count = len(texts)
    return DataProto.from_dict(
        tensors={"prompts": prompts, "responses": ids, "attention_mask": mask},
        non_tensors={
            "data_source": np.array(["gsm8k"] * count, object),
            "reward_model": np.array([{"ground_truth": "9"} for _ in texts], object),
            "extra_info": np.array([{"index": i} for i in range(count)], object),
        },
    )


async def main() -> None:
    custom = {"path": sys.argv[1], "name": "compute_score"}
    config = OmegaConf.create({"reward": {"custom_reward_function": custom}})
    compute_score = get_custom_reward_fn(config)
    texts = ["so #### 9", "#### 8"]
    naive = NaiveRewardManager(config, Tokenizer(), compute_score)
    found = [await naive.run_single(batch([text])) for text in texts]
    assert [row["reward_score"] for row in found] == [1.0, 0.0], found
    assert found[0]["reward_extra_info"]["answered"] == 1.0
    manager = BatchRewardManager(Tokenizer(), 0, compute_score)
    tensors = manager(batch(texts), return_dict=True)
    assert tensors["reward_tensor"].sum(dim=1).tolist() == [1.0, 0.0]
    assert tensors["reward_extra_info"]["correct"] == [1.0, 0.0]
    print("ok", importlib.metadata.version("verl"))


if __name__ == "__main__":
    asyncio.run(main())
