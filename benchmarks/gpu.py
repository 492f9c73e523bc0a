"""Time pygpukit on a GPU beside transformers, PyTorch and llama.cpp, in one run.

Models have random weights and real shapes. llama.cpp is measured by its own llama-bench, where that
is on the path.

The limit of decoding is the bytes of weights read for a token over what a copy within the GPU's
memory reads and writes in a second, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import llama_tools
import random_model
from gpu_workers import DECODE_PROMPT_TOKENS, DECODE_TOKENS, PROMPTS

HERE = Path(__file__).parent
PEERS = ["transformers", "transformers-compiled", "llama.cpp"]


def copy_bandwidth() -> float:
    """Bytes read and written per second by a copy of 4 GB within the GPU's memory: the best."""
    from pygpukit.core import Device, Tensor

    device = Device("cuda")
    source = Tensor.zeros(1 << 30, "float32", device=device)
    target = Tensor.zeros(1 << 30, "float32", device=device)
    best = float("inf")
    for _ in range(10):
        target[:1].numpy()
        start = time.perf_counter()
        for _ in range(4):
            target.copy_(source)
        target[:1].numpy()
        best = min(best, (time.perf_counter() - start) / 4)
    return 2 * source.nbytes / best


def driver_version() -> str | None:
    """Of the NVIDIA driver, where nvidia-smi says it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.split()[0]


def machine() -> dict[str, Any]:
    """What results depend on beside the code, and the memory's speed."""
    from pygpukit.core import Device

    info = Device("cuda").info()
    bandwidth = copy_bandwidth()
    print(f"{info.name}: copy {bandwidth / 1e12:.3f} TB/s", flush=True)
    return {
        "date": date.today().isoformat(),
        "card": info.name,
        "driver": driver_version(),
        "cuda": ".".join(map(str, info.cuda_version or ())),
        "copy_bytes_per_second": bandwidth,
    }


def save(result: dict[str, Any], output: Path | None) -> str:
    """Write a result to a file if there is one; its text."""
    text = json.dumps(result, indent=1)
    if output:
        output.write_text(text + "\n", encoding="utf-8")
    return text


def report(result: dict[str, Any], output: Path | None) -> None:
    """Print a result, and write it to a file if there is one."""
    print(save(result, output))


def worker(script: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run a script in a fresh process; returns the JSON object that it prints, or its error."""
    command = [sys.executable, str(HERE / script), *arguments]
    variables = os.environ | environment
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    if done.returncode:
        return {"error": done.stderr[-2000:]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def first_token(engine: str, model: Path, repeats: int) -> float:
    """Seconds from the start of a process to the token that it prints: the best."""
    command = [sys.executable, str(HERE / "gpu_workers.py"), engine, str(model)]
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            process.stdout.read(1)
            seconds.append(time.perf_counter() - start)
            process.stdout.read()
    return min(seconds)


def measure(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    model = folder / name
    nbytes = random_model.write(model, name)
    contexts = [8192, 32768] if name == "Llama-3.1-8B" else []
    result: dict[str, Any] = {
        "bytes": nbytes,
        "weight_bytes_per_token": random_model.weight_bytes_per_token(name),
        "engines": {},
    }
    for engine in ["pygpukit", *options.peers]:
        if engine == "llama.cpp":
            depths = [DECODE_PROMPT_TOKENS, *contexts]
            measured = llama_tools.one_stream(model, PROMPTS, depths, DECODE_TOKENS)
        else:
            behind = map(str, contexts)
            measured = worker("gpu_workers.py", engine, str(model), "--contexts", *behind)
        result["engines"][engine] = measured
        if engine in ("pygpukit", "transformers"):
            measured["first_token_seconds"] = first_token(
                f"{engine}-first-token", model, 3 if engine == "pygpukit" else 1
            )
        print(name, engine, json.dumps(measured), flush=True)
    (model / "model.safetensors").unlink()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=list(random_model.CONFIGS))
    parser.add_argument("--peers", nargs="*", default=PEERS)
    parser.add_argument("--no-operations", action="store_true", help="models alone")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = machine() | {"models": {}}
    if not options.no_operations:
        result["operations"] = worker("gpu_operations.py")
        print(json.dumps(result["operations"]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            result["models"][name] = measure(name, Path(folder), options)
            save(result, options.output)
    report(result, options.output)


if __name__ == "__main__":
    main()
