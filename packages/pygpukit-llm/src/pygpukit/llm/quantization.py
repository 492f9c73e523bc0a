"""How a checkpoint's weights are quantised: the key `quantization_config` of config.json.

FP8 weights (E4M3) are read with their factors, which are one for all elements, one for each row, or
one for each block. Whether activations were meant to be quantised as well changes nothing here:
they are computed with as they are. MXFP4 weights are known by their names; those that aren't to be
converted by their types.
"""

from __future__ import annotations

from typing import Any

from pygpukit.llm.errors import ConfigError
from pygpukit.llm.keys import Keys

__all__ = ["read_scale_block"]

_IGNORED = frozenset({
    "activation_scheme", "dequantize", "exclude_modules", "ignore", "ignored_layers",
    "kv_cache_quant_algo", "kv_cache_scheme", "modules_to_not_convert", "producer", "quant_library",
    "quantization_status", "run_compressed", "sparsity_config", "transform_config", "version",
    "global_compression_ratio", "scale_fmt",
})  # fmt: skip
"""What is left as it is shows in the types of the tensors; the rest is about activations."""


def read_scale_block(keys: Keys) -> tuple[int, int] | None:
    """Rows and columns of the blocks that share a factor, where there are blocks.

    Raises:
        ConfigError: The quantisation isn't one of FP8.
    """
    if keys.get("quantization_config") is None:
        return None
    quantization = keys.nested("quantization_config", {})
    method = quantization.text("quant_method", "fp8")
    reader = _METHODS.get(method)
    if reader is None:
        raise ConfigError(
            f"{quantization.source}: quant_method {method!r} isn't supported; supported are "
            f"{', '.join(_METHODS)}"
        )
    block = reader(quantization)
    quantization.finish(_IGNORED)
    return block


def _fp8(keys: Keys) -> tuple[int, int] | None:
    """As DeepSeek and Qwen publish it."""
    keys.expect("fmt", "e4m3")
    return _block(keys, "weight_block_size")


def _modelopt(keys: Keys) -> tuple[int, int] | None:
    """As NVIDIA's ModelOpt writes it."""
    keys.expect("quant_algo", "FP8")
    keys.get("config_groups")
    return None


def _fbgemm(keys: Keys) -> tuple[int, int] | None:
    """As Meta publishes it: a factor for each row."""
    keys.get("activation_scale_ub")
    return None


def _mxfp4(keys: Keys) -> None:
    """As OpenAI publishes it: a power of two for 32 elements of four bits."""


_FORMATS = dict.fromkeys(("float-quantized", "naive-quantized"))
"""What llm-compressor calls FP8, and what it called it first."""


def _compressed_tensors(keys: Keys) -> tuple[int, int] | None:
    """As vLLM's llm-compressor writes it."""
    keys.choice("format", _FORMATS)
    groups: Any = keys.get("config_groups")
    if not isinstance(groups, dict) or len(groups) != 1:
        raise ConfigError(f"{keys.source}: config_groups must be an object with one group")
    (name,) = groups
    group = keys.nested("config_groups", {}).nested(name, {})
    if group.get("format") is not None:
        group.choice("format", _FORMATS)
    group.get("input_activations")
    group.get("output_activations")
    group.get("targets")
    weights = group.nested("weights", {})
    weights.expect("num_bits", 8)
    weights.expect("type", "float")
    weights.expect("symmetric", True)
    weights.choice("strategy", dict.fromkeys(("tensor", "channel", "block")))
    block = _block(weights, "block_structure")
    group.finish()
    return block


def _block(keys: Keys, key: str) -> tuple[int, int] | None:
    sizes = keys.integers(key)
    if sizes is None:
        return None
    if len(sizes) != 2 or 0 in sizes:
        raise ConfigError(f"{keys.source}: key {key!r} must be two sizes, found {sizes}")
    return sizes[0], sizes[1]


_METHODS = {
    "fp8": _fp8,
    "modelopt": _modelopt,
    "compressed-tensors": _compressed_tensors,
    "fbgemm_fp8": _fbgemm,
    "mxfp4": _mxfp4,
}
