"""Time pygpukit.tokenizer beside Hugging Face tokenizers: `nox -s bench -- tokenizer`.

Every measurement is made in a fresh process, cold caches and all, pinned to one core where the
system can do that, each engine right after the other; rows have medians over the rounds, of times
and of the ratios within a round: a machine that others use as well isn't always equally fast. All
engines run in one thread, and what counts is its CPU time.
What is asked of encoding with offsets is the offsets.
Tokenizer files and texts aren't part of the project: `--tokenizers` names a folder with a folder
for each model (`tokenizer.json` or `tokenizer.json.xz`), `--corpora` one of text files (`*.txt`,
`*.txt.xz`). Where tiktoken is installed it is timed as well, on byte-level files whose ranks it can
take over; where uv is, the last of transformers' tokenizers in Python, on files that are theirs.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from peak_memory import peak_memory  # noqa: E402

RESULTS = HERE / "results/tokenizer.json"
ENGINES = ("tokenizers", "pygpukit", "tiktoken", "transformers")
ONLY_IDS = ("tiktoken", "transformers")
# The last transformers with tokenizers in Python goes with an older release of tokenizers.
OLD_TRANSFORMERS = [
    *("uv", "run", "--quiet", "--no-project", "--python", sys.executable),
    *("--with", "transformers>=4.57,<5"),
]
QWEN_2 = r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
TASKS = ("ids", "encode", "decode", "start")


def read_text(path: Path) -> str:
    data = path.read_bytes()
    return (lzma.decompress(data) if path.suffix == ".xz" else data).decode()


# What one process measures ------------------------------------------------------------------------


def pygpukit_calls(path: str) -> dict[str, Callable[..., Any]]:
    from pygpukit.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return {
        "ids": tokenizer.encode_ids,
        "encode": lambda text: tokenizer.encode(text).offsets,
        "decode": tokenizer.decode,
    }


def tokenizers_calls(path: str) -> dict[str, Callable[..., Any]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return {
        "ids": lambda text: tokenizer.encode_batch_fast([text])[0].ids,
        "encode": lambda text: tokenizer.encode(text).offsets,
        "decode": tokenizer.decode,
    }


def tiktoken_calls(path: str) -> dict[str, Callable[..., Any]]:
    """The same vocabulary and pattern, where the file has no more than these."""
    import tiktoken

    data = json.loads(Path(path).read_text(encoding="utf-8"))
    steps = data["pre_tokenizer"].get("pretokenizers", [])
    if len(steps) != 2 or steps[0]["type"] != "Split" or data["model"]["type"] != "BPE":
        raise SystemExit("not a pattern and a byte-level BPE")
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    byte_of = {chr(byte): byte for byte in visible}
    byte_of |= {chr(256 + i): byte for i, byte in enumerate(hidden)}
    added = {token["content"]: token["id"] for token in data["added_tokens"]}
    ranks = {
        bytes(byte_of[char] for char in token): id
        for token, id in data["model"]["vocab"].items()
        if token not in added
    }
    encoding = tiktoken.Encoding(
        "bench", pat_str=steps[0]["pattern"]["Regex"], mergeable_ranks=ranks, special_tokens=added
    )
    return {"ids": lambda text: encoding.encode(text, allowed_special="all")}


def transformers_calls(path: str) -> dict[str, Callable[..., Any]]:
    """The tokenizers in Python for GPT-2's, Qwen 2's and BERT's files."""
    from transformers import BertTokenizer, GPT2Tokenizer, Qwen2Tokenizer

    data = json.loads(Path(path).read_text(encoding="utf-8"))
    model, steps = data["model"], data["pre_tokenizer"]
    steps = steps.get("pretokenizers", [steps])
    vocab, merges = (Path(path).with_name(name) for name in ("vocab.txt", "merges.txt"))
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges", [])]
    merges.write_text("\n".join(["#version: 0.2", *pairs]), encoding="utf-8")
    if steps[0]["type"] == "BertPreTokenizer":
        tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
        vocab.write_text("\n".join(tokens), encoding="utf-8")
        tokenizer = BertTokenizer(vocab, do_lower_case=data["normalizer"]["lowercase"])
    else:
        vocab.write_text(json.dumps(model["vocab"]), encoding="utf-8")
        if steps[0]["type"] == "ByteLevel" and "merges" in model:
            tokenizer = GPT2Tokenizer(vocab, merges)
        elif QWEN_2 in steps[0].get("pattern", {}).get("Regex", ""):
            tokenizer = Qwen2Tokenizer(vocab, merges)
        else:
            raise SystemExit("not a file of GPT-2's, Qwen 2's or BERT's kind")
    return {"ids": lambda text: tokenizer(text, verbose=False)["input_ids"]}


CALLS = {
    "pygpukit": pygpukit_calls,
    "tokenizers": tokenizers_calls,
    "tiktoken": tiktoken_calls,
    "transformers": transformers_calls,
}


