"""In a virtual environment with Inspect: a real `eval` of the example with a mock model."""

import importlib.metadata
import sys
import tempfile

from inspect_ai import eval as run_eval
from inspect_ai.model import ModelOutput, ModelUsage, get_model

if __name__ == "__main__":
    output = ModelOutput.from_content("mockllm/model", "6 * 7\n#### 42")
    output.usage = ModelUsage(input_tokens=1, output_tokens=1)  # else it fetches a tokenizer
    model = get_model("mockllm/model", custom_outputs=[output])
    with tempfile.TemporaryDirectory() as logs:
        log = run_eval(sys.argv[1], model=model, log_dir=logs, display="none")[0]
        assert log.status == "success", log.error
        scores = log.samples[0].scores["gsm8k"].value
    assert scores == {"reward": 1.0, "correct": 1.0, "answered": 1.0}
    print("ok", importlib.metadata.version("inspect-ai"))
