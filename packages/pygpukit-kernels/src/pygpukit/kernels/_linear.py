"""The linear layer, with what stands before and behind it fused."""

from __future__ import annotations

from pygpukit.core import Tensor

from ._elementwise import activation_number
from ._launch import launch, result
from ._norm import Norm, norm_arguments


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: Norm | None = None,
    activation: str | None = None,
    gated: bool = False,
    residual: Tensor | None = None,
    scale: float = 1.0,
    dtype: str = "",
    out: Tensor | None = None,
) -> Tensor:
    """`residual + scale · f(norm(x) · weightᵀ + bias)`.

    `f` is the activation; gated, `f(y) = act(y[:, :N]) · y[:, N:]` (GLU, arXiv:2002.05202).
    Products are summed in float32, in an order that depends on nothing but K.

    Args:
        x: (T, K).
        weight: (N, K); gated (2N, K), the rows of the gate first. On the CPU also in ggml's blocks:
            q8_0, q4_0 or q4_1. On a GPU a 16-bit `x` goes with weights of its type; where there is
            a norm also with those of the other 16-bit type, to which the normalised rows are then
            rounded.
        bias: (N,); gated (2N,).
        norm: Applied to the rows of `x` first.
        activation: A name as `pygpukit.kernels.activation` takes it; None for identity.
        gated: Whether the activation of one half of the rows scales the other.
        residual: (T, N), added at the end; on a GPU of any floating-point type.
        scale: Of everything but the residual.
        dtype: Of the result: that of `x`, the default, or float32; on a GPU any that `x` may have.
        out: (T, N), may be `residual`.

    Returns:
        (T, N).

    Raises:
        ValueError: There is no activation of that name.
    """
    out = result(out, (x.shape[0], weight.shape[0] // (2 if gated else 1)), x, dtype)
    launch(
        "linear",
        x,
        *(x, weight, bias, *norm_arguments(norm), residual, out),
        *(activation_number(activation), int(gated), float(scale)),
    )
    return out
