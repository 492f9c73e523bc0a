"""Several models on one device: quotas, turns, and bits that don't depend on the neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pygpukit.llm import LLM, SamplingParams
from pygpukit.llm.engine import EngineConfig
from pygpukit.llm.output import Output
from pygpukit.llm.shared import SharedDevice

CONFIG = EngineConfig(pages=16, step_tokens=32, max_running=8)


@pytest.fixture
def models(reference_models: Path) -> list[LLM]:
    return [
        LLM.from_pretrained(reference_models / name, device="cpu") for name in ("llama2", "qwen3")
    ]


def submitted(llm: LLM, count: int, new: int) -> list[Output]:
    """Requests that have been given to the model's engine."""
    outputs = [
        llm.prepare(
            [5 + row, 9],
            SamplingParams(temperature=1.0, seed=row, max_new_tokens=new, ignore_eos=True),
        )
        for row in range(count)
    ]
    for output in outputs:
        llm.engine.submit(output.request)
    return outputs


def finish(device: SharedDevice) -> None:
    while device.busy:
        device.advance()


def results(outputs: Sequence[Output]) -> list[list[int]]:
    return [list(output.request.ids) for output in outputs]


def test_models_get_the_bits_that_they_get_alone(models: list[LLM]) -> None:
    alone = []
    for llm in models:
        llm.configure(CONFIG)
        outputs = submitted(llm, 5, 40)
        while llm.engine.busy:
            llm.engine.advance()
        alone.append(results(outputs))
    device = SharedDevice([(llm, CONFIG) for llm in models])
    together = [submitted(llm, 5, 40) for llm in models]
    finish(device)
    assert [results(outputs) for outputs in together] == alone
    for llm in models:
        assert llm.engine.scheduler.stats().requests == 0
        assert llm.engine.scheduler.stats().pages_in_use == 0


def test_many_requests_of_one_do_not_hold_up_another(models: list[LLM]) -> None:
    device = SharedDevice([(llm, CONFIG) for llm in models])
    busy, quiet = models
    submitted(busy, 40, 60)
    for _ in range(20):
        device.advance()
    before = busy.engine.scheduler.stats().computed_tokens
    (output,) = submitted(quiet, 1, 30)
    while not output.request.done:
        device.advance()
    computed = busy.engine.scheduler.stats().computed_tokens - before
    assert busy.engine.busy
    # As many tokens as the other, but for a step, which isn't divided.
    assert computed <= 32 + 2 * CONFIG.max_running
    finish(device)


def test_a_step_that_fails_fails_one_model(
    models: list[LLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = SharedDevice([(llm, CONFIG) for llm in models])
    broken, sound = models
    (failing,), (going_on,) = submitted(broken, 1, 20), submitted(sound, 1, 20)
    with monkeypatch.context() as change:
        change.setattr(broken.engine._runner, "compute", None)
        with pytest.raises(TypeError):
            finish(device)
    assert isinstance(failing.request.error, TypeError)
    (again,) = submitted(broken, 1, 20)
    finish(device)
    assert [len(output.request.ids) for output in (going_on, again)] == [22, 22]


def test_what_cannot_be_shared(models: list[LLM], scripted: Callable[..., LLM]) -> None:
    with pytest.raises(ValueError, match="one is there twice"):
        SharedDevice([(models[0], CONFIG), (models[0], CONFIG)])
    with pytest.raises(ValueError, match="pages: a model that shares its device needs a number"):
        SharedDevice([(models[0], EngineConfig())])
