"""What all operations share: allocating a result, launching on the device of a tensor."""

from __future__ import annotations

from pygpukit.core import Tensor

Argument = Tensor | float | None


def launch(kernel: str, tensor: Tensor, *args: Argument) -> None:
    """Launch `kernel` on the device of `tensor`; `args` in the order of the kernel's signature."""
    tensor.device.controller.launch(kernel, args)


def result(out: Tensor | None, shape: tuple[int, ...], like: Tensor, dtype: str = "") -> Tensor:
    """`out`, or else a new tensor from the pool of `like`, of its dtype unless another is given."""
    return Tensor.empty(shape, dtype or like.dtype, pool=like.pool) if out is None else out
