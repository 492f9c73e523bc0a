"""Simulates traffic through the scheduler: latencies under a load, without a device.

`python benchmarks/scheduler.py --rate 20` replays a million random requests;
`--trace FILE` a CSV file with the columns TIMESTAMP (seconds, or a date), ContextTokens and
GeneratedTokens, as the Azure LLM inference traces have them (Patel et al. 2024, arXiv:2311.18677).
The cost of a step is a line; the defaults are of the order of an 8B model in bfloat16 on an H100.
"""

from __future__ import annotations

import argparse
import csv
import time
from datetime import datetime

import numpy as np
from pygpukit.core import Latencies, SchedulerConfig, simulate

Arrival = tuple[int, int, int, int, int, int, int]


def random_arrivals(arguments: argparse.Namespace) -> list[Arrival]:
    """Poisson arrivals with log-normal lengths; half of them begin like others of their tenant."""
    rng = np.random.default_rng(arguments.seed)
    count = arguments.requests
    at = np.cumsum(rng.exponential(1e6 / arguments.rate, count)).astype(np.int64)
    prompt = np.clip(rng.lognormal(np.log(arguments.prompt), 0.8, count), 1, 32_768).astype(int)
    output = np.clip(rng.lognormal(np.log(arguments.output), 0.8, count), 1, 4_096).astype(int)
    tenant = rng.zipf(1.5, count) % arguments.tenants
    shared = np.where(rng.random(count) < 0.5, arguments.shared, 0)
    priority = (rng.random(count) < arguments.urgent).astype(int)
    columns = (at, prompt, output, shared, tenant, tenant, priority)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def traced_arrivals(arguments: argparse.Namespace) -> list[Arrival]:
    """The requests of a trace, made faster or slower so that they come at the rate asked for."""
    with open(arguments.trace, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    seconds = [_seconds(row["TIMESTAMP"]) for row in rows]
    span = seconds[-1] - seconds[0]
    scale = 1e6 * len(rows) / (arguments.rate * span) if arguments.rate and span else 1e6
    return [
        (
            int((second - seconds[0]) * scale),
            int(row["ContextTokens"]),
            int(row["GeneratedTokens"]),
            0,
            0,
            0,
            0,
        )
        for second, row in zip(seconds, rows, strict=True)
    ]


def _seconds(stamp: str) -> float:
    try:
        return float(stamp)
    except ValueError:
        return datetime.fromisoformat(stamp).timestamp()


def line(name: str, latencies: Latencies) -> str:
    percentiles = (latencies.percentile(percent) / 1e3 for percent in (50, 90, 99, 99.9))
    values = "".join(f"{value:12.1f}" for value in percentiles)
    return f"{name:24}{latencies.mean / 1e3:12.1f}{values}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trace", help="a CSV file in place of random requests")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--prompt", type=float, default=400.0, help="median tokens")
    parser.add_argument("--output", type=float, default=150.0, help="median tokens")
    parser.add_argument("--shared", type=int, default=256, help="tokens that prompts share")
    parser.add_argument("--tenants", type=int, default=100)
    parser.add_argument("--urgent", type=float, default=0.0, help="share of priority 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pages", type=int, default=6_000)
    parser.add_argument("--page-size", type=int, default=64)
    parser.add_argument("--step-tokens", type=int, default=512)
    parser.add_argument("--max-running", type=int, default=256)
    parser.add_argument("--step", type=float, default=6_000.0, help="microseconds of any step")
    parser.add_argument("--token", type=float, default=20.0, help="and for each token")
    parser.add_argument("--position", type=float, default=0.05, help="and for each one attended to")
    arguments = parser.parse_args()
    config = SchedulerConfig(
        pages=arguments.pages,
        page_size=arguments.page_size,
        step_tokens=arguments.step_tokens,
        max_running=arguments.max_running,
    )
    arrivals = traced_arrivals(arguments) if arguments.trace else random_arrivals(arguments)
    cost = {name: getattr(arguments, name) for name in ("step", "token", "position")}
    start = time.perf_counter()
    report = simulate(config, arrivals, **cost)
    took = time.perf_counter() - start
    print(f"{len(arrivals):,} requests, {report.steps:,} steps, simulated in {took:.1f} s")
    print(f"finished {report.finished:,}, refused {report.refused:,}, preemptions "
          f"{report.preemptions:,}, busy {report.busy / max(report.end, 1):.1%}")  # fmt: skip
    print(f"tokens computed {report.computed_tokens:,}, cached {report.cached_tokens:,}, "
          f"{report.computed_tokens / max(report.end, 1) * 1e6:,.0f} a second")  # fmt: skip
    print(f"{'milliseconds':24}" + "".join(f"{name:>12}" for name in (
        "mean", "50 %", "90 %", "99 %", "99.9 %")))  # fmt: skip
    print(line("to the first token", report.first_token))
    print(line("between tokens", report.between_tokens))
    print(line("to the last token", report.whole))


if __name__ == "__main__":
    main()
