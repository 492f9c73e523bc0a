"""The decode loop: the same bits however the work is cut, and memory that comes back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pygpukit.core import Device, OutOfMemoryError
from pygpukit.llm import LLM, Generation, ModelConfig
from pygpukit.llm.cache import PAGE_SIZE, PagedCache
from pygpukit.llm.checkpoint import open_checkpoint
from pygpukit.llm.decoder import Decoder
from pygpukit.llm.engine import Engine, EngineConfig
from pygpukit.llm.generation import TokenLogprobs
from pygpukit.llm.request import Request
from pygpukit.llm.sampling import SamplingParams
from pygpukit.llm.scoring import Scorer
from pygpukit.llm.weights import load, plan

CPU = Device("cpu")
PROMPTS = [[5, 9, 20, 31], [7], [3 + 7 * position % 60 for position in range(100)], [8] * 6]
NAMES = [
    "gpt2",
    "llama2",
    "mistral-sliding-window",
    "qwen3",
    "qwen3-moe",
    "gemma3",
    "olmo2",
    "variants/cohere2",
    "variants/deepseek-v3",
    "variants/phi3-longrope-crossed",
]


@pytest.fixture(params=NAMES)
def decoder(request: pytest.FixtureRequest, reference_models: Path) -> Decoder:
    checkpoint = open_checkpoint(reference_models / request.param)
    planned = plan(checkpoint.config, checkpoint.tensors, checkpoint.names)
    return Decoder(checkpoint.config, load(planned, checkpoint.tensors, CPU), CPU)


@pytest.fixture
def llm(reference_models: Path) -> LLM:
    return LLM.from_pretrained(reference_models / "llama2", device="cpu")


class Run:
    """A request with the log-probabilities of its tokens."""

    def __init__(self, ids: list[int], new: int, params: SamplingParams) -> None:
        self.request = Request(list(ids), len(ids) + new, params, self._accept)
        self.logprobs: list[TokenLogprobs | None] = []

    def _accept(self, id_: int, logprobs: TokenLogprobs | None) -> bool:
        assert self.request.ids[-1] == id_
        self.logprobs.append(logprobs)
        return False


def generated(engine: Engine, params: SamplingParams, new: int = 12) -> list[list[object]]:
    """Ids and log-probabilities of all prompts at once."""
    runs = [Run(ids, new, params) for ids in PROMPTS]
    for _ in engine.run([run.request for run in runs]):
        pass
    return [[run.request.ids, run.logprobs] for run in runs]


@pytest.mark.parametrize("chunk", [1, 3, 64, 100])
def test_a_prompt_cut_anywhere_gives_the_same_bits(decoder: Decoder, chunk: int) -> None:
    ids = PROMPTS[2]
    logits = Scorer(decoder, CPU, chunk=chunk).logits(ids)
    np.testing.assert_array_equal(logits, Scorer(decoder, CPU).logits(ids))
    whole = Engine(decoder, CPU)
    cut = Engine(decoder, CPU, EngineConfig(step_tokens=chunk))
    params = SamplingParams(logprobs=3)
    assert generated(cut, params) == generated(whole, params)


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.0, seed=3)])
def test_replayed_steps_give_the_same_bits(decoder: Decoder, params: SamplingParams) -> None:
    params = params.updated({"logprobs": 2, "repetition_penalty": 1.2})
    step_by_step = Engine(decoder, CPU, capture=False)
    assert generated(Engine(decoder, CPU), params) == generated(step_by_step, params)


def test_a_decoded_row_has_the_bits_of_a_row_of_a_prompt(decoder: Decoder) -> None:
    """What a step computes is what a prompt that ends there gives."""
    engine = Engine(decoder, CPU)
    run = Run([5, 9, 20], 12, SamplingParams(logprobs=5))
    list(engine.run([run.request]))
    for position, entry in enumerate(run.logprobs, 3):
        again = Run(run.request.ids[:position], 1, SamplingParams(logprobs=5))
        list(engine.run([again.request]))
        assert again.logprobs == [entry]


def test_prompts_together_give_the_same_bits_as_alone(llm: LLM) -> None:
    together = llm.generate(PROMPTS, max_new_tokens=20, logprobs=4)
    assert together == [llm.generate(ids, max_new_tokens=20, logprobs=4) for ids in PROMPTS]


def test_threads_that_generate_at_the_same_time(llm: LLM) -> None:
    def generate(ids: list[int]) -> Generation:
        return llm.generate(ids, max_new_tokens=30, temperature=1.0, ignore_eos=True)

    alone = [generate(ids) for ids in PROMPTS]
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        assert list(pool.map(generate, PROMPTS * 3)) == alone * 3


def test_prompts_that_end_at_different_times(llm: LLM) -> None:
    ends = [llm.generate(ids, max_new_tokens=9, ignore_eos=True)[index * 2 + 1]
            for index, ids in enumerate(PROMPTS)]  # fmt: skip
    together = llm.generate(PROMPTS, max_new_tokens=20, stop_token_ids=ends)
    alone = [llm.generate(ids, max_new_tokens=20, stop_token_ids=ends) for ids in PROMPTS]
    assert together == alone
    assert len({len(generation) for generation in together}) > 1


def test_a_cache_that_grows_on_the_way(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = llm.generate(PROMPTS, max_new_tokens=150, ignore_eos=True)
    monkeypatch.setattr("pygpukit.llm.engine.GROWTH", 5)
    found = llm.generate(PROMPTS, ignore_eos=True)
    for ids, before, after in zip(PROMPTS, expected, found, strict=True):
        assert after[:150] == tuple(before)
        assert len(after) == llm.config.context_length - len(ids)


def test_one_replay_for_each_token_and_no_launch_besides(llm: LLM) -> None:
    llm.generate([1, 2, 3], max_new_tokens=2, ignore_eos=True)
    before = CPU.controller.stats()
    llm.generate([1, 2, 3], max_new_tokens=1, ignore_eos=True)
    prompt = CPU.controller.stats().launches - before.launches
    llm.generate([1, 2, 3], max_new_tokens=41, ignore_eos=True)
    after = CPU.controller.stats()
    steps = after.launches - before.launches - 2 * prompt
    assert after.replays - before.replays == 40
    # Of a prompt the last layer picks the last row of two tensors; a step moves on.
    assert steps == 40 * (prompt - 1)


def test_memory_comes_back(llm: LLM) -> None:
    llm.generate(PROMPTS, max_new_tokens=8)
    before = CPU.pool.stats()
    for _ in range(3):
        llm.generate(PROMPTS, max_new_tokens=8, temperature=1.0)
        llm.logits(PROMPTS[2])
    after = CPU.pool.stats()
    assert (after.in_use, after.live_blocks) == (before.in_use, before.live_blocks)


def test_an_idle_engine_may_keep_its_captured_steps(decoder: Decoder) -> None:
    params = SamplingParams(temperature=0.9, seed=3, logprobs=2)
    expected = generated(Engine(decoder, CPU), params)
    engine = Engine(decoder, CPU, EngineConfig(kept_bytes=1 << 30, steps_under_way=2))
    assert generated(engine, params) == expected
    steps = list(engine._runner._graphs.values())
    assert steps
    # Others in between write over what is kept.
    assert generated(engine, SamplingParams(), new=20)[0][0] != expected[0][0]
    assert generated(engine, params) == expected
    assert all(any(step is other for other in engine._runner._graphs.values()) for step in steps)
    assert engine.scheduler.stats().requests == 0


@pytest.mark.parametrize("kept_bytes", [1000, 1 << 30])
def test_a_cache_stays_where_it_is_small_enough(llm: LLM, kept_bytes: int) -> None:
    engine = Engine(llm._engine._decoder, CPU, EngineConfig(kept_bytes=kept_bytes))
    before = CPU.pool.stats().in_use
    generated(engine, SamplingParams())
    kept = CPU.pool.stats().in_use
    generated(engine, SamplingParams())
    assert CPU.pool.stats().in_use == kept
    assert (kept > before) == (kept_bytes > 1000)


def test_memory_is_sized_to_the_request(llm: LLM) -> None:
    run = Run([1, 2], 10, SamplingParams(max_new_tokens=10))
    stream = llm._engine.run([run.request])
    before = CPU.pool.stats().in_use
    next(stream)
    held = CPU.pool.stats().in_use - before
    stream.close()
    assert held >= llm.config.cache_bytes(PAGE_SIZE)
    assert held < 3 * llm.config.cache_bytes(PAGE_SIZE)


def test_out_of_memory_and_on(llm: LLM) -> None:
    expected = llm.generate([1, 2, 3], max_new_tokens=5)
    pool = CPU.pool
    pool.trim()
    before = pool.stats().in_use
    pool.quota = pool.stats().held + 100_000
    try:
        with pytest.raises(OutOfMemoryError, match=r"\d"):
            llm.generate([[1, 2, 3]] * 64, max_new_tokens=200, ignore_eos=True)
        assert pool.stats().in_use == before
        assert llm.generate([1, 2, 3], max_new_tokens=5) == expected
    finally:
        pool.quota = None


CONFIG = ModelConfig(
    architecture="llama",
    vocab_size=8,
    context_length=4096,
    hidden_size=4,
    intermediate_size=4,
    num_layers=1,
    num_heads=1,
    num_kv_heads=1,
    head_dim=2,
    attention_scale=0.5,
)


def test_growing_keeps_what_is_cached() -> None:
    cache = PagedCache(CONFIG, CPU, 2)
    shape = cache.layers[0].values.shape
    contents = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    cache.layers[0].values.copy_(contents)
    cache.grow(3)
    np.testing.assert_array_equal(cache.layers[0].values.numpy()[:2], contents)
    assert cache.pages == 5
