"""The angles of a rotation at given positions."""

from __future__ import annotations

import pygpukit.kernels as kernels
from pygpukit.core import Device, Tensor
from pygpukit.llm.rope import Rope
from pygpukit.llm.tensors import floats

__all__ = ["Rotation"]


class Rotation:
    """A `Rope` on a device.

    Args:
        rope: The frequencies.
        device: Where they go.
    """

    def __init__(self, rope: Rope, device: Device) -> None:
        self._scale = rope.attention_scale
        self._inv_freq = floats(rope.inv_freq, device)
        self._stretched: Tensor | None = None
        if rope.stretched is not None:
            self._stretched = floats(rope.stretched.inv_freq, device)

    def angles(self, positions: Tensor, stretched: Tensor | None = None) -> Tensor:
        """Cosines and sines, (T, 2, rotary_dim / 2), of positions, (T,) int32.

        Args:
            positions: Where the tokens stand.
            stretched: (T,) int32; for each token its own index, plus T where its sequence is so
                long that it is rotated by the other frequencies. Without it none is.
        """
        if self._stretched is None or stretched is None:
            return kernels.rope_angles(positions, self._inv_freq, scale=self._scale)
        tokens, pairs = positions.shape[0], self._inv_freq.shape[0]
        both = Tensor.empty((2 * tokens, 2, pairs), "float32", pool=self._inv_freq.pool)
        for half, inv_freq in enumerate((self._inv_freq, self._stretched)):
            out = both[half * tokens : (half + 1) * tokens]
            kernels.rope_angles(positions, inv_freq, scale=self._scale, out=out)
        rows = kernels.gather_rows(both.reshape(2 * tokens, 2 * pairs), stretched)
        return rows.reshape(tokens, 2, pairs)
