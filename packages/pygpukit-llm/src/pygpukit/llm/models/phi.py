"""Phi-1.5 and 2: LayerNorm, biases throughout, attention and MLP side by side behind one norm."""

from __future__ import annotations

from typing import Any

from pygpukit.llm.config import ModelConfig, read_decoder
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import LLAMA_NAMES, renamed

__all__ = ["PHI"]


_FACTS: dict[str, Any] = {
    "norm_kind": "layer",
    "norm_bias": True,
    "parallel": True,
    "shared_norm": True,
    "gated_mlp": False,
}


def _phi(keys: Keys) -> ModelConfig:
    keys.expect("qk_layernorm", False)
    keys.default("partial_rotary_factor", 0.5)
    keys.default("rms_norm_eps", 1e-5)
    keys.default("hidden_act", "gelu_new")
    return read_decoder(
        keys,
        architecture="phi",
        **_FACTS,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        head_bias=True,
    )


PHI = Family(
    architecture="phi",
    read_config=_phi,
    config_keys={"rms_norm_eps": "layer_norm_eps"},
    ignored_keys=frozenset({"embd_pdrop", "resid_pdrop"}),
    names=renamed(
        LLAMA_NAMES,
        output="model.layers.{layer}.self_attn.dense",
        up="model.layers.{layer}.mlp.fc1",
        down="model.layers.{layer}.mlp.fc2",
        norm="model.final_layernorm",
    ),
    gguf=Gguf(architecture="phi2", facts={**_FACTS, "activation": "gelu_tanh"}),
)
