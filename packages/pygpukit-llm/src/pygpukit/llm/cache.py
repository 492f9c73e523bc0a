"""The paged cache of keys and values.

Pages as in vLLM (Kwon et al., arXiv:2309.06180): a sequence has a list of pages, not a range. Which
sequence has which pages, the scheduler decides.
"""

from __future__ import annotations

from pygpukit.core import Device, Tensor
from pygpukit.llm.config import ModelConfig
from pygpukit.llm.layers import LayerCache

__all__ = ["PAGE_SIZE", "PagedCache", "page_bytes", "pages_for"]

PAGE_SIZE = 64
"""Positions in a page."""


def pages_for(positions: int) -> int:
    """Pages that hold `positions` positions."""
    return -(-positions // PAGE_SIZE)


def page_bytes(config: ModelConfig, dtype: str) -> int:
    """Bytes of a page: keys and values of all layers."""
    return config.cache_bytes(PAGE_SIZE, element_bytes=4 if dtype == "float32" else 2)


class PagedCache:
    """Keys and values of every layer, in pages.

    Args:
        config: The model's shape.
        device: Where the pages are.
        pages: How many to begin with.
        dtype: Of keys and values.

    Attributes:
        layers: The tensors of each layer; others after `grow`.
        pages: How many there are.
    """

    def __init__(
        self, config: ModelConfig, device: Device, pages: int, dtype: str = "float32"
    ) -> None:
        self._device = device
        self._dtype = dtype
        self._page_shape = (config.num_kv_heads, PAGE_SIZE, config.head_dim)
        self.pages = pages
        self.layers = [
            LayerCache(self._allocate(pages), self._allocate(pages))
            for _ in range(config.num_layers)
        ]

    @property
    def nbytes(self) -> int:
        """Bytes of all pages."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers)

    def grow(self, pages: int) -> None:
        """Adds `pages` pages; what is in the others stays, in new tensors.

        Raises:
            OutOfMemoryError: The device can't hold both; nothing has changed.
        """
        total = self.pages + pages
        self.layers = [
            LayerCache(self._grown(layer.keys, total), self._grown(layer.values, total))
            for layer in self.layers
        ]
        self.pages = total

    def _grown(self, old: Tensor, pages: int) -> Tensor:
        new = self._allocate(pages)
        if self.pages:
            new[: self.pages].copy_(old)
        return new

    def _allocate(self, pages: int) -> Tensor:
        return Tensor.empty((pages, *self._page_shape), self._dtype, device=self._device)
