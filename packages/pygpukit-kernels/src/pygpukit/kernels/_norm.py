"""Normalisation of rows, on its own and as the front of other operations."""

from __future__ import annotations

from typing import Literal, NamedTuple, overload

from pygpukit.core import Tensor

from ._launch import Argument, launch, result

_KINDS = {"rms": 1, "layer": 2}


class Norm(NamedTuple):
    """A normalisation in front of another operation: `(x - m) / d · (weight + offset) + bias`.

    Attributes:
        kind: "rms": m = 0, d = sqrt(mean(x²) + eps); "layer": m = mean(x), d = sqrt(var(x) + eps).
        weight: (K,), or None for 1.
        bias: (K,), or None for 0.
        eps: Added to the mean square or the variance.
        offset: Added to the weight: 1.0 where a checkpoint stores `weight - 1`.
    """

    kind: Literal["rms", "layer"]
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    offset: float = 0.0


def norm_arguments(norm: Norm | None) -> tuple[Argument, ...]:
    """The five launch arguments that stand for a norm in front: kind, weight, bias, eps, offset."""
    if norm is None:
        return 0, None, None, 0.0, 0.0
    if norm.kind not in _KINDS:
        raise ValueError(f"Norm.kind: expected 'rms' or 'layer', found {norm.kind!r}")
    return _KINDS[norm.kind], norm.weight, norm.bias, float(norm.eps), float(norm.offset)


@overload
def rms_norm(
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    residual: None = None,
    offset: float = 0.0,
    out: Tensor | None = None,
) -> Tensor: ...
@overload
def rms_norm(
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    residual: Tensor,
    offset: float = 0.0,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]: ...
def rms_norm(
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    residual: Tensor | None = None,
    offset: float = 0.0,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`h / sqrt(mean(h²) + eps) · (weight + offset)` of each row, `h = x + residual`.

    Zhang & Sennrich 2019, arXiv:1910.07467.

    Args:
        x: (T, K).
        weight: (K,), or None for 1.
        eps: Added to the mean square.
        residual: (T, K), added first.
        offset: Added to the weight.
        out: (T, K), may be `x`.

    Returns:
        (T, K); with a residual also `h`, (T, K), as the second of a pair.
    """
    return _normalise("rms_norm", x, weight, None, eps, residual, offset, out)


@overload
def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    residual: None = None,
    out: Tensor | None = None,
) -> Tensor: ...
@overload
def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    residual: Tensor,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]: ...
def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`(h - mean(h)) / sqrt(var(h) + eps) · weight + bias` of each row, `h = x + residual`.

    Ba et al. 2016, arXiv:1607.06450.

    Args:
        x: (T, K).
        weight: (K,), or None for 1.
        bias: (K,), or None for 0.
        eps: Added to the variance.
        residual: (T, K), added first.
        out: (T, K), may be `x`.

    Returns:
        (T, K); with a residual also `h`, (T, K), as the second of a pair.
    """
    return _normalise("layer_norm", x, weight, bias, eps, residual, 0.0, out)


def _normalise(
    kernel: str,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    offset: float,
    out: Tensor | None,
) -> Tensor | tuple[Tensor, Tensor]:
    out = result(out, x.shape, x)
    total = None if residual is None else result(None, x.shape, x)
    launch(kernel, x, x, residual, weight, bias, total, out, float(eps), float(offset))
    return out if total is None else (out, total)
