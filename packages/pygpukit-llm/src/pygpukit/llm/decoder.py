"""A decoder-only transformer, put together from a config."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pygpukit.kernels as kernels
from pygpukit.core import Device, Tensor
from pygpukit.llm.cache import PagedCache
from pygpukit.llm.config import ModelConfig, QueryGrowth
from pygpukit.llm.layers import (
    MLP,
    Attention,
    Embedding,
    LatentAttention,
    LayerNorm,
    Linear,
    MoE,
    RMSNorm,
    Rotation,
    Step,
    TransformerBlock,
)
from pygpukit.llm.tensors import floats, ints
from pygpukit.llm.weights import ModelWeights

__all__ = ["Decoder"]


class Decoder:
    """Token ids to hidden states to logits.

    Args:
        config: What it computes.
        weights: What with.
        device: Where.
        dtype: Of activations: what `Plan.dtype` says for the weights.
        attention_dtype: Of queries, keys and values, likewise; that of the others by default.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        device: Device,
        dtype: str = "float32",
        attention_dtype: str | None = None,
    ) -> None:
        self.config = config
        self.weights = weights
        self.dtype = dtype
        self.attention_dtype = attention_dtype or dtype
        self._device = device
        self._embedding = Embedding(scale=config.embedding_scale, dtype=dtype)
        self._norm = _norm(config)
        self._blocks = tuple(_block(config, layer) for layer in range(config.num_layers))
        self._lm_head = Linear()
        self._rotations = {
            rope: Rotation(rope, device) for rope in config.ropes if rope is not None
        }

        self._query_scales: Tensor | None = None  # for each position
        if config.query_growth is not None:
            scales = _query_scales(config.query_growth, config.context_length)
            self._query_scales = floats(scales, device).reshape(-1, 1)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        sequences: Tensor,
        block_tables: Tensor,
        cache: PagedCache,
        stretched: Tensor | None = None,
        wanted: Tensor | None = None,
        alone: int | None = None,
    ) -> Tensor:
        """Runs T tokens of one or more sequences through all layers.

        Args:
            ids: (T,) int32.
            positions: (T,) int32, in their sequences; those before are in the cache already.
            sequences: (T,) int32, rows of `block_tables`.
            block_tables: (S, P) int32, pages of the cache.
            cache: Keys and values; those of the tokens are added.
            stretched: What `stretched_rows` gives for the lengths of the tokens' sequences.
            wanted: (R,) int32: of which tokens the result is wanted, if not of all: the last layer
                leaves out the others.
            alone: How many tokens at the front are the only ones of their sequences, if that is
                known; it changes no bit.

        Returns:
            The residual stream behind the last layer, (T, hidden), or (R, hidden).
        """
        weights = self.weights
        x = self._embedding.forward(
            ids, weights.embedding, positions=positions, position_weight=weights.position_embedding
        )
        angles = {
            rope: rotation.angles(positions, stretched)
            for rope, rotation in self._rotations.items()
        }
        step = Step(positions, sequences, block_tables, alone=alone)
        if self._query_scales is not None:
            scales = kernels.gather_rows(self._query_scales, positions)
            step = step._replace(query_scale=scales)
        for block, block_weights, layer, rope in zip(
            self._blocks, weights.blocks, cache.layers, self.config.ropes, strict=True
        ):
            rotated = step if rope is None else step._replace(angles=angles[rope])
            if block is self._blocks[-1]:
                rotated = rotated._replace(wanted=wanted)
            x = block.forward(x, block_weights, rotated, layer)
        return x

    def stretched_rows(self, lengths: Sequence[int]) -> Tensor | None:
        """Which tokens are rotated as those of long sequences.

        Args:
            lengths: For each of T tokens how many ids its sequence has.

        Returns:
            (T,) int32: for each token its row in twice T, in the second half where its sequence is
            longer than `config.stretch_length`; None where none is.
        """
        stretch = self.config.stretch_length
        if stretch is None or max(lengths) <= stretch:
            return None
        rows = (row + len(lengths) * (length > stretch) for row, length in enumerate(lengths))
        return ints(rows, self._device)

    def logits(self, x: Tensor) -> Tensor:
        """The logits of rows of the residual stream: (T, hidden) → (T, vocab_size), float32."""
        norm, config = self._norm.fused(self.weights.norm), self.config
        logits = self._lm_head.forward(
            x, *self.weights.lm_head, norm=norm, scale=config.logit_scale, dtype="float32"
        )
        if config.logit_soft_cap:
            kernels.soft_cap(logits, config.logit_soft_cap, out=logits)
        return logits


def _query_scales(growth: QueryGrowth, positions: int) -> Iterator[float]:
    """What the queries of each position are multiplied with."""
    for position in range(positions):
        yield 1 + growth.rate * math.log(1 + position // growth.length)


def _norm(config: ModelConfig) -> LayerNorm | RMSNorm:
    if config.norm_kind == "layer":
        return LayerNorm(config.norm_eps)
    return RMSNorm(config.norm_eps, offset=config.norm_offset)


def _block(config: ModelConfig, layer: int) -> TransformerBlock:
    return TransformerBlock(
        _norm(config),
        _mlp(config, layer),
        _attention(config, layer),
        parallel=config.parallel,
        residual_scale=config.residual_scale,
    )


def _attention(config: ModelConfig, layer: int) -> Attention | LatentAttention:
    latent = config.latent
    if latent is not None:
        return LatentAttention(
            config.num_heads,
            rotated=latent.rotated,
            plain=latent.plain,
            value=latent.value,
            scale=config.attention_scale,
            interleaved=config.rope_interleaved,
        )
    return Attention(
        config.num_heads,
        scale=config.attention_scale / (layer + 1 if config.scale_by_layer else 1),
        window=config.windows[layer],
        soft_cap=config.attention_soft_cap,
        interleaved=config.rope_interleaved,
        qk_norm=_norm(config),
        normalised=config.qk_norm if config.qk_norm in ("heads", "row") else "head",
    )


def _mlp(config: ModelConfig, layer: int) -> MLP | MoE:
    experts = config.experts
    if experts is None or not config.sparse[layer]:
        return MLP(config.activation, gated=config.gated_mlp)
    return MoE(
        config.activation,
        chosen=experts.chosen,
        normalized=experts.normalized,
        scale=experts.scale,
        sigmoid=experts.sigmoid,
        groups=experts.groups,
        top_groups=experts.top_groups,
        clamped=experts.clamped,
    )
