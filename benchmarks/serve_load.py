"""Puts a server under load: streams over real connections, clients that vanish at random.

`python benchmarks/serve_load.py` starts `pygpukit serve` with SmolLM2 on the CPU and has 200
streams ask it for five minutes; `--url` takes a server that runs. Each stream asks for one of a few
prompts with one of a few seeds, or greedily. What each of these gets alone is asked first; every
stream is compared with it as far as it was read, so that mixed texts are found. In the end nothing
may be left: no requests, pages or connections, and no more memory than before.
Prints a JSON object. Needs httpx2, and Linux to look into the server's process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2 as httpx
from cpu import machine

PROMPTS = [
    "Write a short story about a lighthouse.",
    "Explain how a bicycle stays upright.",
    "List five uses of a paper clip.",
    "What is the capital of France, and what is it known for?",
]
SLACK = {"resident_kb": 20_000, "threads": 6, "files": 2}
"""How much more than before may be held afterwards: the event loop's pool has up to six threads."""

Kind = tuple[int, int | None]
"""A prompt, and a seed or None for a temperature of 0."""


class Load:
    """What the streams have seen."""

    def __init__(self, client: httpx.AsyncClient, options: argparse.Namespace) -> None:
        self.client = client
        self.options = options
        self.random = random.Random(options.seed)
        seeds = [None, *range(options.seeds)]
        self.kinds: list[Kind] = [(at, seed) for at in range(len(PROMPTS)) for seed in seeds]
        self.alone: dict[Kind, str] = {}
        self.outcomes: Counter[str] = Counter()
        self.first_pieces: list[float] = []
        self.between_pieces: list[float] = []
        self.pieces = 0

    async def ask_alone(self) -> None:
        """What each kind of request gets while there is no other."""
        for kind in self.kinds:
            self.alone[kind] = await self.ask(kind, None)

    def next_kind(self) -> Kind:
        """What the next request is to be."""
        return self.random.choice(self.kinds)

    def forget(self) -> None:
        """Begins to measure anew."""
        self.first_pieces.clear()
        self.between_pieces.clear()
        self.pieces = 0

    async def stream(self, end: float) -> None:
        """One client after another, until the time is over."""
        while time.monotonic() < end:
            kind = self.next_kind()
            leaves = self.random.random() < self.options.vanish
            stay = self.random.randrange(1, 20) if leaves else None
            try:
                text = await self.ask(kind, stay)
            except httpx.HTTPError as error:
                self.outcomes[f"{type(error).__name__}: {error}"] += 1
            except RuntimeError as error:
                self.outcomes[str(error)] += 1
                await asyncio.sleep(0.5)
            else:
                self.outcomes["vanished" if leaves else "finished"] += 1
                alone = self.alone[kind]
                if not (alone.startswith(text) if leaves else alone == text):
                    self.outcomes["mixed text"] += 1

    async def ask(self, kind: Kind, stay: int | None) -> str:
        """The answer's text, or that of its first `stay` pieces."""
        prompt, seed = kind
        body = {
            "messages": [{"role": "user", "content": PROMPTS[prompt]}],
            "stream": True,
            "max_tokens": self.options.tokens,
            **({"temperature": 0} if seed is None else {"temperature": 0.9, "seed": seed}),
        }
        text, received = "", 0
        newest, began = None, time.monotonic()
        async with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                raise RuntimeError(f"status {response.status_code}")
            async for content in contents(response):
                now = time.monotonic()
                if newest is None:
                    self.first_pieces.append(now - began)
                else:
                    self.between_pieces.append(now - newest)
                newest = now
                text += content
                received += 1
                self.pieces += 1
                if received == stay:
                    break
        return text


async def contents(response: httpx.Response) -> Any:
    """The texts of the pieces of a stream.

    Raises:
        RuntimeError: The stream has ended with an error.
    """
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            piece = json.loads(line.removeprefix("data: "))
            if "error" in piece:
                raise RuntimeError(piece["error"]["message"])
            if content := piece["choices"][0]["delta"].get("content"):
                yield content


