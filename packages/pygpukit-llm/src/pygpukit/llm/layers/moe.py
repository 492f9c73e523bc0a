"""A sparse mixture of experts in the place of an MLP (arXiv:1701.06538, arXiv:2401.04088)."""

from __future__ import annotations

from typing import NamedTuple

import pygpukit.kernels as kernels
from pygpukit.core import Tensor
from pygpukit.kernels import Norm
from pygpukit.llm.layers.linear import LinearWeights
from pygpukit.llm.layers.norm import normalised

__all__ = ["MoE", "MoEWeights"]


class MoEWeights(NamedTuple):
    """Weights of an `MoE` of E experts.

    Attributes:
        router: What scores the experts: (E, hidden).
        up: (E, 2 · inner, hidden), of each expert the gate first.
        down: (E, hidden, inner).
    """

    router: LinearWeights
    up: Tensor
    down: Tensor


class MoE:
    """The weighted sum of the gated MLPs that a router chooses for each token.

    Args:
        activation: Of the experts: a name that `pygpukit.kernels.activation` takes.
        chosen: How many experts a token goes to: those of the largest softmax of the scores.
        normalized: Whether their weights are made to sum to 1.
        weights: Bound weights; else they are passed to `forward`.
    """

    def __init__(
        self,
        activation: str,
        *,
        chosen: int,
        normalized: bool = True,
        weights: MoEWeights | None = None,
    ) -> None:
        self.activation = activation
        self.chosen = chosen
        self.normalized = normalized
        self.weights = weights

    def forward(
        self,
        x: Tensor,
        weights: MoEWeights | None = None,
        *,
        norm: Norm | None = None,
        residual: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """Maps `x`, (T, hidden) float32, to `residual + scale * moe(norm(x))`, a tensor like it."""
        weights = weights or self.weights
        if weights is None:
            raise TypeError("MoE has no bound weights; pass weights to forward")
        x = normalised(x, norm)
        scores = kernels.linear(x, *weights.router)
        shares, experts = kernels.route(scores, self.chosen, normalize=self.normalized)
        inner = kernels.expert_linear(
            x, weights.up, experts, activation=self.activation, gated=True
        )
        results = kernels.expert_linear(inner, weights.down, experts)
        return kernels.combine_experts(results, shares, residual=residual, scale=scale)
