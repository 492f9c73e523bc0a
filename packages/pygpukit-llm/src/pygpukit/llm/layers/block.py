"""One layer: attention and MLP with their norms and residuals, in turn or side by side."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import pygpukit.kernels as kernels
from pygpukit.core import Tensor
from pygpukit.kernels import Norm
from pygpukit.llm.layers.attention import AttentionWeights, LayerCache, Step
from pygpukit.llm.layers.latent import LatentAttentionWeights
from pygpukit.llm.layers.mlp import MLPWeights
from pygpukit.llm.layers.moe import MoEWeights
from pygpukit.llm.layers.norm import LayerNorm, NormWeights, RMSNorm

__all__ = ["BlockWeights", "TransformerBlock"]


class AttentionLayer(Protocol):
    """What stands in a block as its attention: `Attention`, `LatentAttention`."""

    def forward(
        self,
        x: Tensor,
        weights: Any,
        step: Step,
        cache: LayerCache,
        *,
        norm: Norm | None = None,
        residual: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """`residual + scale * attention(norm(x))`."""
        ...


class FeedForwardLayer(Protocol):
    """What stands in a block behind the attention: `MLP`, `MoE`."""

    def forward(
        self,
        x: Tensor,
        weights: Any,
        *,
        norm: Norm | None = None,
        residual: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """`residual + scale * f(norm(x))`."""
        ...


class BlockWeights(NamedTuple):
    """Weights of a `TransformerBlock`; each norm is there or not.

    Attributes:
        mlp_norm: In front of the MLP.
        mlp: Those of the MLP or of the experts.
        attention_norm: In front of the attention.
        attention: Those of the attention, if there is one.
        post_attention_norm: Behind the attention, before the residual is added.
        post_mlp_norm: Behind the MLP, likewise.
    """

    mlp_norm: NormWeights | None
    mlp: MLPWeights | MoEWeights
    attention_norm: NormWeights | None = None
    attention: AttentionWeights | LatentAttentionWeights | None = None
    post_attention_norm: NormWeights | None = None
    post_mlp_norm: NormWeights | None = None


class TransformerBlock:
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`; without attention only the latter.

    A block without attention needs neither a step nor a cache:

        block = TransformerBlock(LayerNorm(), MLP("gelu"))
        y = block.forward(x, BlockWeights(NormWeights(gamma, beta), MLPWeights(up, down)))

    Args:
        norm: The kind of all norms.
        mlp: The feed-forward part.
        attention: The attention, if there is one.
        parallel: Whether the MLP starts from the block's input, like the attention, instead of from
            what that has added to it (Wang & Komatsuzaki, GPT-J).
        residual_scale: What either part is multiplied with before it is added.
        weights: Bound weights; else they are passed to `forward`.
    """

    def __init__(
        self,
        norm: LayerNorm | RMSNorm,
        mlp: FeedForwardLayer,
        attention: AttentionLayer | None = None,
        *,
        parallel: bool = False,
        residual_scale: float = 1.0,
        weights: BlockWeights | None = None,
    ) -> None:
        self.norm = norm
        self.mlp = mlp
        self.attention = attention
        self.parallel = parallel
        self.residual_scale = residual_scale
        self.weights = weights

    def forward(
        self,
        x: Tensor,
        weights: BlockWeights | None = None,
        step: Step | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Maps `x`, (T, hidden) float32, to a tensor like it, of the rows that `step` wants.

        Args:
            x: The residual stream.
            weights: The block's weights; the bound ones if absent.
            step: Where the tokens stand; needed where there is attention.
            cache: The layer's keys and values; needed where there is attention.

        Raises:
            TypeError: Something that the block needs is absent.
        """
        weights = weights or self.weights
        if weights is None:
            raise TypeError("TransformerBlock has no bound weights; pass weights to forward")
        if self.attention is None:
            return self._feed_forward(x, weights, residual=x)
        if weights.attention is None:
            raise TypeError("a block with attention needs attention weights")
        if step is None or cache is None:
            raise TypeError("a block with attention needs a step and a cache")
        wanted = step.pick(x)
        attended = self._attend(self.attention, x, weights, step, cache, residual=wanted)
        return self._feed_forward(wanted if self.parallel else attended, weights, residual=attended)

    def _attend(
        self,
        attention: AttentionLayer,
        x: Tensor,
        weights: BlockWeights,
        step: Step,
        cache: LayerCache,
        *,
        residual: Tensor,
    ) -> Tensor:
        norm, post = self._fused(weights.attention_norm), weights.post_attention_norm
        if post is not None:
            y = attention.forward(x, weights.attention, step, cache, norm=norm)
            return self._add_normalised(residual, y, post)
        return attention.forward(
            x,
            weights.attention,
            step,
            cache,
            norm=norm,
            residual=residual,
            scale=self.residual_scale,
        )

    def _feed_forward(self, x: Tensor, weights: BlockWeights, *, residual: Tensor) -> Tensor:
        norm, post = self._fused(weights.mlp_norm), weights.post_mlp_norm
        if post is not None:
            return self._add_normalised(residual, self.mlp.forward(x, weights.mlp, norm=norm), post)
        return self.mlp.forward(
            x, weights.mlp, norm=norm, residual=residual, scale=self.residual_scale
        )

    def _add_normalised(self, residual: Tensor, y: Tensor, weights: NormWeights) -> Tensor:
        if isinstance(self.norm, LayerNorm):
            self.norm.forward(y, weights.gamma, weights.beta, out=y)
        else:
            self.norm.forward(y, weights.gamma, out=y)
        return kernels.add(residual, y, scale=self.residual_scale, out=y)

    def _fused(self, weights: NormWeights | None) -> Norm | None:
        return None if weights is None else self.norm.fused(weights)