class Watch:
    """What a server's process holds, as the kernel tells it."""

    def __init__(self, pid: int | None) -> None:
        self._process = None if pid is None else Path(f"/proc/{pid}")

    def look(self) -> dict[str, int]:
        if self._process is None:
            return {}
        status = dict(
            line.split(":", 1) for line in (self._process / "status").read_text().splitlines()
        )
        return {
            "resident_kb": int(status["VmRSS"].split()[0]),
            "threads": int(status["Threads"]),
            "files": len(list((self._process / "fd").iterdir())),
        }


async def held(client: httpx.AsyncClient) -> dict[str, float]:
    """What the server's scheduler holds, of all models."""
    names = ["running", "waiting", "pages_in_use"]
    sums = dict.fromkeys(names, 0.0)
    for line in (await client.get("/metrics")).text.splitlines():
        name = line.partition("{")[0].removeprefix("pygpukit_")
        if name in sums:
            sums[name] += float(line.rpartition(" ")[2])
    return sums


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds."""
    if len(seconds) < 2:
        return {}
    cuts = statistics.quantiles(seconds, n=100)
    return {"50 %": cuts[49] * 1e3, "99 %": cuts[98] * 1e3}


async def run(options: argparse.Namespace, watch: Watch) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=options.url, timeout=None, limits=limits) as client:
        load = Load(client, options)
        await load.ask_alone()
        # A page takes memory from its first use on; by then all have been used.
        for _ in range(3):
            asked = (load.ask(load.next_kind(), None) for _ in range(options.streams))
            await asyncio.gather(*asked)
        load.forget()
        await asyncio.sleep(2)
        process = {"before": watch.look()}
        start = time.monotonic()
        streams = [load.stream(start + options.seconds) for _ in range(options.streams)]
        under_way = asyncio.gather(*streams)
        await asyncio.sleep(options.seconds / 2)
        process["half-time"] = watch.look()
        await under_way
        seconds = time.monotonic() - start
        await asyncio.sleep(2)
        left = await held(client)
    await asyncio.sleep(1)
    process["after"] = watch.look()
    return {
        "seconds": seconds,
        "outcomes": dict(load.outcomes),
        "pieces_per_second": load.pieces / seconds,
        "ms_to_first_piece": percentiles(load.first_pieces),
        "ms_between_pieces": percentiles(load.between_pieces),
        "left": left,
        "process": process,
    }


def faults(result: dict[str, Any]) -> list[str]:
    """What went wrong."""
    wrong = [name for name in result["outcomes"] if name not in ("finished", "vanished")]
    wrong += [f"{count:g} {name} left" for name, count in result["left"].items() if count]
    before, after = result["process"]["before"], result["process"]["after"]
    for name, found in after.items():
        if found > before[name] + SLACK[name]:
            wrong.append(f"{name} grew from {before[name]} to {found}")
    return wrong


@contextmanager
def served(options: argparse.Namespace) -> Iterator[int]:
    """Runs a server meanwhile; gives the number of its process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    options.url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-I", "-m", "pygpukit.llm.cli", "serve", "--device", "cpu"]
    command += ["--port", str(port), "--log-level", "warning", "--cache-memory", "0.5"]
    with subprocess.Popen(command) as process:
        try:
            while process.poll() is None:
                try:
                    httpx.get(f"{options.url}/health")
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield process.pid
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="of a server; without it one is started")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer at most")
    parser.add_argument("--seeds", type=int, default=4, help="different seeds")
    parser.add_argument("--vanish", type=float, default=0.3, help="share of clients that leave")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    about: dict[str, Any] = {"streams": options.streams, "vanish": options.vanish}
    if options.url is not None:
        result = about | asyncio.run(run(options, Watch(None)))
    else:
        about["machine"] = machine(0)
        del about["machine"]["threads"]
        names = ("pygpukit-core", "pygpukit-llm", "starlette", "uvicorn", "httpx2")
        about["versions"] = {name: version(name) for name in names}
        with served(options) as pid:
            result = about | asyncio.run(run(options, Watch(pid)))
    result["faults"] = faults(result)
    text = json.dumps(result, indent=1)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    print(text)
    if result["faults"]:
        raise SystemExit("there were faults")


if __name__ == "__main__":
    main()
