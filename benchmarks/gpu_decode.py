"""Time decoding of one sequence on a GPU, its layers in one launch and in launches of their own.

Models have random weights and real shapes. The limit is the bytes of the weights, and of the keys
and values of the context, over what a copy within the GPU's memory reads and writes in a second,
measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import gpu
import random_model
from gpu_workers import DECODE_TOKENS

CONTEXTS = [256, 1536, 4096, 8192, 16384, 32768]
VARIANTS = {"one_launch": "1", "launches": "0"}


def measure(name: str, folder: Path, bandwidth: float, contexts: list[int]) -> dict[str, Any]:
    """Tokens per second behind prompts of several lengths, and sampled; the limits."""
    model = folder / name
    random_model.write(model, name)
    arguments = ["pygpukit-decode", str(model), "--contexts", *map(str, contexts)]
    result: dict[str, Any] = {
        variant: gpu.worker("gpu_workers.py", *arguments, PYGPUKIT_JOIN_STEPS=join)
        for variant, join in VARIANTS.items()
    }
    weights = random_model.weight_bytes_per_token(name)
    cached = random_model.cache_bytes_per_position(name)
    result["limit"] = {
        str(length): bandwidth / (weights + cached * (length + DECODE_TOKENS / 2))
        for length in contexts
    }
    (model / "model.safetensors").unlink()
    print(name, json.dumps(result), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=list(random_model.CONFIGS))
    parser.add_argument("--contexts", type=int, nargs="*", default=CONTEXTS)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = gpu.machine() | {"models": {}}
    bandwidth = result["copy_bytes_per_second"]
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            measured = measure(name, Path(folder), bandwidth, options.contexts)
            result["models"][name] = measured
    gpu.report(result, options.output)


if __name__ == "__main__":
    main()
