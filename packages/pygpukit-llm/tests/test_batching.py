"""Continuous batching: whatever runs beside a request, it gets the same bits; nothing is lost."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from pygpukit.core import Device, QueueFullError, RequestRefusedError
from pygpukit.llm import LLM, LogitsError, RequestExpiredError, SamplingParams
from pygpukit.llm.cache import PAGE_SIZE
from pygpukit.llm.checkpoint import open_checkpoint
from pygpukit.llm.decoder import Decoder
from pygpukit.llm.engine import Engine, EngineConfig
from pygpukit.llm.generation import TokenLogprobs
from pygpukit.llm.request import Request
from pygpukit.llm.runner import padded
from pygpukit.llm.weights import load, plan

CPU = Device("cpu")
Result = tuple[list[int], list[TokenLogprobs | None]]


class Job:
    """A request with what came of it; `stop` ends it after so many tokens."""

    def __init__(
        self, ids: Sequence[int], new: int, params: SamplingParams, stop: int | None = None, **rest
    ) -> None:
        self.arguments = list(ids), new, params, stop
        self.logprobs: list[TokenLogprobs | None] = []
        self.stop = stop
        self.request = Request(list(ids), len(ids) + new, params, self.accept, **rest)

    def accept(self, id_: int, logprobs: TokenLogprobs | None) -> bool:
        self.logprobs.append(logprobs)
        return len(self.logprobs) == self.stop

    @property
    def result(self) -> Result:
        return self.request.ids, self.logprobs

    def alone(self, engine: Engine) -> Result:
        """What the same request gets by itself."""
        again = Job(*self.arguments)
        for _ in engine.run([again.request]):
            pass
        return again.result


def decoder_of(folder: Path) -> Decoder:
    checkpoint = open_checkpoint(folder)
    planned = plan(checkpoint.config, checkpoint.tensors, checkpoint.names)
    return Decoder(checkpoint.config, load(planned, checkpoint.tensors, CPU), CPU)


@pytest.fixture(scope="module")
def decoder(reference_models: Path) -> Decoder:
    return decoder_of(reference_models / "llama2")


def random_params(rng: random.Random) -> SamplingParams:
    changes = {
        "temperature": rng.choice([0.0, 0.0, 0.7, 1.3]),
        "top_k": rng.choice([0, 5]),
        "top_p": rng.choice([1.0, 0.8]),
        "min_p": rng.choice([0.0, 0.05]),
        "repetition_penalty": rng.choice([1.0, 1.0, 1.3]),
        "frequency_penalty": rng.choice([0.0, 0.2]),
        "logprobs": rng.choice([None, None, 0, 3]),
        "seed": rng.randrange(100),
        "max_new_tokens": rng.choice([None, 1000]),
    }
    return SamplingParams(**changes)


def random_job(rng: random.Random) -> Job:
    # Many begin alike, for more than a page.
    shared = rng.choice([0, 0, 3, PAGE_SIZE + 3])
    ids = [(7 * position + 1) % 60 for position in range(shared)]
    ids += [rng.randrange(1, 60) for _ in range(rng.choice([1, 2, 30]))]
    return Job(ids, rng.choice([1, 2, 20]), random_params(rng), rng.choice([None, None, 1, 5]))


CONFIGS = [
    EngineConfig(),
    EngineConfig(steps_under_way=2),
    EngineConfig(step_tokens=16, max_running=3, steps_under_way=3),
    EngineConfig(step_tokens=64, pages=4),
    EngineConfig(step_tokens=64, pages=4, steps_under_way=2),
    EngineConfig(pages=64, max_running=5, steps_under_way=2),
    EngineConfig(step_tokens=32, max_running=5, steps_under_way=2, captured_tokens=32),
    EngineConfig(pages=64, captured_tokens=512),
]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
@pytest.mark.parametrize(
    "name",
    [
        *("llama2", "gpt2", "mistral-sliding-window", "qwen3-moe"),
        *("variants/deepseek-v3", "variants/gpt-oss"),
    ],
)
def test_every_request_gets_the_bits_that_it_gets_alone(
    reference_models: Path, name: str, config: EngineConfig
) -> None:
    decoder = decoder_of(reference_models / name)
    rng = random.Random(f"{name}{config}")
    engine, reference = Engine(decoder, CPU, config), Engine(decoder, CPU)
    jobs: list[Job] = []
    cancelled: list[Job] = []
    while len(jobs) < 40 or not all(job.request.done for job in jobs):
        if len(jobs) < 40 and rng.random() < 0.4:
            jobs.append(random_job(rng))
            engine.submit(jobs[-1].request)
        live = [job for job in jobs if not job.request.done]
        if live and rng.random() < 0.05:
            cancelled.append(rng.choice(live))
            engine.cancel(cancelled[-1].request)
        engine.advance()
    stats = engine.scheduler.stats()
    assert (stats.requests, stats.pages_in_use) == (0, 0)
    assert not engine.scheduler.busy
    for job in jobs:
        assert job.request.error is None
        ids, logprobs = job.alone(reference)
        if job in cancelled:
            assert ids[: len(job.request.ids)] == job.request.ids
        else:
            assert job.result == (ids, logprobs)


def test_sequences_that_become_long_among_short_ones(reference_models: Path) -> None:
    decoder = decoder_of(reference_models / "variants/phi3-longrope-crossed")
    stretch = decoder.config.stretch_length
    assert stretch is not None
    engine = Engine(decoder, CPU, EngineConfig(steps_under_way=2))
    lengths = [3, stretch - 4, stretch - 2, stretch + 3]
    params = SamplingParams(logprobs=2, max_new_tokens=8)
    jobs = [Job([(3 * i + 1) % 60 for i in range(length)], 8, params) for length in lengths]
    list(engine.run([job.request for job in jobs]))
    assert [job.result for job in jobs] == [job.alone(engine) for job in jobs]


def test_pages_that_run_out(decoder: Decoder) -> None:
    engine = Engine(decoder, CPU, EngineConfig(pages=4, steps_under_way=2))
    params = SamplingParams(temperature=1.0)
    jobs = [Job([5 + job, 9], 3 * PAGE_SIZE - 10, params) for job in range(3)]
    list(engine.run([job.request for job in jobs]))
    assert engine.scheduler.stats().preemptions > 0
    assert [job.result for job in jobs] == [job.alone(engine) for job in jobs]


def test_a_prompt_in_many_steps_holds_up_nobody(decoder: Decoder) -> None:
    config = EngineConfig(step_tokens=16, pages=16, steps_under_way=2)
    engine = Engine(decoder, CPU, config)
    answer = Job([5, 6, 7], 200, SamplingParams())
    engine.submit(answer.request)
    engine.advance()
    prompt = Job(range(1, 61), 10, SamplingParams())
    engine.submit(prompt.request)
    while not prompt.logprobs:
        before = len(answer.logprobs)
        engine.advance()
        assert 1 <= len(answer.logprobs) - before <= 3
    engine.cancel(answer.request)
    engine.cancel(prompt.request)


def test_beginnings_are_computed_once(decoder: Decoder) -> None:
    engine = Engine(decoder, CPU, EngineConfig(pages=20))
    ids = [(3 * position + 1) % 60 for position in range(2 * PAGE_SIZE)]
    jobs = [Job([*ids, last], 4, SamplingParams(logprobs=2)) for last in (7, 8)]
    for job in jobs:
        list(engine.run([job.request]))
    assert engine.scheduler.stats().cached_tokens == 2 * PAGE_SIZE
    assert jobs[1].result == jobs[1].alone(Engine(decoder, CPU))


def test_steps_are_captured_once(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    captures: list[int] = []
    engine = Engine(decoder, CPU, EngineConfig(pages=64))
    launch = engine._runner._launch

    def counted(slots, cache, rows):
        captures.append(rows)
        return launch(slots, cache, rows)

    monkeypatch.setattr(engine._runner, "_launch", counted)

    def run() -> None:
        jobs = [Job([5, job], 3 + job, SamplingParams()) for job in range(6)]
        list(engine.run([job.request for job in jobs]))

    run()
    assert sorted(captures) == [1, 2, 3, 4, 5, 6]
    run()
    run()
    assert len(captures) == 6


def test_steps_of_prompts_are_captured_when_they_come_again(decoder: Decoder) -> None:
    config = EngineConfig(pages=64, step_tokens=100, captured_tokens=100)
    engine, reference = Engine(decoder, CPU, config), Engine(decoder, CPU)
    beginnings = iter(range(3, 60))  # all different, or pages would be shared
    expected = [
        ([90], 1),  # of these one is the step in which all decode
        ([80], 2),
        ([4] * 9, 1),  # more results than there is room for
        ([4] * 9, 1),
        ([70], 2),
        ([90, 40], 2),  # 90 and 10, 30 beside one that decodes
        ([90, 40], 3),
    ]
    for lengths, replays in expected:
        params = SamplingParams(temperature=1, seed=3)
        jobs = [Job([next(beginnings)] * length, 2, params) for length in lengths]
        before = CPU.controller.stats().replays
        list(engine.run([job.request for job in jobs]))
        assert CPU.controller.stats().replays - before == replays
        assert [job.result for job in jobs] == [job.alone(reference) for job in jobs]


def test_sequences_that_outgrow_their_captured_steps(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [
        Job([5, job], 3 * PAGE_SIZE + 20 * job, SamplingParams(frequency_penalty=0.1 * job))
        for job in range(3)
    ]
    alone = [job.alone(Engine(decoder, CPU)) for job in jobs]
    monkeypatch.setattr("pygpukit.llm.engine.LEAST_LENGTH", PAGE_SIZE)
    engine = Engine(decoder, CPU, EngineConfig(steps_under_way=2))
    lengths = set()
    for _ in engine.run([job.request for job in jobs]):
        if engine._slots is not None:
            lengths.add(engine._slots.length)
    assert [job.result for job in jobs] == alone
    assert lengths == {3 * PAGE_SIZE, 4 * PAGE_SIZE}


def test_rows_are_padded_by_little() -> None:
    assert [padded(rows) for rows in (1, 7, 8, 9, 60, 64, 65, 256)] == [
        1, 7, 8, 16, 64, 64, 96, 256,
    ]  # fmt: skip
    assert all(rows <= padded(rows) < rows + 32 for rows in range(1, 600))


def test_threads_share_an_engine(decoder: Decoder) -> None:
    engine = Engine(decoder, CPU)
    jobs = [random_job(random.Random(index)) for index in range(24)]

    def run(mine: list[Job]) -> None:
        for job in mine:
            for _ in engine.run([job.request]):
                pass

    threads = [threading.Thread(target=run, args=[jobs[start::6]]) for start in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reference = Engine(decoder, CPU)
    assert [job.result for job in jobs] == [job.alone(reference) for job in jobs]


def test_a_request_that_runs_itself_has_company(decoder: Decoder) -> None:
    """Whoever advances does so for all."""
    engine = Engine(decoder, CPU)
    mine, other = (Job([5, 6], 20, SamplingParams()) for _ in range(2))
    engine.submit(other.request)
    list(engine.run([mine.request]))
    assert other.request.done
    assert other.result == mine.result


def test_cancelling_frees_everything(decoder: Decoder) -> None:
    before = CPU.pool.stats().in_use
    engine = Engine(decoder, CPU, EngineConfig(steps_under_way=2))
    jobs = [Job([5, 6, job], 100, SamplingParams()) for job in range(3)]
    for job in jobs:
        engine.submit(job.request)
    for _ in range(4):
        engine.advance()
    for job in jobs:
        assert CPU.pool.stats().in_use > before
        engine.cancel(job.request)
        engine.cancel(job.request)
    assert CPU.pool.stats().in_use == before


def test_a_deadline(decoder: Decoder) -> None:
    engine = Engine(decoder, CPU)
    late = Job([5, 6], 200, SamplingParams(), deadline=time.monotonic() + 0.05)
    steps = (time.sleep(0.01) for _ in engine.run([late.request]))
    with pytest.raises(RequestExpiredError, match="deadline has passed"):
        list(steps)
    assert 2 < len(late.request.ids) < 200
    assert engine.scheduler.stats().requests == 0


def test_what_is_refused(decoder: Decoder) -> None:
    engine = Engine(decoder, CPU, EngineConfig(pages=1, max_waiting=1))
    with pytest.raises(RequestRefusedError, match="the page quota"):
        list(engine.run([Job([5] * 60, 10, SamplingParams()).request]))
    first, second = (Job([5], 3, SamplingParams()) for _ in range(2))
    engine.submit(first.request)
    with pytest.raises(QueueFullError):
        engine.submit(second.request)
    list(engine.run([]))
    while not first.request.done:
        engine.advance()
    assert len(first.request.ids) == 4


def test_an_error_is_that_of_one_request_only(logits_model: Callable[..., Path]) -> None:
    llm = LLM.from_pretrained(logits_model(np.zeros((32, 16))), device="cpu")
    engine = llm._engine
    positions = engine._decoder.weights.position_embedding
    positions[20:21].copy_(np.full((1, 32), np.nan, np.float32))
    good, bad, raising = (Job([1] * n, 5, SamplingParams()) for n in (1, 18, 2))

    def accept(id_: int, logprobs: TokenLogprobs | None) -> bool:
        raise ZeroDivisionError

    raising.request.accept = accept
    for job in (good, bad, raising):
        engine.submit(job.request)
    while not good.request.done:
        engine.advance()
    assert len(good.request.ids) == 6
    assert good.request.error is None
    assert isinstance(bad.request.error, LogitsError)
    assert isinstance(raising.request.error, ZeroDivisionError)
    assert engine.scheduler.stats().requests == 0


def test_an_interrupted_step_ends_no_request(decoder: Decoder) -> None:
    engine = Engine(decoder, CPU)
    jobs = [Job([5, job], 12, SamplingParams(temperature=1.0)) for job in range(3)]
    interrupts = iter([False, True])

    def accept(id_: int, logprobs: TokenLogprobs | None) -> bool:
        if next(interrupts, False):
            raise KeyboardInterrupt
        return Job.accept(jobs[1], id_, logprobs)

    jobs[1].request.accept = accept
    for job in jobs:
        engine.submit(job.request)
    engine.advance()
    with pytest.raises(KeyboardInterrupt):
        engine.advance()
    while not all(job.request.done for job in jobs):
        engine.advance()
    assert [job.request.ids for job in jobs] == [job.alone(engine)[0] for job in jobs]
