"""Rows of a table, by token id."""

from __future__ import annotations

import pygpukit.kernels as kernels
from pygpukit.core import Tensor
from pygpukit.llm.layers.linear import required

__all__ = ["Embedding"]


class Embedding:
    """`scale * table[ids]`, plus `position_table[positions]` where positions are learned.

    Args:
        weight: Bound table; else it is passed to `forward`.
        scale: Of the table's rows.
        dtype: Of the result.
    """

    def __init__(
        self, weight: Tensor | None = None, *, scale: float = 1.0, dtype: str = "float32"
    ) -> None:
        self.weight = weight
        self.scale = scale
        self.dtype = dtype

    def forward(
        self,
        ids: Tensor,
        weight: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        position_weight: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Looks up `ids`.

        Args:
            ids: (T,) int32.
            weight: (vocab_size, width); the bound one if absent.
            positions: (T,) int32, with `position_weight` (context, width).
            position_weight: The table of learned positions.
            out: Where the result goes.

        Returns:
            (T, width).
        """
        if weight is None:
            weight = required(self.weight, "Embedding", "weight")
        if position_weight is None:
            positions = None
        return kernels.embedding(
            ids,
            weight,
            scale=self.scale,
            positions=positions,
            position_weight=position_weight,
            dtype=self.dtype,
            out=out,
        )
