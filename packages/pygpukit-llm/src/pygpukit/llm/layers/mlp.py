"""The feed-forward part of a block, plain or gated (GLU, arXiv:2002.05202)."""

from __future__ import annotations

from typing import NamedTuple

from pygpukit.core import Tensor
from pygpukit.kernels import Norm
from pygpukit.llm.layers.linear import Linear, LinearWeights

__all__ = ["MLP", "MLPWeights"]


class MLPWeights(NamedTuple):
    """Weights of an `MLP`.

    Attributes:
        up: (inner, hidden); where the MLP is gated (2 · inner, hidden), the gate first.
        down: (hidden, inner).
    """

    up: LinearWeights
    down: LinearWeights


class MLP:
    """`down(act(up(x)))`, or `down(act(gate(x)) * up(x))` where it is gated.

    Args:
        activation: A name that `pygpukit.kernels.activation` takes, such as "silu".
        gated: Whether there is a gate.
        weights: Bound weights; else they are passed to `forward`.
    """

    def __init__(
        self, activation: str, *, gated: bool = False, weights: MLPWeights | None = None
    ) -> None:
        self.weights = weights
        self._up = Linear(activation=activation, gated=gated)
        self._down = Linear()

    def forward(
        self,
        x: Tensor,
        weights: MLPWeights | None = None,
        *,
        norm: Norm | None = None,
        residual: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """Maps `x`, (T, hidden) float32, to `residual + scale * mlp(norm(x))`, a tensor like it."""
        weights = weights or self.weights
        if weights is None:
            raise TypeError("MLP has no bound weights; pass weights to forward")
        inner = self._up.forward(x, *weights.up, norm=norm)
        return self._down.forward(inner, *weights.down, residual=residual, scale=scale)
