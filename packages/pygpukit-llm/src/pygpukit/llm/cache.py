"""The paged cache of keys and values, sized to the sequences that are in it.

Pages as in vLLM (Kwon et al., arXiv:2309.06180): a sequence holds a list of pages, not a range.
"""

from __future__ import annotations

from pygpukit.core import Device, Tensor
from pygpukit.llm.config import ModelConfig
from pygpukit.llm.layers import LayerCache

__all__ = ["PAGE_SIZE", "PagedCache", "pages_for"]

PAGE_SIZE = 64
"""Positions in a page."""


def pages_for(positions: int) -> int:
    """Pages that hold `positions` positions."""
    return -(-positions // PAGE_SIZE)


class PagedCache:
    """Keys and values of every layer, in pages that sequences take and give back.

    Args:
        config: The model's shape.
        device: Where the pages are.
        pages: How many to begin with.
        dtype: Of keys and values.

    Attributes:
        layers: The tensors of each layer; others after `grow`.
    """

    def __init__(
        self, config: ModelConfig, device: Device, pages: int, dtype: str = "float32"
    ) -> None:
        self._device = device
        self._dtype = dtype
        self._page_shape = (config.num_kv_heads, PAGE_SIZE, config.head_dim)
        self._pages = pages
        self._free = list(range(pages - 1, -1, -1))
        self.layers = [
            LayerCache(self._allocate(pages), self._allocate(pages))
            for _ in range(config.num_layers)
        ]

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    def take(self) -> int:
        """A page for a sequence; there must be a free one."""
        return self._free.pop()

    def give_back(self, pages: list[int]) -> None:
        """Frees the pages of a sequence that has ended."""
        self._free.extend(reversed(pages))

    def grow(self, pages: int) -> None:
        """Adds `pages` free pages; what is in the others stays, in new tensors.

        Only one layer at a time is held twice.
        """
        total = self._pages + pages
        self.layers = [
            LayerCache(self._grown(layer.keys, total), self._grown(layer.values, total))
            for layer in self.layers
        ]
        self._free = [*range(total - 1, self._pages - 1, -1), *self._free]
        self._pages = total

    def _grown(self, old: Tensor, pages: int) -> Tensor:
        new = self._allocate(pages)
        new[: self._pages].copy_(old)
        return new

    def _allocate(self, pages: int) -> Tensor:
        return Tensor.empty((pages, *self._page_shape), self._dtype, device=self._device)
