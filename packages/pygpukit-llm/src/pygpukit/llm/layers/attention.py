"""Grouped-query attention over a paged cache."""

from __future__ import annotations

from typing import NamedTuple

import pygpukit.kernels as kernels
from pygpukit.core import Tensor
from pygpukit.kernels import Norm
from pygpukit.llm.layers.linear import Linear, LinearWeights

__all__ = ["Attention", "AttentionWeights", "LayerCache", "Step"]


class AttentionWeights(NamedTuple):
    """Weights of an `Attention`.

    Attributes:
        qkv: Rows of all queries, then keys, then values: ((H + 2 KV) · D, hidden).
        output: Out of the heads: (hidden, H · D).
        q_norm: (D,), float32, where queries are normalised per head.
        k_norm: (D,), float32, where keys are.
    """

    qkv: LinearWeights
    output: LinearWeights
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None


class LayerCache(NamedTuple):
    """Keys and values of one layer, each (pages, KV, page_size, D), float32 on the CPU."""

    keys: Tensor
    values: Tensor


class Step(NamedTuple):
    """Where the T tokens of one pass stand: what all layers share.

    Attributes:
        positions: (T,) int32, in their sequences.
        sequences: (T,) int32, rows of `block_tables`.
        block_tables: (S, P) int32: the page of each `page_size` positions of a sequence.
        angles: (T, 2, rotary_dim / 2), cosines and sines; None where nothing is rotated.
    """

    positions: Tensor
    sequences: Tensor
    block_tables: Tensor
    angles: Tensor | None = None


class Attention:
    """Causal attention: project, rotate, append to the cache, attend, project back.

    Args:
        num_heads: Query heads H; they share key/value heads in groups.
        scale: Of the scores; usually `1 / sqrt(D)`.
        window: How many positions a token sees, itself included; 0 is all.
        qk_norm_eps: For the RMS norm of queries and keys, where they have one.
    """

    def __init__(
        self, num_heads: int, *, scale: float, window: int = 0, qk_norm_eps: float = 1e-6
    ) -> None:
        self.num_heads = num_heads
        self.scale = scale
        self.window = window
        self.qk_norm_eps = qk_norm_eps
        self._project = Linear()

    def forward(
        self,
        x: Tensor,
        weights: AttentionWeights,
        step: Step,
        cache: LayerCache,
        *,
        norm: Norm | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Attends from the T tokens of `x`, (T, hidden), to all before them in their sequences.

        Args:
            x: (T, hidden), float32.
            weights: The layer's weights.
            step: Where the tokens stand.
            cache: The layer's keys and values; those of the tokens are added.
            norm: Normalises `x` on its way in.
            residual: (T, hidden), added to the result.

        Returns:
            (T, hidden), float32.
        """
        qkv = self._project.forward(x, *weights.qkv, norm=norm)
        queries = kernels.append_kv(
            qkv,
            step.angles,
            step.positions,
            step.sequences,
            step.block_tables,
            cache.keys,
            cache.values,
            num_heads=self.num_heads,
            q_norm=self._head_norm(weights.q_norm),
            k_norm=self._head_norm(weights.k_norm),
        )
        heads = kernels.attention(
            queries,
            cache.keys,
            cache.values,
            step.block_tables,
            step.positions,
            step.sequences,
            scale=self.scale,
            window=self.window,
        )
        return self._project.forward(heads, *weights.output, residual=residual)

    def _head_norm(self, gamma: Tensor | None) -> Norm | None:
        return None if gamma is None else Norm("rms", gamma, None, self.qk_norm_eps)
