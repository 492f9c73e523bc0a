"""Grouped-query attention over a paged cache."""

from __future__ import annotations

from typing import Literal, NamedTuple

import pygpukit.kernels as kernels
from pygpukit.core import Tensor
from pygpukit.kernels import Norm
from pygpukit.llm.layers.linear import Linear, LinearWeights
from pygpukit.llm.layers.norm import LayerNorm, NormWeights, RMSNorm

__all__ = ["Attention", "AttentionWeights", "LayerCache", "Step", "attend"]


class AttentionWeights(NamedTuple):
    """Weights of an `Attention`.

    Attributes:
        qkv: Rows of all queries, then keys, then values: ((H + 2 KV) · D, hidden).
        output: Out of the heads: (hidden, H · D).
        q_norm: float32, where queries are normalised: (D,) for the heads one by one, (H, D) for
            each head by a weight of its own, (H · D,) for all at once.
        k_norm: The same of the keys, with KV in place of H.
        rescale: (D, D), a diagonal matrix: what rotated queries are multiplied with.
        sinks: (H,), float32: scores that join the softmax of each head without a value.
    """

    qkv: LinearWeights
    output: LinearWeights
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    rescale: Tensor | None = None
    sinks: Tensor | None = None


class LayerCache(NamedTuple):
    """Keys and values of one layer, each (pages, KV, page_size, D), of the type of queries."""

    keys: Tensor
    values: Tensor


class Step(NamedTuple):
    """Where the T tokens of one pass stand: what all layers share.

    Attributes:
        positions: (T,) int32, in their sequences.
        sequences: (T,) int32, rows of `block_tables`.
        block_tables: (S, P) int32: the page of each `page_size` positions of a sequence.
        angles: (T, 2, rotary_dim / 2), cosines and sines; None where nothing is rotated.
        wanted: (R,) int32: the tokens whose results are wanted, if not all: from the attention on
            the others are left out, their keys and values being in the cache.
        query_scale: (T, 1) float32: what queries are multiplied with, where they grow.
        alone: How many tokens at the front are the only ones of their sequences, if that is known.
    """

    positions: Tensor
    sequences: Tensor
    block_tables: Tensor
    angles: Tensor | None = None
    wanted: Tensor | None = None
    query_scale: Tensor | None = None
    alone: int | None = None

    def pick(self, rows: Tensor) -> Tensor:
        """Of a row for each token those that are wanted."""
        return rows if self.wanted is None else kernels.gather_rows(rows, self.wanted)


def attend(
    qkv: Tensor,
    step: Step,
    cache: LayerCache,
    *,
    num_heads: int,
    scale: float,
    interleaved: bool = False,
    q_norm: Norm | None = None,
    k_norm: Norm | None = None,
    rescale: Tensor | None = None,
    window: int = 0,
    soft_cap: float = 0.0,
    sinks: Tensor | None = None,
) -> Tensor:
    """Rotates queries and keys, adds keys and values to the cache, and attends to all of it.

    Args:
        qkv: (T, (H + 2 KV) · D): all queries, then keys, then values.
        step: Where the tokens stand.
        cache: The layer's keys and values; those of the tokens are added.
        num_heads: H.
        scale: Of the scores.
        interleaved: Whether dimensions 2i and 2i + 1 are rotated together.
        q_norm: Of each query head, first.
        k_norm: Of each key head.
        rescale: (D, D), what each query head is multiplied with when it has been rotated.
        window: How many positions a token sees, itself included; 0 is all.
        soft_cap: Of the scores; 0 is none.
        sinks: (H,), scores that join the softmax of each head.

    Returns:
        (R, H · D), R the wanted tokens, all T if the step names none.
    """
    queries = kernels.append_kv(
        qkv,
        step.angles,
        step.positions,
        step.sequences,
        step.block_tables,
        cache.keys,
        cache.values,
        num_heads=num_heads,
        interleaved=interleaved,
        q_norm=q_norm,
        k_norm=k_norm,
    )
    if rescale is not None:
        rows = queries.reshape(-1, queries.shape[2])
        queries = kernels.linear(rows, rescale).reshape(queries.shape)
    heads = kernels.attention(
        queries,
        cache.keys,
        cache.values,
        step.block_tables,
        step.positions,
        step.sequences,
        scale=scale,
        window=window,
        soft_cap=soft_cap,
        sinks=sinks,
        alone=step.alone,
    )
    return step.pick(heads)


