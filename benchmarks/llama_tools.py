"""llama.cpp's own benchmarks, on models of random weights, where its tools are on the path."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import random_model

BENCH, BATCHED_BENCH = "llama-bench", "llama-batched-bench"


def measured(tool: str, model: Path, runs: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """What a tool prints for a model that `random_model` knows, run with each list of options.

    Raises:
        RuntimeError: the tool isn't on the path, failed, or printed nothing.
    """
    if shutil.which(tool) is None:
        raise RuntimeError(f"{tool} isn't on the path")
    file = model / "model.gguf"
    random_model.write_gguf(file, model.name)
    lines: list[dict[str, Any]] = []
    try:
        for options in runs:
            command = [tool, "-m", str(file), "-ngl", "99", *options]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            if done.returncode or not found:
                raise RuntimeError(f"{tool} failed: {done.stderr[-2000:]}")
            lines += found
    finally:
        file.unlink()
    return lines


def or_error(measure: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The same measurement with its error in the place of results that there aren't."""

    @functools.wraps(measure)
    def measured_or_not(*arguments: Any) -> dict[str, Any]:
        try:
            return measure(*arguments)
        except RuntimeError as error:
            return {"error": str(error)}

    return measured_or_not


@or_error
def batches(model: Path, sizes: Sequence[int], prompt: int, new: int) -> dict[str, Any]:
    """Decoding that many sequences at once: their prompts are followed by tokens timed alone."""
    options = ["--output-format", "jsonl", "-fa", "on", "-b", "2048", "-ub", "2048"]
    options += ["-c", str(max(sizes) * (prompt + new)), "-npl", ",".join(map(str, sizes))]
    options += ["-npp", str(prompt), "-ntg", str(new)]
    lines = measured(BATCHED_BENCH, model, [options])
    return {"batches": {str(line["pl"]): {"tokens_per_second": line["speed_tg"]} for line in lines}}


@or_error
def one_stream(
    model: Path, prompts: Sequence[int], contexts: Sequence[int], new: int
) -> dict[str, Any]:
    """Prompts of these lengths, and decoding behind contexts of these; no sampling is in that."""
    both = ["-o", "jsonl", "-fa", "1", "-b", "4096", "-ub", "2048"]
    runs = [
        [*both, "-p", ",".join(map(str, prompts)), "-n", "0"],
        [*both, "-p", "0", "-n", str(new), "-d", ",".join(map(str, contexts))],
    ]
    lines = measured(BENCH, model, runs)
    return {
        "version": f"{lines[0]['build_number']} ({lines[0]['build_commit']})",
        "decode": {str(line["n_depth"]): line["avg_ts"] for line in lines if line["n_gen"]},
        "prompt": {str(line["n_prompt"]): line["avg_ts"] for line in lines if line["n_prompt"]},
    }
