"""Decoding many sequences at once, beside peers in the same run: tokens a second and their limit.

`python benchmarks/batching.py` on a GPU takes models of Llama-3.2-1B's and 3.1-8B's shapes with
random weights, `python benchmarks/batching.py --device cpu` SmolLM2. Each engine runs in a process
of its own. Contexts are around 512 tokens.

The limit of a step is the bytes of weights, keys and values that it reads over what a copy within
the device's memory reads and writes in a second, or, where that takes longer, the additions and
multiplications of its matrices over what a large product reaches; both measured in the same run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import llama_tools
import numpy as np
import random_model
from batching_workers import CONTEXT
from gpu import copy_bandwidth, driver_version, worker

PEERS = ("transformers", "llama.cpp")
SQUARE = 8192


def product_rate() -> float:
    """FLOP/s of a large product of matrices in bfloat16: the best of some."""
    from pygpukit import kernels
    from pygpukit.core import Device, Tensor

    # Zeros would take less power, and so go faster.
    numbers = np.random.default_rng(0).standard_normal((2, SQUARE, SQUARE), np.float32)
    x, weight = (Tensor.from_numpy(each, "bfloat16", device=Device("cuda")) for each in numbers)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        kernels.linear(x, weight)[:1, :1].numpy()
        seconds.append(time.perf_counter() - start)
    return 2 * SQUARE**3 / min(seconds)


def limits(measured: dict[str, Any], weights: int, bandwidth: float, flops: float | None) -> None:
    """Adds to each batch the limit of tokens a second, and what share of it was reached."""
    for rows, batch in measured["batches"].items():
        if "error" in batch:
            continue
        count = int(rows)
        read = weights + count * batch["context"] * measured["cache_bytes_per_token"]
        seconds = read / bandwidth
        if flops is not None:
            # Two bytes and two operations for each weight and row.
            seconds = max(seconds, count * weights / flops)
        batch["limit_tokens_per_second"] = count / seconds
        batch["share_of_limit"] = batch["tokens_per_second"] * seconds / count


def measure(
    name: str, model: str, options: argparse.Namespace, about: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    """The engines on one model, as they are done."""

    def run(engine: str, batches: list[int]) -> dict[str, Any]:
        arguments = ["--device", options.device, "--batches", *map(str, batches)]
        return worker("batching_workers.py", engine, model, *arguments)

    ours = run("pygpukit", options.batches)
    if "error" not in ours and about["copy_bytes_per_second"] and name in random_model.CONFIGS:
        weights = random_model.weight_bytes_per_token(name)
        limits(ours, weights, about["copy_bytes_per_second"], about["product_flops"])
    yield "pygpukit", ours
    for peer in options.peers:
        if peer == "llama.cpp":
            yield peer, llama_tools.batches(Path(model), options.peer_batches, CONTEXT - 32, 64)
        elif importlib.util.find_spec(peer) is None:
            yield peer, {"error": "not installed"}
        else:
            yield peer, run(peer, options.peer_batches)


def table(models: dict[str, Any]) -> str:
    lines = [
        "| model | engine | batch | tok/s | of the limit | ms a step |",
        "|---|---|---|---|---|---|",
    ]
    for name, engines in models.items():
        for engine, measured in engines.items():
            if "error" in measured:
                lines.append(f"| {name} | {engine} | | {measured['error'][-60:]!r} | | |")
            for rows, batch in measured.get("batches", {}).items():
                if "error" in batch:
                    lines.append(f"| {name} | {engine} | {rows} | {batch['error'][-60:]!r} | | |")
                    continue
                rate, share = batch["tokens_per_second"], batch.get("share_of_limit")
                lines.append(
                    f"| {name} | {engine} | {rows} | {rate:,.0f} "
                    f"| {'' if share is None else f'{share:.0%}'} | {int(rows) / rate * 1e3:.2f} |"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="*", help="paths, or names of random models")
    parser.add_argument("--batches", type=int, nargs="*")
    parser.add_argument("--peers", nargs="*", default=None, choices=PEERS)
    parser.add_argument("--peer-batches", type=int, nargs="*", help="if they aren't to run all")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    from pygpukit.core import Device, __version__
    from pygpukit.llm.hub import bundled_model

    device = Device(options.device)
    on_cpu = device.name == "cpu"
    options.batches = options.batches or ([1, 8, 64] if on_cpu else [1, 8, 64, 256])
    options.peer_batches = options.peer_batches or options.batches
    if options.peers is None:
        options.peers = [] if on_cpu else list(PEERS)
    info = device.info()
    result: dict[str, Any] = {
        "date": date.today().isoformat(),
        "device": info.name,
        "driver": None if on_cpu else driver_version(),
        "cuda": ".".join(map(str, info.cuda_version or ())) or None,
        "version": __version__,
        "context": CONTEXT,
        "copy_bytes_per_second": None if on_cpu else copy_bandwidth(),
        "product_flops": None if on_cpu else product_rate(),
        "models": {},
    }
    default = [str(bundled_model())] if on_cpu else ["Llama-3.2-1B", "Llama-3.1-8B"]
    for name in options.models or default:
        with tempfile.TemporaryDirectory() as folder:
            model = name
            if name in random_model.CONFIGS:
                model = str(Path(folder) / name)
                random_model.write(Path(model), name)
            engines = result["models"].setdefault(Path(name).name, {})
            for engine, measured in measure(name, model, options, result):
                engines[engine] = measured
                print(name, engine, json.dumps(measured), flush=True)
                if options.output:
                    text = json.dumps(result, indent=1)
                    options.output.write_text(text + "\n", encoding="utf-8")
    print(table(result["models"]))


if __name__ == "__main__":
    main()
