"""Time pygpukit on the CPU beside llama.cpp and transformers, in one run: `nox -s bench`.

Each round runs every engine once in a fresh process, one after another, so that a machine whose
speed drifts treats all alike; the table shows medians over the rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
MODEL = "SmolLM2-135M-Instruct"
# Row of the table -> engine of workers.py, form of the model.
ROWS = {
    "pygpukit bf16 weights, float32 activations": ("pygpukit", "hf"),
    "pygpukit bf16": ("pygpukit-bfloat16", "hf"),
    "pygpukit Q4_1": ("pygpukit", "q4_1.gguf"),
    "pygpukit Q8_0": ("pygpukit", "q8_0.gguf"),
    "pygpukit Q4_0": ("pygpukit", "q4_0.gguf"),
    "llama.cpp bf16": ("llama.cpp", "bf16.gguf"),
    "llama.cpp Q4_1": ("llama.cpp", "q4_1.gguf"),
    "llama.cpp Q8_0": ("llama.cpp", "q8_0.gguf"),
    "llama.cpp Q4_0": ("llama.cpp", "q4_0.gguf"),
    "transformers bf16": ("transformers", "hf"),
}
MODULES = {"pygpukit": "pygpukit.llm", "llama.cpp": "llama_cpp", "transformers": "transformers"}


def installed(engine: str) -> bool:
    try:
        return importlib.util.find_spec(MODULES[engine.removesuffix("-bfloat16")]) is not None
    except ModuleNotFoundError:
        return False


def models(cache: Path) -> dict[str, str]:
    """The forms of the model; those whose libraries are missing are left out."""
    import smollm2

    return {
        "q4_1.gguf": str(smollm2.packaged_gguf()),
        **{
            f"{kind}.gguf": str(smollm2.cached(cache / f"{kind}.gguf", smollm2.write_gguf))
            for kind in ("bf16", "q8_0", "q4_0")
        },
        "hf": str(smollm2.cached(cache / "hf", smollm2.write_hf, "config.json")),
    }


def environment(threads: int) -> dict[str, str]:
    """This process's, but Python keeps the byte code of what it imports, as it does for users."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYGPUKIT_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}


def worker(engine: str, model: str, threads: int) -> dict[str, Any]:
    """Run one engine of workers.py and return what it measured."""
    command = [sys.executable, str(HERE / "workers.py"), engine, model, "--threads", str(threads)]
    done = subprocess.run(
        command, env=environment(threads), capture_output=True, text=True, check=False
    )
    if done.returncode:
        if engine.startswith("pygpukit"):
            raise SystemExit(f"{engine} failed:\n{done.stderr[-2000:]}")
        return {"error": f"exit code {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def first_output(command: list[str], threads: int) -> float:
    """Seconds from the start of a process to the first byte that it prints."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, env=environment(threads), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        if not process.stdout.read(1):
            raise SystemExit(f"printed nothing: {' '.join(command)}")
        seconds = time.perf_counter() - start
        process.stdout.read()
    return seconds


def first_token_commands(forms: dict[str, str], threads: int) -> dict[str, list[str]]:
    workers = [sys.executable, str(HERE / "workers.py")]
    generate = [str(Path(sys.executable).with_name("pygpukit")), "generate", "--device", "cpu"]
    commands = {
        "pygpukit Q4_1 (text to text)": [
            *generate, "--model", forms["q4_1.gguf"], "--max-new-tokens", "1",
            "What is the capital of France?",
        ],
    }  # fmt: skip
    if installed("transformers"):
        commands["transformers bf16 (ids to id)"] = [
            *workers, "transformers-first-token", forms["hf"], "--threads", str(threads),
        ]  # fmt: skip
    return commands


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine(threads: int) -> dict[str, Any]:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    wanted = ["avx2", "avx512f", "avx512_bf16", "amx_bf16"]
    return {
        "cpu": cpu_name(),
        "instructions": [flag for flag in wanted if f" {flag} " in flags],
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "date": date.today().isoformat(),
    }


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    failed = next((run for run in runs if "error" in run), None)
    return failed or {
        key: statistics.median(run[key] for run in runs) if key != "version" else runs[0][key]
        for key in runs[0]
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    forms = models(options.cache)
    rows = {row: pair for row, pair in ROWS.items() if installed(pair[0])}
    commands = first_token_commands(forms, options.threads)
    runs: dict[str, list[dict[str, Any]]] = {row: [] for row in rows}
    first: dict[str, list[float]] = {row: [] for row in commands}
    for command in commands.values():
        first_output(command, options.threads)  # from here on weights and byte code are cached
    for _ in range(options.rounds):
        for row, (engine, form) in rows.items():
            runs[row].append(worker(engine, forms[form], options.threads))
        for row, command in commands.items():
            first[row].append(first_output(command, options.threads))
    return {
        "model": MODEL,
        "machine": machine(options.threads),
        "rounds": options.rounds,
        "weights_mb": Path(forms["hf"], "model.safetensors").stat().st_size / 1e6,
        "engines": {row: medians(results) for row, results in runs.items()},
        "first_token_seconds": {row: statistics.median(times) for row, times in first.items()},
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        "| engine | decoding tok/s | prompt of 512, tok/s | peak memory, MB |",
        "|---|---|---|---|",
    ]
    for row, values in result["engines"].items():
        if "error" in values:
            lines.append(f"| {row} | failed: {values['error']} | | |")
            continue
        lines.append(
            f"| {row} | {values['decode_tokens_per_second']:.1f} "
            f"| {values['prompt_tokens_per_second']:.0f} | {values['peak_memory_mb']:.0f} |"
        )
    lines += ["", "| process start to first token | seconds |", "|---|---|"]
    for row, seconds in result["first_token_seconds"].items():
        lines.append(f"| {row} | {seconds:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path, help="write the result as JSON")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "pygpukit-bench",
        help="where the model is kept in the forms that the peers read",
    )  # fmt: skip
    options = parser.parse_args()
    result = measure(options)
    print(json.dumps(result["machine"]))
    print(table(result))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
