"""One layer: attention and MLP, each with a norm in front and a residual behind."""

from __future__ import annotations

from typing import NamedTuple

from pygpukit.core import Tensor
from pygpukit.llm.layers.attention import Attention, AttentionWeights, LayerCache, Step
from pygpukit.llm.layers.mlp import MLP, MLPWeights
from pygpukit.llm.layers.norm import LayerNorm, NormWeights, RMSNorm

__all__ = ["BlockWeights", "TransformerBlock"]


class BlockWeights(NamedTuple):
    """Weights of a `TransformerBlock`; those of the attention only where it has one."""

    mlp_norm: NormWeights
    mlp: MLPWeights
    attention_norm: NormWeights | None = None
    attention: AttentionWeights | None = None


class TransformerBlock:
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`; without attention only the latter.

    A block without attention needs neither a step nor a cache:

        block = TransformerBlock(LayerNorm(), MLP("gelu"))
        y = block.forward(x, BlockWeights(NormWeights(gamma, beta), MLPWeights(up, down)))

    Args:
        norm: The kind of both norms.
        mlp: The feed-forward part.
        attention: The attention, if there is one.
        weights: Bound weights; else they are passed to `forward`.
    """

    def __init__(
        self,
        norm: LayerNorm | RMSNorm,
        mlp: MLP,
        attention: Attention | None = None,
        *,
        weights: BlockWeights | None = None,
    ) -> None:
        self.norm = norm
        self.mlp = mlp
        self.attention = attention
        self.weights = weights

    def forward(
        self,
        x: Tensor,
        weights: BlockWeights | None = None,
        step: Step | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Maps `x`, (T, hidden) float32, to a tensor like it.

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
        if self.attention is not None:
            x = self._attend(self.attention, x, weights, step, cache)
        return self.mlp.forward(x, weights.mlp, norm=self.norm.fused(weights.mlp_norm), residual=x)

    def _attend(
        self,
        attention: Attention,
        x: Tensor,
        weights: BlockWeights,
        step: Step | None,
        cache: LayerCache | None,
    ) -> Tensor:
        if weights.attention is None or weights.attention_norm is None:
            raise TypeError("a block with attention needs attention and attention_norm weights")
        if step is None or cache is None:
            raise TypeError("a block with attention needs a step and a cache")
        norm = self.norm.fused(weights.attention_norm)
        return attention.forward(x, weights.attention, step, cache, norm=norm, residual=x)
