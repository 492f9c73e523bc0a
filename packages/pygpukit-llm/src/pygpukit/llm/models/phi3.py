"""Phi-3, 3.5 and 4: Llama's maths from fused tensors, with LongRoPE for long contexts."""

from __future__ import annotations

from dataclasses import replace

from pygpukit.llm.config import ModelConfig, read_decoder
from pygpukit.llm.keys import Keys
from pygpukit.llm.models.family import Family, Gguf
from pygpukit.llm.models.names import LLAMA_NAMES

__all__ = ["PHI3"]


def _phi3(keys: Keys) -> ModelConfig:
    keys.default("rms_norm_eps", 1e-5)
    keys.default("original_max_position_embeddings", 4096)
    for bias in ("attention_bias", "lm_head_bias", "mlp_bias"):
        keys.expect(bias, False)
    for factor in ("full_attn_mod", "interpolate_factor"):
        keys.expect(factor, 1)
    config = read_decoder(keys, architecture="phi3")
    window = keys.integer("sliding_window", 0)
    return replace(config, windows=(window,) * config.num_layers)


PHI3 = Family(
    architecture="phi3",
    read_config=_phi3,
    names=LLAMA_NAMES,
    ignored_keys=frozenset({"embd_pdrop", "resid_pdrop"}),
    gguf=Gguf(architecture="phi3"),
)
