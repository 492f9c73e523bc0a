"""Rows of tables, by index."""

from __future__ import annotations

from pygpukit.core import Tensor

from ._launch import launch, result


def embedding(
    ids: Tensor,
    weight: Tensor,
    *,
    scale: float = 1.0,
    positions: Tensor | None = None,
    position_weight: Tensor | None = None,
    dtype: str = "float32",
    out: Tensor | None = None,
) -> Tensor:
    """`scale · weight[ids] + position_weight[positions]`; a row of NaN where an index is outside.

    Args:
        ids: (T,) int32.
        weight: (V, K), on the CPU also in blocks as `linear` takes them.
        scale: Of the rows of `weight`.
        positions: (T,) int32, together with `position_weight`.
        position_weight: (context, K).
        dtype: Of the result, that of activations.
        out: (T, K).

    Returns:
        (T, K).
    """
    out = result(out, (ids.shape[0], weight.shape[1]), ids, dtype)
    launch("embedding", ids, ids, weight, positions, position_weight, out, float(scale))
    return out


def gather_rows(x: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
    """`x[rows]`: (S, K) of `x`, (T, K), and `rows`, (S,) int32; NaN where there is no such row."""
    out = result(out, (rows.shape[0], x.shape[1]), x)
    launch("gather_rows", x, x, rows, out)
    return out