class Attention:
    """Causal attention: project, rotate, append to the cache, attend, project back.

    Args:
        num_heads: Query heads H; they share key/value heads in groups.
        scale: Of the scores; usually `1 / sqrt(D)`.
        window: How many positions a token sees, itself included; 0 is all.
        soft_cap: Scores become `soft_cap * tanh(score / soft_cap)`; 0 leaves them.
        interleaved: Whether dimensions 2i and 2i + 1 are rotated as a pair, not the halves' i-th.
        qk_norm: What normalises queries and keys, where they have weights for it.
        normalised: What it takes at a time: each "head", all with one weight; each of the "heads"
            with its own; or the "row" of all heads.
    """

    def __init__(
        self,
        num_heads: int,
        *,
        scale: float,
        window: int = 0,
        soft_cap: float = 0.0,
        interleaved: bool = False,
        qk_norm: LayerNorm | RMSNorm | None = None,
        normalised: Literal["head", "heads", "row"] = "head",
    ) -> None:
        self.num_heads = num_heads
        self.scale = scale
        self.window = window
        self.soft_cap = soft_cap
        self.interleaved = interleaved
        self.qk_norm = qk_norm or RMSNorm()
        self.normalised = normalised
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
        scale: float = 1.0,
    ) -> Tensor:
        """Attends from the T tokens of `x`, (T, hidden), to all before them in their sequences.

        Args:
            x: (T, hidden), float32.
            weights: The layer's weights.
            step: Where the tokens stand.
            cache: The layer's keys and values; those of the tokens are added.
            norm: Normalises `x` on its way in.
            residual: (R, hidden), added to the result.
            scale: Of the result before that.

        Returns:
            (R, hidden), float32, R the tokens that `step` wants: all T, if it names none.
        """
        qkv = self._project.forward(x, *weights.qkv, norm=norm, dtype=cache.keys.dtype)
        if self.normalised != "head":
            self._normalise(qkv, weights, cache)
        if step.query_scale is not None:
            queries = qkv.narrow(1, 0, weights.output.weight.shape[1])
            kernels.combine_experts(queries, step.query_scale, out=queries)
        heads = attend(
            qkv,
            step,
            cache,
            num_heads=self.num_heads,
            scale=self.scale,
            interleaved=self.interleaved,
            q_norm=self._head_norm(weights.q_norm),
            k_norm=self._head_norm(weights.k_norm),
            rescale=weights.rescale,
            window=self.window,
            soft_cap=self.soft_cap,
            sinks=weights.sinks,
        )
        return self._project.forward(
            heads, *weights.output, residual=residual, scale=scale, dtype=x.dtype
        )

    def _head_norm(self, gamma: Tensor | None) -> Norm | None:
        if gamma is None or self.normalised != "head":
            return None
        return self.qk_norm.fused(NormWeights(gamma))

    def _normalise(self, qkv: Tensor, weights: AttentionWeights, cache: LayerCache) -> None:
        """Normalises queries and keys in place, other than head by head with one weight."""
        start, (_, kv_heads, _, width) = 0, cache.keys.shape
        for gamma, heads in ((weights.q_norm, self.num_heads), (weights.k_norm, kv_heads)):
            if gamma is None:
                raise TypeError(f"an attention that normalises {self.normalised} needs weights")
            if self.normalised == "row":
                part = qkv.narrow(1, start, heads * width)
                self.qk_norm.forward(part, gamma, out=part)
            else:
                for head in range(heads):
                    part = qkv.narrow(1, start + head * width, width)
                    self.qk_norm.forward(part, gamma[head], out=part)
            start += heads * width
