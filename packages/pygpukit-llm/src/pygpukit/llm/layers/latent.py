"""Multi-head latent attention: keys and values from a narrow vector (arXiv:2405.04434).

Keys and values are expanded and cached as those of ordinary attention are. A head's dimensions are
the rotated ones first, which all heads' keys share, then those without position; where values are
narrower or wider than that, the narrower ones are filled up with zeros.
"""

from __future__ import annotations

from typing import NamedTuple

import pygpukit.kernels as kernels
from pygpukit.core import Device, Tensor
from pygpukit.kernels import Norm
from pygpukit.llm.layers.attention import LayerCache, Step, attend
from pygpukit.llm.layers.linear import Linear, LinearWeights
from pygpukit.llm.tensors import ints

__all__ = ["LatentAttention", "LatentAttentionWeights"]


class LatentAttentionWeights(NamedTuple):
    """Weights of a `LatentAttention` of H heads, D = rotated + plain dimensions each.

    Attributes:
        q: Queries: (H · D, hidden), or down to a narrow vector: (rank, hidden).
        kv_down: The narrow vector of keys and values, then the shared rotated key:
            (rank + rotated, hidden).
        kv_norm: (rank,), float32: normalises the narrow vector.
        k_up: (H · plain, rank).
        v_up: (H · value, rank).
        output: Out of the heads: (hidden, H · value).
        q_norm: (rank,), float32, where queries come from a narrow vector.
        q_up: (H · D, rank), likewise.
    """

    q: LinearWeights
    kv_down: LinearWeights
    kv_norm: Tensor
    k_up: LinearWeights
    v_up: LinearWeights
    output: LinearWeights
    q_norm: Tensor | None = None
    q_up: LinearWeights | None = None


class LatentAttention:
    """Causal attention whose keys and values are expanded from a narrow vector.

    Args:
        num_heads: Heads H.
        rotated: Dimensions of a head that are rotated.
        plain: Dimensions that aren't.
        value: Dimensions of a value.
        scale: Of the scores.
        norm_eps: Of the norms of the narrow vectors.
        interleaved: Whether dimensions 2i and 2i + 1 are rotated as a pair.
    """

    def __init__(
        self,
        num_heads: int,
        *,
        rotated: int,
        plain: int,
        value: int,
        scale: float,
        norm_eps: float = 1e-6,
        interleaved: bool = True,
    ) -> None:
        self.num_heads = num_heads
        self.rotated = rotated
        self.plain = plain
        self.value = value
        self.scale = scale
        self.norm_eps = norm_eps
        self.interleaved = interleaved
        self._width = max(rotated + plain, value)
        self._project = Linear()
        self._spread: Tensor | None = None

    def forward(
        self,
        x: Tensor,
        weights: LatentAttentionWeights,
        step: Step,
        cache: LayerCache,
        *,
        norm: Norm | None = None,
        residual: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """Attends from the T tokens of `x` as `Attention.forward` does; arguments as there."""
        tokens, width = x.shape[0], self.num_heads * self._width
        dtype = cache.keys.dtype
        qkv = Tensor.zeros((tokens, 3 * width), dtype, device=x.device)
        self._queries(x, weights, norm, out=qkv.narrow(1, 0, width))
        narrow = self._project.forward(x, *weights.kv_down, norm=norm, dtype=dtype)
        rank = narrow.shape[1] - self.rotated
        shared, latent = narrow.narrow(1, rank, self.rotated), narrow.narrow(1, 0, rank)
        kv_norm = Norm("rms", weights.kv_norm, None, self.norm_eps)
        plain = self._project.forward(latent, *weights.k_up, norm=kv_norm)
        self._keys(plain, shared, out=qkv.narrow(1, width, width))
        values = self._project.forward(latent, *weights.v_up, norm=kv_norm)
        self._filled_up(values, out=qkv.narrow(1, 2 * width, width))
        heads = attend(
            qkv,
            step,
            cache,
            num_heads=self.num_heads,
            scale=self.scale,
            interleaved=self.interleaved,
        )
        heads = self._without_zeros(heads)
        return self._project.forward(
            heads, *weights.output, residual=residual, scale=scale, dtype=x.dtype
        )

    def _queries(
        self, x: Tensor, weights: LatentAttentionWeights, norm: Norm | None, *, out: Tensor
    ) -> None:
        up = weights.q
        if weights.q_up is not None:
            x = self._project.forward(x, *weights.q, norm=norm, dtype=out.dtype)
            up = weights.q_up
            norm = Norm("rms", weights.q_norm, None, self.norm_eps)
        if self._width == self.rotated + self.plain:
            self._project.forward(x, *up, norm=norm, out=out)
        else:
            queries = self._project.forward(x, *up, norm=norm, dtype=out.dtype)
            self._filled_up(queries, out=out)

    def _keys(self, plain: Tensor, shared: Tensor, *, out: Tensor) -> None:
        """Each head's own part behind the part that they share."""
        tokens, heads = plain.shape[0], self.num_heads
        full = self._width == self.rotated + self.plain
        allocate = Tensor.empty if full else Tensor.zeros
        keys = allocate((tokens * heads, self._width), plain.dtype, device=plain.device)
        kernels.gather_rows(
            shared,
            self._each_for_all_heads(tokens, plain.device),
            out=keys.narrow(1, 0, self.rotated),
        )
        own = plain.reshape(tokens * heads, self.plain)
        kernels.activation(own, "identity", out=keys.narrow(1, self.rotated, self.plain))
        kernels.activation(keys.reshape(tokens, heads * self._width), "identity", out=out)

    def _filled_up(self, x: Tensor, *, out: Tensor) -> None:
        """Each head of `x`, (T, H · narrower), with zeros up to the width of the cache."""
        tokens, heads = x.shape[0], self.num_heads
        padded = Tensor.zeros((tokens * heads, self._width), x.dtype, device=x.device)
        own = x.reshape(tokens * heads, -1)
        kernels.activation(own, "identity", out=padded.narrow(1, 0, own.shape[1]))
        kernels.activation(padded.reshape(tokens, heads * self._width), "identity", out=out)

    def _without_zeros(self, heads: Tensor) -> Tensor:
        tokens = heads.shape[0]
        if self.value == self._width:
            return heads
        rows = heads.reshape(tokens * self.num_heads, self._width).narrow(1, 0, self.value)
        out = Tensor.empty(rows.shape, heads.dtype, device=heads.device)
        return kernels.activation(rows, "identity", out=out).reshape(
            tokens, self.num_heads * self.value
        )

    def _each_for_all_heads(self, tokens: int, device: Device) -> Tensor:
        """The number of each token once for every head."""
        count = tokens * self.num_heads
        if self._spread is None or self._spread.shape[0] != count:
            self._spread = ints((row // self.num_heads for row in range(count)), device)
        return self._spread
