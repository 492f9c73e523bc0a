"""Puts a server under load: streams over real connections, clients that vanish at random.

`python benchmarks/serve_load.py --url http://127.0.0.1:8000 --streams 200 --seconds 300`

Each stream asks for one of a few prompts with a seed of its own; whoever stays to the end compares
the text with what the same request got before, so that mixed texts are found. Needs httpx2.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections import Counter

import httpx2 as httpx

PROMPTS = [
    "Write a short story about a lighthouse.",
    "Explain how a bicycle stays upright.",
    "List five uses of a paper clip.",
    "What is the capital of France, and what is it known for?",
]


class Load:
    """What the streams have seen."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.random = random.Random(arguments.seed)
        self.texts: dict[tuple[int, int], str] = {}
        self.outcomes: Counter[str] = Counter()
        self.first_tokens: list[float] = []
        self.between_tokens: list[float] = []
        self.pieces = 0
        self.end = time.monotonic() + arguments.seconds

    async def stream(self, client: httpx.AsyncClient) -> None:
        """One client after another, until the time is over."""
        while time.monotonic() < self.end:
            prompt = self.random.randrange(len(PROMPTS))
            seed = self.random.randrange(self.arguments.seeds)
            leaves = self.random.random() < self.arguments.vanish
            stay = self.random.randrange(1, 20) if leaves else None
            try:
                text = await self.ask(client, prompt, seed, stay)
            except httpx.HTTPError as error:
                self.outcomes[f"{type(error).__name__}: {error}"] += 1
                continue
            except RuntimeError as error:
                self.outcomes[str(error)] += 1
                await asyncio.sleep(0.5)
                continue
            self.outcomes["vanished" if leaves else "finished"] += 1
            known = self.texts.setdefault((prompt, seed), text) if not leaves else text
            if known != text:
                self.outcomes["mixed text"] += 1

    async def ask(self, client: httpx.AsyncClient, prompt: int, seed: int, stay: int | None) -> str:
        """The answer's text, or that of its first `stay` pieces."""
        body = {
            "messages": [{"role": "user", "content": PROMPTS[prompt]}],
            "stream": True,
            "seed": seed,
            "temperature": 0.9,
            "max_tokens": self.arguments.tokens,
        }
        text, newest, received = "", None, 0
        start = time.monotonic()
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                raise RuntimeError(f"status {response.status_code}")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                piece = json.loads(line.removeprefix("data: "))
                if "error" in piece:
                    raise RuntimeError(piece["error"]["message"])
                content = piece["choices"][0]["delta"].get("content")
                if not content:
                    continue
                now = time.monotonic()
                if newest is None:
                    self.first_tokens.append(now - start)
                else:
                    self.between_tokens.append(now - newest)
                newest = now
                text += content
                received += 1
                self.pieces += 1
                if received == stay:
                    return text
        return text


def _percentiles(name: str, seconds: list[float]) -> str:
    if len(seconds) < 2:
        return f"{name}: too few"
    cuts = statistics.quantiles(seconds, n=100)
    return f"{name}: 50 % {cuts[49] * 1e3:.0f} ms, 99 % {cuts[98] * 1e3:.0f} ms"


async def run(arguments: argparse.Namespace) -> Load:
    load = Load(arguments)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=arguments.url, timeout=None, limits=limits) as client:
        await asyncio.gather(*(load.stream(client) for _ in range(arguments.streams)))
        await asyncio.sleep(1)
        metrics = (await client.get("/metrics")).text
    for line in metrics.splitlines():
        if line.startswith(("pygpukit_running", "pygpukit_waiting", "pygpukit_pages")):
            print(line)
    return load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer at most")
    parser.add_argument("--seeds", type=int, default=4, help="different seeds")
    parser.add_argument("--vanish", type=float, default=0.3, help="share of clients that leave")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.monotonic()
    load = asyncio.run(run(arguments))
    took = time.monotonic() - start
    print(dict(load.outcomes))
    print(f"{load.pieces} pieces of text in {took:.0f} s, {load.pieces / took:.1f} a second")
    print(_percentiles("to the first piece", load.first_tokens))
    print(_percentiles("between pieces", load.between_tokens))
    if load.outcomes.keys() - {"finished", "vanished"}:
        raise SystemExit("there were errors")


if __name__ == "__main__":
    main()
