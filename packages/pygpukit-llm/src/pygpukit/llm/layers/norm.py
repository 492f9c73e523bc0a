"""Normalisation of each row: LayerNorm (arXiv:1607.06450) and RMSNorm (arXiv:1910.07467)."""

from __future__ import annotations

from typing import NamedTuple

import pygpukit.kernels as kernels
from pygpukit.core import Tensor
from pygpukit.kernels import Norm
from pygpukit.llm.layers.linear import required

__all__ = ["LayerNorm", "NormWeights", "RMSNorm", "normalised"]


class NormWeights(NamedTuple):
    """Weights of a norm: `gamma` scales, `beta` shifts (LayerNorm only); (width,), float32."""

    gamma: Tensor
    beta: Tensor | None = None


class LayerNorm:
    """`(x - mean) / sqrt(variance + eps) * gamma + beta`, per row.

    Args:
        eps: Added to the variance.
        gamma: Bound scale; else it is passed to `forward`.
        beta: Bound shift.
    """

    def __init__(
        self, eps: float = 1e-5, *, gamma: Tensor | None = None, beta: Tensor | None = None
    ) -> None:
        self.eps = eps
        self.gamma = gamma
        self.beta = beta

    def forward(
        self,
        x: Tensor,
        gamma: Tensor | None = None,
        beta: Tensor | None = None,
        *,
        out: Tensor | None = None,
    ) -> Tensor:
        """Normalises `x`, (T, width) float32, into a tensor like it."""
        if gamma is None:
            gamma, beta = required(self.gamma, "LayerNorm", "gamma"), self.beta
        return kernels.layer_norm(x, gamma, beta, self.eps, out=out)

    def fused(self, weights: NormWeights) -> Norm:
        """The norm as what a `Linear` takes in front of it."""
        return Norm("layer", weights.gamma, weights.beta, self.eps)


class RMSNorm:
    """`x / sqrt(mean(x²) + eps) * (gamma + offset)`, per row.

    Args:
        eps: Added to the mean of the squares.
        gamma: Bound scale; else it is passed to `forward`.
        offset: Added to the scale: 1 for Gemma's, which are stored without it.
    """

    def __init__(
        self, eps: float = 1e-6, *, gamma: Tensor | None = None, offset: float = 0.0
    ) -> None:
        self.eps = eps
        self.gamma = gamma
        self.offset = offset

    def forward(
        self, x: Tensor, gamma: Tensor | None = None, *, out: Tensor | None = None
    ) -> Tensor:
        """Normalises `x`, (T, width) float32, into a tensor like it."""
        if gamma is None:
            gamma = required(self.gamma, "RMSNorm", "gamma")
        return kernels.rms_norm(x, gamma, self.eps, offset=self.offset, out=out)

    def fused(self, weights: NormWeights) -> Norm:
        """The norm as what a `Linear` takes in front of it."""
        return Norm("rms", weights.gamma, None, self.eps, self.offset)


def normalised(x: Tensor, norm: Norm | None) -> Tensor:
    """`x`, (T, width) float32, through a norm that several layers then read the result of."""
    if norm is None:
        return x
    if norm.kind == "layer":
        return kernels.layer_norm(x, norm.weight, norm.bias, norm.eps)
    return kernels.rms_norm(x, norm.weight, norm.eps, offset=norm.offset)
