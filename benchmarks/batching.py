"""Decoding many sequences at once: tokens a second, and what the engine adds to each step.

`python benchmarks/batching.py [--model MODEL] [--device cuda] [--batches 1,8,64]`
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

from pygpukit.llm import LLM, SamplingParams
from pygpukit.llm.engine import Engine
from pygpukit.llm.hub import bundled_model
from pygpukit.llm.request import Request

PROMPT_TOKENS = 32


def requests(count: int, new: int) -> list[Request]:
    """Prompts that are all different, and end after `new` tokens."""
    params = SamplingParams(max_new_tokens=new)
    return [
        Request(
            [1000 + 37 * position % 20000 + row for position in range(PROMPT_TOKENS)],
            PROMPT_TOKENS + new,
            params,
            lambda id_, logprobs: False,
        )
        for row in range(count)
    ]


def decode(engine: Engine, count: int, steps: int) -> tuple[float, float]:
    """Seconds of a step, and those of them that the host spends outside of it: medians."""
    inside = 0.0
    decode = engine._runner.decode

    def timed_decode(*arguments: object) -> object:
        nonlocal inside
        start = time.perf_counter()
        chosen = decode(*arguments)  # type: ignore[arg-type]
        inside += time.perf_counter() - start
        return chosen

    engine._runner.decode = timed_decode  # type: ignore[method-assign, assignment]
    for request in requests(count, steps + 8):
        engine.submit(request)
    while engine.scheduler.stats().computed_tokens < count * (PROMPT_TOKENS + 4):
        engine.advance()
    whole, outside = [], []
    for _ in range(steps - 2):
        inside = 0.0
        start = time.perf_counter()
        engine.advance()
        whole.append(time.perf_counter() - start)
        outside.append(whole[-1] - inside)
    engine._runner.decode = decode  # type: ignore[method-assign]
    while engine.busy:
        engine.advance()
    return statistics.median(whole), statistics.median(outside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", default="1,8,64")
    parser.add_argument("--steps", type=int, default=48)
    arguments = parser.parse_args()
    llm = LLM.from_pretrained(arguments.model or bundled_model(), device=arguments.device)
    info = llm.device.info()
    print(f"{info.name}, {info.cores} cores, {platform.platform()}")
    print(f"{'sequences':>10}{'tokens/s':>12}{'ms a step':>12}{'µs outside':>12}")
    for count in map(int, arguments.batches.split(",")):
        step, outside = decode(llm.engine, count, arguments.steps)
        print(f"{count:10}{count / step:12.1f}{step * 1e3:12.2f}{outside * 1e6:12.0f}")
    # On a GPU the time outside includes waiting for the step before.


if __name__ == "__main__":
    main()
