"""Matrix products and attention of prompts beside PyTorch's, on the same tensors, taken in turn.

Prints a JSON object on the last line: TFLOP/s by operation and library, medians over the rounds.
Where its power is limited a GPU slows down as it works; taking turns treats all alike.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from pygpukit import kernels
from pygpukit.core import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

ROUNDS = 9
ROUND_SECONDS = 0.02
# Rows, weight rows, inputs: a large square, and the products of Llama-3.1-8B for a prompt.
PRODUCTS = {
    "8192 x 8192 x 8192": (8192, 8192, 8192),
    "8B, attention in, 4096 tokens": (4096, 6144, 4096),
    "8B, MLP out, 4096 tokens": (4096, 4096, 14336),
    "8B, MLP out, 512 tokens": (512, 4096, 14336),
}
# Tokens, query heads, key/value heads, head size.
ATTENTIONS = {
    "4096 tokens, heads of 128": (4096, 32, 8, 128),
    "16384 tokens, heads of 128": (16384, 32, 8, 128),
    "4096 tokens, heads of 64": (4096, 32, 8, 64),
}
# What `scaled_dot_product_attention` can be asked to use.
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * scale


def rates(flops: float, runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """TFLOP/s of each of `runs`."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    repeats = max(2, int(ROUND_SECONDS * 5e14 / flops))
    for _ in range(ROUNDS):
        for name, run in runs.items():
            run()
            # One context, one device: whoever launched, this waits for it.
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            torch.cuda.synchronize()
            seconds[name].append((time.perf_counter() - start) / repeats)
    return {name: flops / statistics.median(times) / 1e12 for name, times in seconds.items()}


def product(rows: int, outputs: int, inputs: int) -> dict[str, float]:
    """`linear` beside cuBLAS, which PyTorch calls."""
    x, weight = random(rows, inputs), random(outputs, inputs, scale=0.05)
    out = torch.empty(rows, outputs, device="cuda", dtype=torch.bfloat16)
    ours = [Tensor.from_dlpack(tensor) for tensor in (x, weight, out)]
    return rates(
        2 * rows * outputs * inputs,
        {
            "pygpukit": lambda: kernels.linear(ours[0], ours[1], out=ours[2]),
            "torch": lambda: torch.matmul(x, weight.T, out=out),
        },
    )


def attention(tokens: int, heads: int, kv_heads: int, dim: int) -> dict[str, float]:
    """`attention` over a paged cache beside PyTorch's, which gets every head's keys and values."""
    q = random(tokens, heads, dim)
    keys, values = (random(tokens // 64, kv_heads, 64, dim) for _ in range(2))
    numbers = torch.arange(tokens, device="cuda", dtype=torch.int32)
    out = torch.empty(tokens, heads * dim, device="cuda", dtype=torch.bfloat16)
    ours = [
        Tensor.from_dlpack(tensor)
        for tensor in (q, keys, values, numbers[None, : tokens // 64], numbers, 0 * numbers)
    ]
    target = Tensor.from_dlpack(out)

    def whole(cache: torch.Tensor) -> torch.Tensor:
        rows = cache.transpose(0, 1).reshape(kv_heads, tokens, dim)
        return rows.repeat_interleave(heads // kv_heads, 0)[None].contiguous()

    theirs = q.transpose(0, 1)[None].contiguous(), whole(keys), whole(values)

    def torch_attention(backend: SDPBackend) -> torch.Tensor:
        with sdpa_kernel(backend):
            return torch.nn.functional.scaled_dot_product_attention(*theirs, is_causal=True)

    def peer(backend: SDPBackend) -> Callable[[], torch.Tensor]:
        return lambda: torch_attention(backend)

    return rates(
        2 * heads * dim * tokens * (tokens + 1),
        {
            "pygpukit": lambda: kernels.attention(*ours, scale=dim**-0.5, out=target),
            **{f"torch, {name}": peer(backend) for name, backend in BACKENDS.items()},
        },
    )


def main() -> None:
    result = {
        "torch": torch.__version__,
        "products": {name: product(*shape) for name, shape in PRODUCTS.items()},
        "attention": {name: attention(*shape) for name, shape in ATTENTIONS.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
