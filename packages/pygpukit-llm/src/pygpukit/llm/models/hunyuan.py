"""Hunyuan, dense: queries and keys are normalised when they have been rotated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pygpukit.llm.config import ModelConfig, read_attention_bias, read_decoder
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import LLAMA_NAMES, renamed
from pygpukit.llm.rope import Rope

__all__ = ["HUNYUAN"]

_EXPECTED: dict[str, object] = {
    "add_classification_head": False,
    "mlp_bias": False,
    "norm_type": "rms",
    "use_cla": False,
    "use_qk_norm": True,
}


def _hunyuan(keys: Keys) -> ModelConfig:
    for key, value in _EXPECTED.items():
        keys.expect(key, value)
    keys.default("rms_norm_eps", 1e-5)
    facts: dict[str, Any] = read_attention_bias(keys)
    rope = _stretched_base(keys)
    if rope is not None:
        facts["ropes"] = (rope,) * keys.integer("num_hidden_layers")
    config = read_decoder(keys, architecture="hunyuan_v1_dense", qk_norm="rotated", **facts)
    return _unscaled(config, keys)


def _unscaled(config: ModelConfig, keys: Keys) -> ModelConfig:
    """What cosines and sines are multiplied with is nothing to norms behind them."""
    ropes = (rope and replace(rope, attention_scale=1.0) for rope in config.ropes)
    return replace(config, ropes=tuple(ropes))


def _stretched_base(keys: Keys) -> Rope | None:
    """The rotation that files call "dynamic", and that their `alpha` makes a fixed one."""
    older = keys.get("rope_parameters") is None
    name = "rope_scaling" if older else "rope_parameters"
    if keys.get(name) is None:
        return None
    parameters = keys.nested(name, {"rope_theta": keys.number("rope_theta", 10000.0)})
    parameters.rename("type", "rope_type")
    alpha = parameters.optional_number("alpha")
    if parameters.get("rope_type") != "dynamic" or not alpha:
        return None
    heads, hidden = keys.integer("num_attention_heads"), keys.integer("hidden_size")
    width = keys.integer("head_dim", hidden // heads)
    theta = parameters.positive("rope_theta") * alpha ** (width / (width - 2))
    for key in ("beta_fast", "beta_slow", "factor", "mscale", "mscale_all_dim"):
        parameters.get(key)
    parameters.finish()
    return Rope("default", theta, tuple(theta ** (-i / width) for i in range(0, width, 2)))


_ATTENTION = "model.layers.{layer}.self_attn."

HUNYUAN = Family(
    architecture="hunyuan_v1_dense",
    read_config=_hunyuan,
    names=renamed(
        LLAMA_NAMES, q_norm=f"{_ATTENTION}query_layernorm", k_norm=f"{_ATTENTION}key_layernorm"
    ),
    ignored_keys=frozenset({
        "attention_head_dim", "cla_share_factor", "class_num", "dense_list", "eod_token_id",
        "im_end_id", "im_newline_id", "im_start_id", "mask_init_id", "org_vocab_size", "pad_id",
        "pool_type", "text_end_id", "text_start_id",
    }),
    gguf=Gguf(architecture="hunyuan-dense", qk_norm="rotated", adjust=_unscaled),
)  # fmt: skip
