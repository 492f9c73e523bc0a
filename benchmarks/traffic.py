"""A trace of mixed prompts through the engine: how evenly the tokens of running streams come.

`python benchmarks/traffic.py` on a GPU runs a model of Llama-3.2-1B's shape with random weights, on
the CPU SmolLM2. First the engine is kept full, which measures how many requests a second it can
serve; then as large a share of them arrives at random (`--load`), and the time between the tokens
of each stream is measured. Prints one JSON object. Needs only pygpukit and NumPy.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import random_model
from pygpukit.core import __version__
from pygpukit.llm import LLM, SamplingParams
from pygpukit.llm.cache import pages_for
from pygpukit.llm.device import choose_device, served_step_tokens
from pygpukit.llm.engine import Engine, EngineConfig
from pygpukit.llm.hub import bundled_model
from pygpukit.llm.request import Request

PERCENTS = (50, 90, 99, 99.9)


class Traffic:
    """Requests with prompts and outputs of random lengths, log-uniform, all of them different."""

    def __init__(self, llm: LLM, options: argparse.Namespace) -> None:
        self._vocab_size = llm.config.vocab_size
        self._options = options
        self._rng = np.random.default_rng(options.seed)

    def _length(self, bounds: tuple[int, int]) -> int:
        return round(float(np.exp(self._rng.uniform(*np.log(bounds)))))

    def request(self) -> Stream:
        """The next one."""
        length, new = self._length(self._options.prompt), self._length(self._options.answer)
        ids = self._rng.integers(10, self._vocab_size, length).tolist()
        return Stream(ids, new)

    def gap(self, rate: float) -> float:
        """Seconds to the next arrival of a Poisson process."""
        return float(self._rng.exponential(1 / rate))


class Stream:
    """A request, and when its tokens came."""

    def __init__(self, ids: list[int], new: int) -> None:
        self.start = time.perf_counter()
        self.times: list[float] = []
        self.tokens = len(ids) + new
        params = SamplingParams(max_new_tokens=new)
        self.request = Request(ids, len(ids) + new, params, self._accept)

    def _accept(self, id_: int, logprobs: object) -> bool:
        self.times.append(time.perf_counter())
        return False


def capacity(engine: Engine, traffic: Traffic, seconds: float) -> dict[str, float]:
    """What the engine serves while as many requests as may run are there all the time."""
    streams: list[Stream] = []

    def run(until: float) -> None:
        while time.perf_counter() < until:
            while engine.scheduler.stats().requests < engine.config.max_running + 4:
                streams.append(traffic.request())
                engine.submit(streams[-1].request)
            engine.advance()

    run(time.perf_counter() + seconds / 2)  # so that steps of all sizes have been captured
    computed, start = engine.scheduler.stats().computed_tokens, time.perf_counter()
    run(start + seconds / 2)
    took = time.perf_counter() - start
    tokens = (engine.scheduler.stats().computed_tokens - computed) / took
    for stream in streams:
        engine.cancel(stream.request)
    mean = sum(stream.tokens for stream in streams) / len(streams)
    return {"tokens_per_second": tokens, "requests_per_second": tokens / mean}


def arrivals(
    engine: Engine, traffic: Traffic, rate: float, seconds: float, warmup: float
) -> tuple[list[Stream], float]:
    """Lets requests arrive; returns those of the time behind the warm-up, and how many ran."""
    streams: list[Stream] = []
    running: list[int] = []
    start = time.perf_counter()
    due = start + traffic.gap(rate)
    while (now := time.perf_counter()) < start + seconds:
        while due <= now:
            streams.append(traffic.request())
            streams[-1].start = due
            engine.submit(streams[-1].request)
            due += traffic.gap(rate)
        if engine.busy:
            engine.advance()
            running.append(engine.scheduler.stats().running)
        else:
            time.sleep(max(0.0, min(due - now, 0.001)))
    for stream in streams:
        engine.cancel(stream.request)
        stream.times = [at for at in stream.times if at >= start + warmup]
    mean = sum(running) / max(1, len(running))
    return [stream for stream in streams if stream.times], mean


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds."""
    values = np.percentile(seconds, PERCENTS) * 1e3
    return {f"{percent:g} %": float(value) for percent, value in zip(PERCENTS, values, strict=True)}


def measure(
    llm: LLM, options: argparse.Namespace, step_tokens: int, seconds: float
) -> dict[str, Any]:
    """Capacity and trace for steps of so many tokens at most."""
    length = options.prompt[1] + options.answer[1]
    config = EngineConfig(
        pages=options.running * pages_for(length),
        step_tokens=max(step_tokens, options.running),
        max_running=options.running,
    )
    llm.configure(config)
    traffic = Traffic(llm, options)
    full = capacity(llm.engine, traffic, seconds * 0.35)
    rate = options.load * full["requests_per_second"]
    seconds *= 0.65
    streams, running = arrivals(llm.engine, traffic, rate, seconds, seconds / 4)
    between = [gap for stream in streams for gap in np.diff(stream.times).tolist()]
    first = [
        stream.times[0] - stream.start
        for stream in streams
        if len(stream.request.ids) - len(stream.times) == stream.request.prompt_length
    ]
    gaps = percentiles(between)
    return {
        "step_tokens": config.step_tokens,
        "capacity": full,
        "arrivals_per_second": rate,
        "running_mean": running,
        "gaps": len(between),
        "ms_between_tokens": gaps,
        "p99_over_median": gaps["99 %"] / gaps["50 %"],
        "ms_to_first_token": percentiles(first),
    }


def load(options: argparse.Namespace, folder: Path) -> LLM:
    model = options.model
    if model in random_model.CONFIGS:
        random_model.write(folder / model, model)
        model = folder / model
    return LLM.from_pretrained(model or bundled_model(), device=options.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", help="a path, or one of " + ", ".join(random_model.CONFIGS))
    parser.add_argument("--load", type=float, default=0.8, help="share of the capacity")
    parser.add_argument("--seconds", type=float, default=70.0, help="for all that is measured")
    parser.add_argument("--prompt", type=int, nargs=2, metavar=("LEAST", "MOST"))
    parser.add_argument("--answer", type=int, nargs=2, metavar=("LEAST", "MOST"))
    parser.add_argument("--running", type=int, help="requests that run at once")
    parser.add_argument(
        "--step-tokens", type=int, nargs="*", help="one or more, in turn (default: the server's)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = choose_device(options.device).device
    options.device = device.name
    on_cpu = device.name == "cpu"
    options.prompt = options.prompt or ((32, 512) if on_cpu else (32, 4096))
    options.answer = options.answer or ((16, 64) if on_cpu else (64, 256))
    options.running = options.running or (8 if on_cpu else 64)
    if options.model is None and not on_cpu:
        options.model = "Llama-3.2-1B"
    with tempfile.TemporaryDirectory() as folder:
        llm = load(options, Path(folder))
        budgets = options.step_tokens or [served_step_tokens(device)]
        runs = [measure(llm, options, each, options.seconds / len(budgets)) for each in budgets]
    info = device.info()
    about = {
        "date": date.today().isoformat(),
        "device": info.name,
        "cuda": ".".join(map(str, info.cuda_version or ())) or None,
        "threads": len(os.sched_getaffinity(0)) if on_cpu else None,
        "version": __version__,
        "model": options.model or bundled_model().name,
        "prompt_tokens": options.prompt,
        "answer_tokens": options.answer,
        "load": options.load,
        "max_running": options.running,
    }
    text = json.dumps(about | {"runs": runs}, indent=1)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
