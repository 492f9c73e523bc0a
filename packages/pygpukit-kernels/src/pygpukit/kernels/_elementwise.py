"""Functions of single elements."""

from __future__ import annotations

from pygpukit.core import Tensor

from ._launch import launch, result

ACTIVATIONS = {
    "identity": 0,
    "silu": 1,
    "gelu": 2,
    "gelu_tanh": 3,
    "gelu_quick": 4,
    "relu": 5,
    "relu_squared": 6,
    "tanh": 7,
    "sigmoid": 8,
}


def activation_number(name: str | None) -> int:
    """The number that stands for an activation in a launch.

    Raises:
        ValueError: There is no activation of that name.
    """
    number = ACTIVATIONS.get(name or "identity")
    if number is None:
        names = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation: expected one of {names}, found {name!r}")
    return number


def activation(x: Tensor, name: str, out: Tensor | None = None) -> Tensor:
    """The activation `name` of each element of `x`, (T, K); `out` may be `x`.

    The names are identity, silu (`x · sigmoid(x)`), gelu (`x · Φ(x)`), gelu_tanh (Φ by tanh,
    arXiv:1606.08415), gelu_quick (`x · sigmoid(1.702 x)`), relu, relu_squared (arXiv:2109.08668),
    tanh and sigmoid.

    Raises:
        ValueError: There is no activation of that name.
    """
    out = result(out, x.shape, x)
    launch("activation", x, x, out, activation_number(name))
    return out


def add(x: Tensor, y: Tensor, *, scale: float = 1.0, out: Tensor | None = None) -> Tensor:
    """`x + scale · y`, all (T, K); `out` may be `x` or `y`."""
    out = result(out, x.shape, x)
    launch("add", x, x, y, out, float(scale))
    return out


def soft_cap(x: Tensor, cap: float, out: Tensor | None = None) -> Tensor:
    """`cap · tanh(x / cap)` of each element of `x`, (T, K); `cap` is positive, `out` may be `x`."""
    out = result(out, x.shape, x)
    launch("soft_cap", x, x, out, float(cap))
    return out
