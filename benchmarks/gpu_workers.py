"""One measurement of one engine on a GPU in a fresh process: a JSON object on the last line."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

from workers import timed

DECODE_TOKENS = 128
DECODE_PROMPT_TOKENS = 256
"""Decoding goes from here to a context of 384, where the limit is the weights alone."""
PROMPTS = (512, 4096)
SAMPLED = {"temperature": 1.0, "top_k": 50, "top_p": 0.95, "seed": 1}


def prompt(length: int) -> list[int]:
    """Token ids that repeat only after a long time."""
    return [1000 + 37 * index % 90000 for index in range(length)]


class Generation:
    """Times `LLM.generate`, everything that it does included."""

    def __init__(self, model: str) -> None:
        from pygpukit.llm import LLM

        start = time.perf_counter()
        self.loaded = 0
        self._llm = LLM.from_pretrained(model, device="cuda", progress=self._progress)
        self.load_seconds = time.perf_counter() - start

    def _progress(self, done: int, total: int) -> None:
        self.loaded = total

    def seconds(self, length: int, new: int, **options: Any) -> float:
        start = time.perf_counter()
        ids = self._llm.generate(
            prompt(length), max_new_tokens=new, ignore_eos=True, **({"temperature": 0} | options)
        )
        assert len(ids) == new
        return time.perf_counter() - start

    def decode(self, length: int, rounds: int = 5, **options: Any) -> float:
        """Tokens per second behind a prompt."""
        # Growing the cache makes the next call capture its steps anew.
        for new in (DECODE_TOKENS, 1):
            self.seconds(length, new, **options)
        rates = []
        for _ in range(rounds):
            first = self.seconds(length, 1, **options)
            rest = self.seconds(length, DECODE_TOKENS, **options) - first
            rates.append((DECODE_TOKENS - 1) / rest)
        return statistics.median(rates)


def pygpukit(model: str, contexts: list[int]) -> dict[str, Any]:
    """Decoding, greedy and sampled, and prompts."""
    import pygpukit.core

    run = Generation(model)
    return {
        "version": pygpukit.core.__version__,
        "load_seconds": run.load_seconds,
        "load_bytes": run.loaded,
        "decode": {str(length): run.decode(length) for length in [DECODE_PROMPT_TOKENS, *contexts]},
        "decode_sampled": run.decode(DECODE_PROMPT_TOKENS, **SAMPLED),
        "prompt": {
            str(length): length / timed(lambda length=length: run.seconds(length, 1), 5)
            for length in PROMPTS
        },
    }


def pygpukit_decode(model: str, contexts: list[int]) -> dict[str, Any]:
    """Decoding alone: greedy, and sampled behind a short prompt."""
    run = Generation(model)
    greedy = {str(length): run.decode(length, 3) for length in contexts}
    return greedy | {"sampled": run.decode(DECODE_PROMPT_TOKENS, 3, **SAMPLED)}


def pygpukit_first_token(model: str, contexts: list[int]) -> dict[str, Any]:
    """Load and print one token."""
    from pygpukit.llm import LLM

    ids = LLM.from_pretrained(model, device="cuda").generate(prompt(37), max_new_tokens=1)
    print(ids[0], flush=True)
    return {}


def transformers(model: str, contexts: list[int], *, compiled: bool = False) -> dict[str, Any]:
    """Time transformers in bfloat16, eager or with a static cache and torch.compile."""
    import torch
    import transformers as lib

    start = time.perf_counter()
    net = lib.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16, device_map="cuda")
    torch.cuda.synchronize()
    load = time.perf_counter() - start
    options = {"cache_implementation": "static"} if compiled else {}

    @torch.inference_mode()
    def forward(length: int) -> None:
        ids = torch.tensor([prompt(length)], device="cuda")
        net(ids, logits_to_keep=1).logits[0, -1].argmax().item()

    @torch.inference_mode()
    def generate(new: int) -> float:
        ids = torch.tensor([prompt(DECODE_PROMPT_TOKENS)], device="cuda")
        start = time.perf_counter()
        out = net.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False,
            min_new_tokens=new, max_new_tokens=new, pad_token_id=2, **options,
        )  # fmt: skip
        torch.cuda.synchronize()
        assert out.shape[1] == DECODE_PROMPT_TOKENS + new
        return time.perf_counter() - start

    # Eager decoding is slow and its rate steady; compiling takes some runs.
    tokens = DECODE_TOKENS if compiled else 32
    for _ in range(3 if compiled else 1):
        generate(tokens)
    rates = [(tokens - 1) / (generate(tokens) - generate(1)) for _ in range(3)]
    prompts = {}
    if not compiled:
        prompts = {
            str(length): length / timed(lambda length=length: forward(length), 5)
            for length in PROMPTS
        }
    return {
        "version": f"{lib.__version__} (torch {torch.__version__})",
        "load_seconds": load,
        "decode": {str(DECODE_PROMPT_TOKENS): statistics.median(rates)},
        "prompt": prompts,
    }


def transformers_compiled(model: str, contexts: list[int]) -> dict[str, Any]:
    return transformers(model, contexts, compiled=True)


def transformers_first_token(model: str, contexts: list[int]) -> dict[str, Any]:
    """Load and print one token: ids only, which spares the peer its tokenizer."""
    import torch
    import transformers as lib

    net = lib.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16, device_map="cuda")
    with torch.inference_mode():
        logits = net(torch.tensor([prompt(37)], device="cuda"), logits_to_keep=1).logits
    print(int(logits[0, -1].argmax()), flush=True)
    return {}


ENGINES = {
    "pygpukit": pygpukit,
    "pygpukit-decode": pygpukit_decode,
    "pygpukit-first-token": pygpukit_first_token,
    "transformers": transformers,
    "transformers-compiled": transformers_compiled,
    "transformers-first-token": transformers_first_token,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("model")
    parser.add_argument("--contexts", type=int, nargs="*", default=[])
    options = parser.parse_args()
    print(json.dumps(ENGINES[options.engine](options.model, options.contexts)))


if __name__ == "__main__":
    main()
