"""`y = x Wᵀ + b`, with what stands before and behind it fused."""

from __future__ import annotations

from typing import NamedTuple

import pygpukit.kernels as kernels
from pygpukit.core import Tensor
from pygpukit.kernels import Norm

__all__ = ["Linear", "LinearWeights", "required"]


class LinearWeights(NamedTuple):
    """Weights of a `Linear`.

    Attributes:
        weight: (outputs, inputs); (2 · outputs, inputs) where the layer is gated, the gate first.
        bias: (outputs,) or (2 · outputs,), float32.
    """

    weight: Tensor
    bias: Tensor | None = None


class Linear:
    """A matrix product with optional bias, norm in front, activation, and residual behind.

    Args:
        weight: Bound weight; else it is passed to `forward`.
        bias: Bound bias.
        activation: Applied to the result: a name that `pygpukit.kernels.activation` takes.
        gated: Whether the weight has the rows of a gate in front of its own:
            `act(x Gᵀ) * (x Wᵀ)`.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        activation: str | None = None,
        gated: bool = False,
    ) -> None:
        self.weight = weight
        self.bias = bias
        self.activation = activation
        self.gated = gated

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        norm: Norm | None = None,
        residual: Tensor | None = None,
        scale: float = 1.0,
        dtype: str = "",
        out: Tensor | None = None,
    ) -> Tensor:
        """Computes `residual + scale * act(norm(x) Wᵀ + b)`.

        Args:
            x: (T, inputs), float32.
            weight: (outputs, inputs), float32, float16 or bfloat16, on the CPU also q8_0, q4_0 or
                q4_1; the bound one if absent.
            bias: (outputs,), float32; goes with the weight that is used.
            norm: Normalises `x` on its way in.
            residual: (T, outputs), added at the end.
            scale: Of everything but the residual.
            dtype: Of the result, as `pygpukit.kernels.linear` takes it; by default that of `x`.
            out: Where the result goes; else it is allocated.

        Returns:
            (T, outputs), float32.
        """
        if weight is None:
            weight, bias = required(self.weight, "Linear", "weight"), self.bias
        return kernels.linear(
            x,
            weight,
            bias,
            norm=norm,
            activation=self.activation,
            gated=self.gated,
            residual=residual,
            scale=scale,
            dtype=dtype,
            out=out,
        )


def required(value: Tensor | None, layer: str, argument: str) -> Tensor:
    """The bound weight, which must be there when none is passed.

    Raises:
        TypeError: It isn't.
    """
    if value is None:
        raise TypeError(f"{layer} has no bound {argument}; pass {argument} to forward")
    return value
