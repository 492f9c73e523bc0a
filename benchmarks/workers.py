"""One measurement of one engine in a fresh process: prints a JSON object on its last line."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from peak_memory import peak_memory

PROMPT_TOKENS = 512
DECODE_TOKENS = 128
# Decoding starts behind a prompt of this length, as it does in use.
DECODE_PROMPT_TOKENS = 32


def prompt(length: int) -> list[int]:
    """Token ids that are all different and none of them special."""
    return [1000 + 37 * index % 40000 for index in range(length)]


def timed(run: Callable[[], Any], repeats: int) -> float:
    """Median seconds of `run` after one warm-up."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def pygpukit(model: str, threads: int, dtype: str | None = None) -> dict[str, Any]:
    """Time LLM.generate, sampling and everything else included; `dtype` is that of activations."""
    import pygpukit.core
    from pygpukit.llm import LLM

    llm = LLM.from_pretrained(model, device="cpu", dtype=dtype)

    def generate(length: int, new: int) -> float:
        start = time.perf_counter()
        ids = llm.generate(prompt(length), max_new_tokens=new, temperature=0, ignore_eos=True)
        assert len(ids) == new
        return time.perf_counter() - start

    generate(DECODE_PROMPT_TOKENS, 8)
    decode = []
    for _ in range(3):
        first = generate(DECODE_PROMPT_TOKENS, 1)
        decode.append((DECODE_TOKENS - 1) / (generate(DECODE_PROMPT_TOKENS, DECODE_TOKENS) - first))
    return {
        "version": pygpukit.core.__version__,
        "decode_tokens_per_second": statistics.median(decode),
        "prompt_tokens_per_second": PROMPT_TOKENS / timed(lambda: generate(PROMPT_TOKENS, 1), 5),
    }


def llama_cpp(model: str, threads: int) -> dict[str, Any]:
    """Time llama_decode alone, as llama-bench does: no sampling, no text."""
    import llama_cpp as lib

    llm = lib.Llama(model, n_ctx=1024, n_batch=512, n_threads=threads, verbose=False)

    def clear() -> None:
        lib.llama_memory_clear(lib.llama_get_memory(llm._ctx.ctx), True)

    def decode(ids: list[int]) -> None:
        tokens = (lib.llama_token * len(ids))(*ids)  # the batch only points at it
        status = lib.llama_decode(llm._ctx.ctx, lib.llama_batch_get_one(tokens, len(ids)))
        assert status == 0, status
        lib.llama_synchronize(llm._ctx.ctx)

    def evaluate() -> None:
        clear()
        decode(prompt(PROMPT_TOKENS))

    def step() -> float:
        clear()
        decode(prompt(DECODE_PROMPT_TOKENS))
        start = time.perf_counter()
        for _ in range(DECODE_TOKENS - 1):
            decode([1000])
        return time.perf_counter() - start

    step()
    seconds = statistics.median(step() for _ in range(3))
    return {
        "version": lib.__version__,
        "decode_tokens_per_second": (DECODE_TOKENS - 1) / seconds,
        "prompt_tokens_per_second": PROMPT_TOKENS / timed(evaluate, 5),
    }


def transformers(model: str, threads: int) -> dict[str, Any]:
    """Time generate() and one forward pass in eager mode, bfloat16."""
    import torch
    import transformers as lib

    torch.set_num_threads(threads)
    net = lib.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)

    @torch.inference_mode()
    def forward() -> None:
        net(torch.tensor([prompt(PROMPT_TOKENS)]), logits_to_keep=1)

    @torch.inference_mode()
    def generate(new: int) -> float:
        ids = torch.tensor([prompt(DECODE_PROMPT_TOKENS)])
        start = time.perf_counter()
        out = net.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False,
            min_new_tokens=new, max_new_tokens=new, pad_token_id=2,
        )  # fmt: skip
        assert out.shape[1] == DECODE_PROMPT_TOKENS + new
        return time.perf_counter() - start

    generate(2)
    steps = 32
    return {
        "version": f"{lib.__version__} (torch {torch.__version__})",
        "decode_tokens_per_second": (steps - 1) / (generate(steps) - generate(1)),
        "prompt_tokens_per_second": PROMPT_TOKENS / timed(forward, 5),
    }


def transformers_first_token(model: str, threads: int) -> dict[str, Any]:
    """Load and print one token: ids only, which spares the peer its tokenizer."""
    import torch
    import transformers as lib

    torch.set_num_threads(threads)
    net = lib.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    with torch.inference_mode():
        ids = torch.tensor([prompt(37)])
        logits = net(ids, logits_to_keep=1).logits
    print(int(logits[0, -1].argmax()), flush=True)
    return {}


def pygpukit_bfloat16(model: str, threads: int) -> dict[str, Any]:
    """The same with activations in bfloat16, as the peers have them."""
    return pygpukit(model, threads, "bfloat16")


ENGINES = {
    "pygpukit": pygpukit,
    "pygpukit-bfloat16": pygpukit_bfloat16,
    "llama.cpp": llama_cpp,
    "transformers": transformers,
    "transformers-first-token": transformers_first_token,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    result = ENGINES[options.engine](options.model, options.threads)
    result["peak_memory_mb"] = peak_memory() / 1e6
    print(json.dumps(result))


if __name__ == "__main__":
    main()
