"""MXFP4 checkpoints: the same bits as one that holds what they stand for in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxfp4
import numpy as np
import numpy.typing as npt
import pytest
from gguf_files import MXFP4, converted, write_gguf
from pygpukit.core import load_safetensors
from pygpukit.llm import LLM, WeightsError

Array = npt.NDArray[Any]
NAME = "variants/gpt-oss"
IDS = [5, 9, 20, 31, 7]
QUANTIZATION = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
}
Stored = dict[str, Array]


def bits(array: Array) -> Array:
    """Of what bfloat16 holds exactly."""
    return (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)


@pytest.fixture
def both(reference_models: Path) -> tuple[Stored, Stored]:
    """The tensors of a model whose experts are MXFP4, and of one that has them in bfloat16."""
    quantised: Stored = {}
    plain: Stored = {}
    tensors = load_safetensors(reference_models / NAME / "model.safetensors")
    for key, view in tensors.items():
        array = np.array(view.cast("float32").numpy())
        if key.endswith(("gate_up_proj", "down_proj")):
            codes, exponents = mxfp4.encode(array.swapaxes(1, 2))
            quantised |= {f"{key}_blocks": mxfp4.pairs(codes), f"{key}_scales": exponents}
            plain[key] = bits(mxfp4.decode(codes, exponents).swapaxes(1, 2))
        else:
            quantised[key] = plain[key] = bits(array)
    return quantised, plain


@pytest.fixture
def folder(
    copied_model: Callable[..., Path],
    write_safetensors: Callable[..., None],
) -> Callable[..., Path]:
    """A model with those tensors."""

    def folder(stored: Stored, **config: Any) -> Path:
        path = copied_model(NAME, **config)
        write_safetensors(path / "model.safetensors", stored, uint8="U8")
        return path

    return folder


def logits(model: Path) -> Array:
    return LLM.from_pretrained(model, device="cpu").logits(IDS)


def test_blocks_and_their_exponents(
    both: tuple[Stored, Stored], folder: Callable[..., Path]
) -> None:
    quantised, plain = both
    found = LLM.from_pretrained(folder(quantised, quantization_config=QUANTIZATION), device="cpu")
    np.testing.assert_array_equal(found.logits(IDS), logits(folder(plain)))
    # As published, but for the quantisation: each is as the tensors are.
    np.testing.assert_array_equal(found.logits(IDS), logits(folder(quantised)))


def test_the_same_from_gguf(
    both: tuple[Stored, Stored], folder: Callable[..., Path], tmp_path: Path
) -> None:
    plain = folder(both[1])
    metadata, tensors = converted(plain)
    for name, (_, array) in tensors.items():
        if name.endswith("_exps.weight"):
            tensors[name] = (MXFP4, array)
    write_gguf(tmp_path / "model.gguf", metadata, tensors)
    np.testing.assert_array_equal(logits(tmp_path / "model.gguf"), logits(plain))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"1 missing: model.layers.0.mlp.experts.down_proj_scales"),
        ("narrow", r"down_proj_scales is \(4, 64, 2\), expected \(4, 64, 1\)"),
        ("wide", r"down_proj_blocks is \(4, 32, 2, 16\), expected \(4, 64, 1, 16\)"),
    ],
)
def test_what_does_not_fit(
    both: tuple[Stored, Stored], folder: Callable[..., Path], change: str, message: str
) -> None:
    quantised, _ = both
    stem = "model.layers.0.mlp.experts.down_proj"
    if change == "missing":
        del quantised[f"{stem}_scales"]
    elif change == "narrow":
        quantised[f"{stem}_scales"] = np.zeros((4, 64, 2), np.uint8)
    else:
        quantised[f"{stem}_blocks"] = quantised[f"{stem}_blocks"].reshape(4, 32, 2, 16)
    with pytest.raises(WeightsError, match=message):
        LLM.from_pretrained(folder(quantised), device="cpu")
