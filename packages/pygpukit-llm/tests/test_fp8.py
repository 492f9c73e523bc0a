"""FP8 checkpoints: the same bits as one that holds what they stand for in bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pygpukit.core import load_safetensors
from pygpukit.llm import LLM, ConfigError, WeightsError

Array = npt.NDArray[Any]
IDS = [5, 9, 20, 31, 7]
BLOCK = (24, 16)
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "modules_to_not_convert": None}
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "ignore": ["lm_head"],
    "kv_cache_scheme": None,
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "input_activations": {"num_bits": 8, "type": "float", "strategy": "token"},
            "output_activations": None,
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"},
        }
    },
}


def e4m3_values() -> Array:
    """What the codes 0 to 126 stand for (arXiv:2209.05433)."""
    codes = np.arange(127)
    exponents, fractions = codes >> 3, codes & 7
    normal = (1 + fractions / 8) * 2.0 ** (exponents - 7)
    return np.where(exponents == 0, fractions * 2.0**-9, normal).astype(np.float32)


def quantised(weight: Array, scales: Array) -> tuple[Array, Array]:
    """The codes nearest to `weight / scales`, and what codes and scales stand for."""
    values = e4m3_values()
    scaled = weight / scales
    codes = np.abs(np.abs(scaled)[..., None] - values).argmin(-1).astype(np.uint8)
    decoded = np.copysign(values[codes], scaled) * scales
    return codes | (np.signbit(scaled) << 7).astype(np.uint8), decoded.astype(np.float32)


def bfloat16(array: Array) -> Array:
    """Its bits, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def spread(scales: Array, block: tuple[int, int], shape: tuple[int, ...]) -> Array:
    return scales.repeat(block[0], 0)[: shape[0]].repeat(block[1], 1)[:, : shape[1]]


@pytest.fixture
def both(
    reference_models: Path,
    copied_model: Callable[..., Path],
    write_safetensors: Callable[[Path, Mapping[str, Array]], None],
) -> Callable[..., tuple[Path, Path]]:
    """A model with linear layers in FP8, and the same in bfloat16."""

    def both(
        name: str, block: tuple[int, int] | None, suffix: str, config: dict[str, Any]
    ) -> tuple[Path, Path]:
        rng = np.random.default_rng(3)
        stored: dict[str, Array] = {}
        plain: dict[str, Array] = {}
        for key, view in load_safetensors(reference_models / name / "model.safetensors").items():
            array = np.array(view.cast("float32").numpy())
            plain[key] = stored[key] = bfloat16(array)
            if not key.endswith("_proj.weight"):
                continue
            rows, columns = array.shape
            size = block or (rows, columns)
            size = (size[0], size[1] or columns)
            counts = -(-rows // size[0]), -(-columns // size[1])
            scales = (rng.uniform(0.5, 2, counts) / 256).astype(np.float32)
            stored[key], decoded = quantised(array, spread(scales, size, array.shape))
            stored[key.removesuffix("weight") + suffix] = scales if block else scales.reshape(())
            stored[key.removesuffix("weight") + "input_scale"] = np.ones((), np.float32)
            plain[key] = bfloat16(decoded)
        quantised_folder = copied_model(name, quantization_config=config)
        write_safetensors(quantised_folder / "model.safetensors", stored)
        plain_folder = copied_model(name)
        write_safetensors(plain_folder / "model.safetensors", plain)
        return quantised_folder, plain_folder

    return both


def logits(folder: Path) -> Array:
    return LLM.from_pretrained(folder, device="cpu").logits(IDS)


@pytest.mark.parametrize("name", ["llama2", "qwen3-moe", "phi3"])
def test_a_factor_for_each_block(both: Callable[..., tuple[Path, Path]], name: str) -> None:
    config = {**FP8, "weight_block_size": list(BLOCK)}
    found, expected = both(name, BLOCK, "weight_scale_inv", config)
    np.testing.assert_array_equal(logits(found), logits(expected))


@pytest.mark.parametrize(
    "config",
    [
        COMPRESSED,
        {**COMPRESSED, "format": "naive-quantized"},
        {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0},
    ],
    ids=["compressed", "naive", "fbgemm"],
)
def test_a_factor_for_each_row(
    both: Callable[..., tuple[Path, Path]], config: dict[str, Any]
) -> None:
    found, expected = both("llama2", (1, 0), "weight_scale", config)
    np.testing.assert_array_equal(logits(found), logits(expected))


@pytest.mark.parametrize("config", [FP8, {"quant_method": "modelopt", "quant_algo": "FP8"}])
def test_a_factor_for_each_tensor(
    both: Callable[..., tuple[Path, Path]], config: dict[str, Any]
) -> None:
    found, expected = both("llama2", None, "weight_scale", config)
    np.testing.assert_array_equal(logits(found), logits(expected))


@pytest.mark.parametrize(
    ("suffix", "config", "message"),
    [
        ("scale", FP8, r"missing: .*q_proj\.weight_scale_inv.*left over: .*q_proj\.scale"),
        (
            "weight_scale_inv",
            {**FP8, "weight_block_size": [48, 48]},
            r"of the wrong shape: .*q_proj\.weight_scale_inv has \d+ factors for",
        ),
    ],
)
def test_factors_that_are_not_there(
    both: Callable[..., tuple[Path, Path]], suffix: str, config: dict[str, Any], message: str
) -> None:
    found, _ = both("llama2", BLOCK, suffix, config)
    with pytest.raises(WeightsError, match=message):
        logits(found)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quant_method 'gptq' isn't supported"),
        ({**FP8, "fmt": "e5m2"}, "'fmt': 'e5m2' isn't supported"),
        ({**FP8, "weight_block_size": [128]}, "'weight_block_size' must be two sizes"),
        ({**FP8, "twist": 1}, "'twist' not understood"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "'quant_algo': 'NVFP4'"),
        ({**COMPRESSED, "format": "pack-quantized"}, "'format' must be one of float-quantized"),
        ({**COMPRESSED, "config_groups": {}}, "config_groups must be an object with one group"),
    ],
)
def test_what_is_refused(
    copied_model: Callable[..., Path], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        logits(copied_model("llama2", quantization_config=config))
