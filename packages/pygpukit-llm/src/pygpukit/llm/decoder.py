"""A decoder-only transformer, put together from a config."""

from __future__ import annotations

import pygpukit.kernels as kernels
from pygpukit.core import Device, Tensor
from pygpukit.llm.cache import PagedCache
from pygpukit.llm.config import ModelConfig
from pygpukit.llm.layers import (
    MLP,
    Attention,
    Embedding,
    LayerNorm,
    Linear,
    RMSNorm,
    Step,
    TransformerBlock,
)
from pygpukit.llm.tensors import floats
from pygpukit.llm.weights import ModelWeights

__all__ = ["Decoder"]


class Decoder:
    """Token ids to hidden states to logits.

    Args:
        config: What it computes.
        weights: What with.
        device: Where.
    """

    def __init__(self, config: ModelConfig, weights: ModelWeights, device: Device) -> None:
        self.config = config
        self.weights = weights
        self._embedding = Embedding()
        self._norm = _norm(config)
        self._blocks = tuple(_block(config, window) for window in config.windows)
        self._lm_head = Linear()
        self._inv_freq: Tensor | None = None
        if config.rope is not None:
            self._inv_freq = floats(config.rope.inv_freq, device)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        sequences: Tensor,
        block_tables: Tensor,
        cache: PagedCache,
    ) -> Tensor:
        """Runs T tokens of one or more sequences through all layers.

        Args:
            ids: (T,) int32.
            positions: (T,) int32, in their sequences; those before are in the cache already.
            sequences: (T,) int32, rows of `block_tables`.
            block_tables: (S, P) int32, pages of the cache.
            cache: Keys and values; those of the tokens are added.

        Returns:
            The residual stream behind the last layer, (T, hidden), float32.
        """
        weights = self.weights
        x = self._embedding.forward(
            ids, weights.embedding, positions=positions, position_weight=weights.position_embedding
        )
        step = Step(positions, sequences, block_tables, self._angles(positions))
        for block, block_weights, layer in zip(
            self._blocks, weights.blocks, cache.layers, strict=True
        ):
            x = block.forward(x, block_weights, step, layer)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """The logits of rows of the residual stream: (T, hidden) → (T, vocab_size)."""
        norm = self._norm.fused(self.weights.norm)
        return self._lm_head.forward(x, *self.weights.lm_head, norm=norm)

    def _angles(self, positions: Tensor) -> Tensor | None:
        if self.config.rope is None or self._inv_freq is None:
            return None
        return kernels.rope_angles(
            positions, self._inv_freq, scale=self.config.rope.attention_scale
        )


def _norm(config: ModelConfig) -> LayerNorm | RMSNorm:
    return LayerNorm(config.norm_eps) if config.norm_kind == "layer" else RMSNorm(config.norm_eps)


def _block(config: ModelConfig, window: int) -> TransformerBlock:
    attention = Attention(
        config.num_heads,
        scale=config.attention_scale,
        window=window,
        qk_norm_eps=config.norm_eps,
    )
    mlp = MLP(config.activation, gated=config.gated_mlp)
    return TransformerBlock(_norm(config), mlp, attention)
