"""Cyclic garbage collection, which is in the way where very many objects come to stay."""

from __future__ import annotations

import gc


class CollectionPaused:
    """A context without cyclic garbage collection.

    Loading a vocabulary makes hundreds of thousands of objects, encoding a long text as many, all
    of them to stay. Looking for garbage among them again and again takes up to a third of the time.
    Nor is there a look at them all when the pause ends: they join the oldest objects.
    """

    __slots__ = ("_enables", "_when")

    def __init__(self, *, when: bool = True) -> None:
        """``when`` false leaves everything as it is."""
        self._when = when

    def __enter__(self) -> None:
        self._enables = self._when and gc.isenabled()
        if self._enables:
            gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._enables:
            # What the program itself froze must stay so.
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()
