"""A sparse mixture of experts in the place of an MLP (arXiv:1701.06538, arXiv:2401.04088)."""

from __future__ import annotations

from typing import NamedTuple

import pygpukit.kernels as kernels
from pygpukit.core import Tensor
from pygpukit.kernels import ClampedSwiGLU, Norm
from pygpukit.llm.layers.linear import LinearWeights
from pygpukit.llm.layers.mlp import MLP, MLPWeights
from pygpukit.llm.layers.norm import normalised

__all__ = ["MoE", "MoEWeights"]


class MoEWeights(NamedTuple):
    """Weights of an `MoE` of E experts.

    Attributes:
        router: What scores the experts: (E, hidden).
        up: (E, 2 · inner, hidden), of each expert the gate first.
        down: (E, hidden, inner).
        shared: An MLP that every token goes through as well.
        shared_gate: (1, hidden): the sigmoid of its product with a token weighs that MLP.
        correction: (E,), float32, added to what experts are chosen by.
        up_bias: (E, 2 · inner), float32.
        down_bias: (E, hidden), float32.
    """

    router: LinearWeights
    up: Tensor
    down: Tensor
    shared: MLPWeights | None = None
    shared_gate: Tensor | None = None
    correction: Tensor | None = None
    up_bias: Tensor | None = None
    down_bias: Tensor | None = None


class MoE:
    """The weighted sum of the gated MLPs that a router chooses for each token.

    Args:
        activation: Of the experts: a name that `pygpukit.kernels.activation` takes.
        chosen: How many experts a token goes to: those of the largest softmax of the scores.
        normalized: Whether their weights are made to sum to 1.
        scale: What their sum is multiplied with.
        sigmoid: Whether it is the sigmoid of the scores instead (arXiv:2412.19437).
        groups: In how many groups experts are, of which `top_groups` count for a token.
        top_groups: See `groups`.
        clamped: The gated activation of the experts in place of `activation`.
        weights: Bound weights; else they are passed to `forward`.
    """

    def __init__(
        self,
        activation: str,
        *,
        chosen: int,
        normalized: bool = True,
        scale: float = 1.0,
        sigmoid: bool = False,
        groups: int = 1,
        top_groups: int = 1,
        clamped: ClampedSwiGLU | None = None,
        weights: MoEWeights | None = None,
    ) -> None:
        self.activation = activation
        self.chosen = chosen
        self.normalized = normalized
        self.scale = scale
        self.sigmoid = sigmoid
        self.groups = groups
        self.top_groups = top_groups
        self.clamped = clamped
        self.weights = weights
        self._shared = MLP(activation, gated=True)

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
        shares, experts = self._route(x, weights)
        inner = kernels.expert_linear(
            *(x, weights.up, experts),
            bias=weights.up_bias,
            activation=self.clamped or self.activation,
            gated=True,
        )
        results = kernels.expert_linear(inner, weights.down, experts, bias=weights.down_bias)
        mixed = kernels.combine_experts(
            results, shares, residual=residual, scale=scale * self.scale
        )
        if weights.shared is None:
            return mixed
        if weights.shared_gate is None:
            return self._shared.forward(x, weights.shared, residual=mixed, scale=scale)
        shared = self._shared.forward(x, weights.shared)
        gate = kernels.linear(x, weights.shared_gate, activation="sigmoid", dtype="float32")
        return kernels.combine_experts(shared, gate, residual=mixed, scale=scale)

    def _route(self, x: Tensor, weights: MoEWeights) -> tuple[Tensor, Tensor]:
        scores = kernels.linear(x, *weights.router, dtype="float32")
        if self.groups == 1 and not self.sigmoid and weights.correction is None:
            return kernels.route(scores, self.chosen, normalize=self.normalized)
        return kernels.route_by_group(
            scores,
            self.chosen,
            groups=self.groups,
            top_groups=self.top_groups,
            correction=weights.correction,
            sigmoid=self.sigmoid,
            normalize=self.normalized,
        )
