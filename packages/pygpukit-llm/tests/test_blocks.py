"""Weights of GGUF files that stay in ggml's blocks in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf_files import F32, Q4_0, Q4_1, Q8_0, Tensors, converted, in_blocks
from pygpukit.core import Device
from pygpukit.llm import LLM
from pygpukit.llm.checkpoint import open_checkpoint
from pygpukit.llm.weights import Plan, load, plan

Write = Callable[..., Path]
IDS = [5, 9, 20, 31, 7, 5, 12]

QUANTISED = {"q4_0": Q4_0, "q4_1": Q4_1, "q8_0": Q8_0}
KEPT = ("norm", "gate_inp", "position", "attn_k_b.", "attn_v_b.")


def in_kind(tensors: Tensors, kind: int) -> tuple[Tensors, Tensors]:
    """A model's matrices in blocks, and as what they have become in float32.

    Those of heads, of which the file has turned some, stay as they are, and so do routers.
    """
    blocks, numbers = dict(tensors), dict(tensors)
    for name, (_, array) in tensors.items():
        if array.ndim > 1 and array.shape[-1] % 32 == 0 and not any(map(name.__contains__, KEPT)):
            blocks[name] = (kind, array)
            numbers[name] = (F32, in_blocks(kind, array)[1])
    return blocks, numbers


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize(
    "name", ["llama2", "qwen2", "qwen3-moe", "gpt2", "phi3", "variants/deepseek-v2"]
)
def test_blocks_stay_and_give_the_bits_of_their_numbers(
    gguf: Write, reference_models: Path, name: str, kind: str
) -> None:
    _, tensors = converted(reference_models / name)
    blocks, numbers = in_kind(tensors, QUANTISED[kind])
    expected = LLM.from_pretrained(gguf(name, tensors=numbers), device="cpu").logits(IDS)
    llm = LLM.from_pretrained(gguf(name, tensors=blocks), device="cpu")
    np.testing.assert_array_equal(llm.logits(IDS), expected)
    together = llm.generate([IDS, IDS[:1], IDS[2:5]], max_new_tokens=6, logprobs=1)
    alone = [llm.generate(ids, max_new_tokens=6, logprobs=1) for ids in (IDS, IDS[:1], IDS[2:5])]
    assert together == alone


def planned(file: Path, dtype: str | None, device: Device) -> tuple[Plan, Plan]:
    """The plan for a GGUF file, before and after a device is known."""
    checkpoint = open_checkpoint(file)
    before = plan(checkpoint.config, checkpoint.tensors, checkpoint.names)
    return before, before.on(device, dtype)


def types_of_matrices(plan: Plan) -> set[str]:
    return {placement.dtype for placement in plan.placements if placement.slot.columns}


def test_which_weights_are_held_in_blocks(gguf: Write, reference_models: Path) -> None:
    _, tensors = converted(reference_models / "llama2")
    file = gguf("llama2", tensors=in_kind(tensors, Q4_1)[0])
    cpu = Device("cpu")
    before, default = planned(file, None, cpu)
    assert types_of_matrices(before) == {"bfloat16"}
    assert types_of_matrices(default) == {"q4_1"}
    assert default.dtype == "float32"
    assert types_of_matrices(planned(file, "float32", cpu)[1]) == {"bfloat16"}
    assert types_of_matrices(planned(file, "bfloat16", cpu)[1]) == {"bfloat16"}
    weights = load(default, open_checkpoint(file).tensors, cpu)
    sizes = {placement.slot.name: placement.nbytes for placement in default.placements}
    rows, columns = weights.embedding.shape
    assert weights.embedding.nbytes == sizes["embedding.weight"] == rows * columns * 20 // 32
    assert default.nbytes == sum(sizes.values())


def test_parts_of_different_types_are_held_as_numbers(gguf: Write, reference_models: Path) -> None:
    _, tensors = converted(reference_models / "llama2")
    mixed = in_kind(tensors, Q8_0)[0]
    mixed["blk.0.attn_v.weight"] = (Q4_0, mixed["blk.0.attn_v.weight"][1])
    plan = planned(gguf("llama2", tensors=mixed), None, Device("cpu"))[1]
    held = {placement.slot.name: placement.dtype for placement in plan.placements}
    assert (held["layers.0.qkv.weight"], held["layers.1.qkv.weight"]) == ("bfloat16", "q8_0")


@pytest.mark.gpu
def test_a_gpu_has_no_blocks(gguf: Write, reference_models: Path, gpu: Device) -> None:
    _, tensors = converted(reference_models / "llama2")
    file = gguf("llama2", tensors=in_kind(tensors, Q8_0)[0])
    assert types_of_matrices(planned(file, "float32", gpu)[1]) == {"bfloat16"}
    for dtype in (None, "bfloat16"):
        assert types_of_matrices(planned(file, dtype, gpu)[1]) == {"bfloat16", "float16"}
