"""Layers over `pygpukit.kernels`, written once for every device.

Every layer has `forward`. Its weights are either bound when it is made or passed to `forward`, so a
layer is usable on its own and many blocks can share one.
"""

from __future__ import annotations

from pygpukit.llm.layers.attention import Attention, AttentionWeights, LayerCache, Step
from pygpukit.llm.layers.block import BlockWeights, TransformerBlock
from pygpukit.llm.layers.embedding import Embedding
from pygpukit.llm.layers.latent import LatentAttention, LatentAttentionWeights
from pygpukit.llm.layers.linear import Linear, LinearWeights
from pygpukit.llm.layers.mlp import MLP, MLPWeights
from pygpukit.llm.layers.moe import MoE, MoEWeights
from pygpukit.llm.layers.norm import LayerNorm, NormWeights, RMSNorm
from pygpukit.llm.layers.rotation import Rotation

__all__ = [
    "MLP",
    "Attention",
    "AttentionWeights",
    "BlockWeights",
    "Embedding",
    "LatentAttention",
    "LatentAttentionWeights",
    "LayerCache",
    "LayerNorm",
    "Linear",
    "LinearWeights",
    "MLPWeights",
    "MoE",
    "MoEWeights",
    "NormWeights",
    "RMSNorm",
    "Rotation",
    "Step",
    "TransformerBlock",
]
