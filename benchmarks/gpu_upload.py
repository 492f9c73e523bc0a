"""Time a checkpoint's way from the page cache to the GPU beside safetensors' `load_file`.

Writes a checkpoint of random bytes in the shapes of a language model, which leaves it in the page
cache, and loads it again and again, each time by every engine in turn. The ceiling is PyTorch's
copy of pinned memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pygpukit.core import Device, MemoryPool, Tensor, load_safetensors

# The pinned memory that is copied to the GPU holds as large a part of the checkpoint.
COPIES = 8
# Of one layer, in bfloat16.
SHAPES = {
    "norm": (4096,),
    "qkv": (6144, 4096),
    "o": (4096, 4096),
    "gate_up": (28672, 4096),
    "down": (4096, 14336),
}


def write_checkpoint(path: Path, size: int) -> int:
    """Write layers until they hold `size` bytes; returns the bytes of all tensors."""
    header: dict[str, object] = {}
    end = 0
    while end < size:
        layer = len(header) // len(SHAPES)
        for name, shape in SHAPES.items():
            start, end = end, end + 2 * int(np.prod(shape))
            entry = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
            header[f"layers.{layer}.{name}"] = entry
    text = json.dumps(header).encode()
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, end, 1 << 26):
            file.write(rng.bytes(min(1 << 26, end - start)))
    return end


def ours(path: Path, pool: MemoryPool) -> Callable[[], object]:
    """Load into a pool, which has its memory after the first time."""

    def load() -> object:
        views = load_safetensors(path).values()
        tensors = [Tensor.from_safetensor(view, pool=pool) for view in views]
        for tensor in tensors:
            tensor.wait()
        return tensors

    return load


def peers(path: Path, size: int, device: str) -> dict[str, Callable[[], object]]:
    """What PyTorch and safetensors do, where they are installed."""
    try:
        import torch
        from safetensors.torch import load_file
    except ImportError:
        return {}
    pinned = torch.empty(size // COPIES, dtype=torch.uint8, pin_memory=True).random_()
    target = torch.empty_like(pinned, device=device)

    def copy() -> object:
        for _ in range(COPIES):
            target.copy_(pinned, non_blocking=True)
        torch.cuda.synchronize()
        return target

    def load() -> object:
        tensors = load_file(path, device=device)
        torch.cuda.synchronize()
        return tensors

    return {"safetensors load_file": load, "pinned copy (ceiling)": copy}


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    result = work()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    parser.add_argument("--folder", type=Path, help="where to put the checkpoint")
    options = parser.parse_args()
    device = Device(options.device)
    print(device.info(), f"{os.cpu_count()} cores", f"{device.engine.max_threads} fill threads")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "model.safetensors"
        size = write_checkpoint(path, int(options.gigabytes * 1e9))
        engines = {"pygpukit": ours(path, MemoryPool(device)), **peers(path, size, options.device)}
        first = {name: seconds(work) for name, work in engines.items()}
        times: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(options.rounds):
            for name, work in engines.items():
                times[name].append(seconds(work))
    print(f"{size / 1e9:.2f} GB, median of {options.rounds} rounds (least to most; first of all)")
    rates_of = {name: [size / value for value in values] for name, values in times.items()}
    if options.output:
        result = {"bytes": size, "bytes_per_second": rates_of}
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, values in times.items():
        rates = [size / value / 1e9 for value in (statistics.median(values), max(values))]
        best, start = size / min(values) / 1e9, size / first[name] / 1e9
        print(f"{name:24} {rates[0]:6.1f} GB/s ({rates[1]:.1f} to {best:.1f}; {start:.1f})")


if __name__ == "__main__":
    main()
