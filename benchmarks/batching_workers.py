"""Decoding of batches by one engine in a fresh process: a JSON object on the last line."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

CONTEXT = 512
"""Tokens of a sequence, prompt and output together, in the middle of what is timed."""

STEPS = 48
"""Steps that are timed."""


def prompts(count: int, length: int) -> list[list[int]]:
    """Ids that differ from sequence to sequence, from the first on."""
    return [[1000 + (37 * at + 101 * row) % 40000 for at in range(length)] for row in range(count)]


def pygpukit(model: str, batches: list[int], device: str) -> dict[str, Any]:
    """Time the steps of the engine, everything that it does included."""
    import pygpukit.core
    from pygpukit.llm import LLM

    llm = LLM.from_pretrained(model, device=device)
    measured: dict[str, Any] = {
        "version": pygpukit.core.__version__,
        "dtype": llm.dtype,
        "cache_bytes_per_token": llm.config.cache_bytes(
            1, element_bytes=4 if llm.dtype == "float32" else 2
        ),
        "batches": {},
    }
    for count in batches:
        measured["batches"][str(count)] = attempted(lambda count=count: decode(llm, count))
    return measured


def attempted(run: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """What a batch gives, or why it fails: others may go well."""
    try:
        return run()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[-2000:]}


def decode(llm: Any, count: int) -> dict[str, float]:
    """Rate and host's share of the steps in which all of `count` sequences decode."""
    from pygpukit.llm import SamplingParams
    from pygpukit.llm.device import step_tokens
    from pygpukit.llm.request import Request

    engine = llm.engine
    # The first sequences already decode while the prompts of the last are computed.
    stagger = count * CONTEXT // step_tokens(llm.device)
    warmup = 6
    length = CONTEXT - STEPS // 2 - stagger // 2 - warmup
    new = stagger + warmup + STEPS + 4
    params = SamplingParams(max_new_tokens=new)
    requests = [
        Request(ids, length + new, params, lambda id_, logprobs: False)
        for ids in prompts(count, length)
    ]
    for request in requests:
        engine.submit(request)
    while min(len(request.ids) for request in requests) < length + warmup:
        engine.advance()
    inside = timed_decoding(engine)
    whole, outside, contexts = [], [], []
    for _ in range(STEPS):
        before = inside()
        start = time.perf_counter()
        engine.advance()
        whole.append(time.perf_counter() - start)
        outside.append(whole[-1] - (inside() - before))
        contexts.append(sum(len(request.ids) for request in requests) / count)
    assert not any(request.done for request in requests), "all have decoded all the time"
    for request in requests:
        engine.cancel(request)
    while engine.busy:
        engine.advance()
    del engine._runner.decode  # the class's own again
    step = statistics.median(whole)
    return {
        "tokens_per_second": count / step,
        "step_seconds": step,
        # On a GPU that includes waiting for the step before.
        "outside_microseconds": statistics.median(outside) * 1e6,
        "context": statistics.mean(contexts),
    }


def timed_decoding(engine: Any) -> Callable[[], float]:
    """From now on sums up the seconds in which the engine launches, or on the CPU runs, steps."""
    total = 0.0
    decode = engine._runner.decode

    def timed_decode(*arguments: Any) -> Any:
        nonlocal total
        start = time.perf_counter()
        chosen = decode(*arguments)
        total += time.perf_counter() - start
        return chosen

    engine._runner.decode = timed_decode
    return lambda: total


def transformers(model: str, batches: list[int], device: str) -> dict[str, Any]:
    """Time continuous batching with captured graphs: a long run less one of a single token."""
    import importlib.util

    import torch
    import transformers as lib
    from transformers.generation import ContinuousBatchingConfig, GenerationConfig

    flash = importlib.util.find_spec("flash_attn") is not None
    net = lib.AutoModelForCausalLM.from_pretrained(
        model,
        dtype=torch.bfloat16,
        attn_implementation="flash_attention_2" if flash else "sdpa",
    ).to(device)
    on_gpu = device.startswith("cuda")
    batching = ContinuousBatchingConfig(use_cuda_graph=on_gpu, use_async_batching=on_gpu)

    def run(count: int, new: int) -> float:
        options = GenerationConfig(
            max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=0
        )
        start = time.perf_counter()
        outputs = net.generate_batch(
            prompts(count, CONTEXT - STEPS // 2),
            generation_config=options,
            continuous_batching_config=batching,
            progress_bar=False,
            persistent_manager=True,
        )
        seconds = time.perf_counter() - start
        assert all(len(output.generated_tokens) == new for output in outputs.values())
        return seconds

    def rate(count: int) -> dict[str, float]:
        try:
            run(count, 1 + STEPS)  # makes the manager, and it as large as it has to be
            run(count, 1)
            rest = statistics.median(run(count, 1 + STEPS) - run(count, 1) for _ in range(3))
        finally:
            net.destroy_cached_continuous_batching_manager()
        return {"tokens_per_second": count * STEPS / rest}

    return {
        "version": f"{lib.__version__} (torch {torch.__version__})",
        "attention": "flash_attention_2" if flash else "sdpa",
        "batches": {str(count): attempted(lambda count=count: rate(count)) for count in batches},
    }


ENGINES = {"pygpukit": pygpukit, "transformers": transformers}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("model")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", type=int, nargs="*", default=[1])
    options = parser.parse_args()
    print(json.dumps(ENGINES[options.engine](options.model, options.batches, options.device)))


if __name__ == "__main__":
    main()
