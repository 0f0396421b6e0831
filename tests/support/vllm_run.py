"""Three GRPO steps with vLLM, in its own environment:

    python tests/support/vllm_run.py KIND FOLDER

KIND is `vllm` (in process) or `server`. The last line is JSON: the gap between vLLM's logprobs
and the trainer's at every step, and rewards of samples beside those of `grpo-rewards score`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import msgspec  # noqa: E402
import tiny_run  # noqa: E402

from grpo_train.config import build_config  # noqa: E402
from grpo_train.demo import TinyConfig, demo_config, make_tiny  # noqa: E402
from grpo_train.session import start  # noqa: E402
from grpo_train.train import train  # noqa: E402

#: vLLM's attention on CPU wants heads of 32 or more.
SIZES = TinyConfig(hidden=64, heads=2, layers=2, held_out=8, train=40, warm_steps=3, warm_batch=4)


@contextlib.contextmanager
def server(model: str, log: Path) -> Iterator[str]:
    """A vLLM server of the model; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--port", str(port), "--max-model-len", "128", "--host", "127.0.0.1"]
    command += ["--logprobs-mode", "processed_logprobs"]
    environment = os.environ | {"VLLM_SERVER_DEV_MODE": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(log.read_text()[-3000:])
        with contextlib.suppress(OSError, urllib.error.URLError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(1)
    raise RuntimeError("the server does not answer")


def rescored(ruleset: str, samples: list[dict[str, object]], folder: Path) -> list[float]:
    """Rewards of the samples as the command line has them."""
    path, out = folder / "samples.jsonl", folder / "scored.jsonl"
    rows = ({"completion": s["completion"], "gold": s["gold"]} for s in samples)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = "import sys; from grpo_rewards.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "score", ruleset, str(path), "-o", str(out)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return [json.loads(line)["reward"] for line in out.read_text().splitlines()]


def main(kind: str, folder: Path) -> None:
    make_tiny(SIZES, folder, 0)
    ruleset = folder / "tiny.reward"
    ruleset.write_text(tiny_run.RULESET)
    tree = msgspec.to_builtins(demo_config(folder, 0, 3))
    tree |= {"name": "run", "runs": str(folder), "prompts_per_step": 4, "token_budget": 400}
    tree["reward"] = {"ruleset": str(ruleset)}
    tree["data"]["eval"] = ""
    tree["sampling"] |= {"group_size": 4, "max_tokens": 16}
    tree["engine"] = {"kind": kind, "memory": 0.1}
    tree["optim"]["lr"] = 1e-3
    with contextlib.ExitStack() as stack:
        if kind == "server":
            log = folder / "server.log"
            tree["engine"]["url"] = stack.enter_context(server(tree["model"], log))
        session = start(build_config(tree))
        train(session)
    rows = [row for row in session.progress.history if "reward" in row]
    samples = session.record.read("samples.jsonl")
    found = {
        "gaps": [row["mismatch/gap"] for row in rows],
        "moved": min(row["grad_norm"] for row in rows),
        "rewards": [sample["reward"] for sample in samples],
        "scored": rescored(str(ruleset), samples, folder),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