def worker(engine: str, path: str, task: str, corpus: str, ids_path: str) -> None:
    """Do one task once and print the seconds that it took."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    calls = CALLS[engine](path)
    if task == "start":
        calls["ids"]("Hello")
        print(json.dumps({"seconds": time.process_time(), "peak_mb": peak_memory() / 2**20}))
        return
    call = calls[task]
    argument = (
        json.loads(Path(ids_path).read_text()) if task == "decode" else read_text(Path(corpus))
    )
    start = time.process_time()
    result = call(argument)
    seconds = time.process_time() - start
    print(json.dumps({"seconds": seconds, "count": len(result)}))


# Running them -------------------------------------------------------------------------------------


def run(*arguments: str) -> dict[str, Any] | None:
    """One worker's answer; None where it failed, as where the engine isn't installed."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}
    python = [*OLD_TRANSFORMERS, "python"] if arguments[0] == "transformers" else [sys.executable]
    if shutil.which(python[0]) is None:
        return None
    done = subprocess.run(
        [*python, "-I", __file__, "--worker", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        if arguments[0] == "pygpukit":
            raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
        return None
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Rows of medians: one for each model, task and text."""
    from cpu import machine

    corpora = {path.name.split(".")[0]: path for path in sorted(options.corpora.glob("*.txt*"))}
    rows = []
    for folder in sorted(options.tokenizers.iterdir()):
        if not (source := next(iter(folder.glob("tokenizer.json*")), None)):
            continue
        if options.only and folder.name not in options.only:
            continue
        path = work / f"{folder.name}.json"
        path.write_text(read_text(source), encoding="utf-8")
        engines = list(ENGINES)
        for task in options.tasks:
            for corpus in ["-"] if task == "start" else corpora:
                text = str(corpora.get(corpus, ""))
                row = one_row(engines, str(path), task, text, work, options.rounds)
                row |= {"python": platform.python_version()}
                rows.append({"model": folder.name, "task": task, "text": corpus, **row})
                print(line(rows[-1]), flush=True)
    return {"machine": machine(1) | {"python": sys.version}, "rows": rows}


def one_row(
    engines: list[str], path: str, task: str, corpus: str, work: Path, rounds: int
) -> dict[str, Any]:
    """Medians of one task; engines that can't do it, or aren't there, are taken off the list."""
    ids_path = work / "ids.json"
    if task == "decode":
        # Every engine decodes the same ids.
        ids = tokenizers_calls(path)["ids"](read_text(Path(corpus)))
        ids_path.write_text(json.dumps(ids))
    samples: dict[str, list[float]] = {}
    row: dict[str, Any] = {"rounds": rounds}
    counts = set()
    for _ in range(rounds):
        for engine in list(engines):
            if engine in ONLY_IDS and task != "ids":
                continue
            found = run(engine, path, task, corpus, str(ids_path))
            if found is None:
                engines.remove(engine)
                continue
            samples.setdefault(engine, []).append(found["seconds"])
            if task == "start":
                row[f"{engine} peak MB"] = round(found["peak_mb"])
            elif engine not in ONLY_IDS:
                counts.add(found["count"])
    if len(counts) > 1:
        raise SystemExit(f"{path}, {task}: the engines differ: {counts}")
    for engine, seconds in samples.items():
        row[engine] = round(statistics.median(seconds), 4)
    pairs = zip(samples["tokenizers"], samples["pygpukit"], strict=True)
    row["ratio"] = round(statistics.median(theirs / ours for theirs, ours in pairs), 2)
    return row


def line(row: dict[str, Any]) -> str:
    seconds = "  ".join(f"{engine} {row[engine]:.3f} s" for engine in ENGINES if engine in row)
    peaks = "  ".join(
        f"{engine} {row[key]} MB" for engine in ENGINES if (key := f"{engine} peak MB") in row
    )
    title = f"{row['model']:<26} {row['task']:<7} {row['text']:<8}"
    return f"{title} {row['ratio']:>5.2f} ×   {seconds}  {peaks}".rstrip()


def table(rows: list[dict[str, Any]]) -> str:
    """How many times as fast as tokenizers pygpukit is, as a Markdown table."""
    found = {(row["model"], row["task"], row["text"]): row for row in rows}
    models = list(dict.fromkeys(row["model"] for row in rows))
    texts = sorted({row["text"] for row in rows} - {"-"})
    tasks = [task for task in TASKS if task != "start"]
    columns = [f"{task}, {text}" for task in tasks for text in texts]
    lines = [["model", *columns, "start", "memory"], ["---"] * (len(columns) + 3)]
    for model in models:
        cells = [f"{found[model, task, text]['ratio']:.1f}" for task in tasks for text in texts]
        start = found[model, "start", "-"]
        share = start["pygpukit peak MB"] / start["tokenizers peak MB"]
        lines.append([model, *cells, f"{start['ratio']:.1f}", f"{share:.2f}"])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The new rows, and the old ones of what wasn't measured again."""

    def key(row: dict[str, Any]) -> tuple[str, int, str]:
        return row["model"], TASKS.index(row["task"]), row["text"]

    rows = {key(row): row for row in [*old, *new]}
    return [rows[place] for place in sorted(rows)]


def main() -> None:
    if "--worker" in sys.argv:
        worker(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizers", type=Path, help="folder of models' folders")
    parser.add_argument("--corpora", type=Path, help="folder of text files")
    parser.add_argument("--only", nargs="*", help="names of models")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=TASKS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write the result file")
    parser.add_argument("--table", action="store_true", help="print the table of the result file")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]))
        return
    if options.tokenizers is None or options.corpora is None:
        parser.error("--tokenizers and --corpora are needed")
    with tempfile.TemporaryDirectory() as work:
        result = measure(options, Path(work))
    if options.write:
        if RESULTS.exists():
            result["rows"] = merged(json.loads(RESULTS.read_text())["rows"], result["rows"])
        RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
