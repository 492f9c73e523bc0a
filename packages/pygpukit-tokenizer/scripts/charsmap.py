"""Write the ``precompiled_charsmap`` of SentencePiece's normalization rules.

The layout is a little-endian 32-bit size, a double-array trie of UTF-8 keys in the units of
darts-clone, and the replacements, each with a zero byte behind it.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from typing import Any

_END = 0
_HAS_LEAF = 1 << 8
_LEAF = 1 << 31
_NO_LABEL = 0xFF


def precompiled_charsmap(rules: Mapping[str, str]) -> str:
    """The rules, a replacement for each key, in base64."""
    replacements = bytearray()
    root: dict[int, Any] = {}
    for key, replacement in rules.items():
        node = root
        for byte in key.encode():
            node = node.setdefault(byte, {})
        node[_END] = len(replacements)
        replacements += replacement.encode() + b"\0"
    units = _Units()
    units.place(0, root)
    array = struct.pack(f"<{len(units.units)}I", *units.units)
    data = struct.pack("<I", len(array)) + array + bytes(replacements)
    return base64.b64encode(data).decode()


class _Units:
    """A double array under construction: the child of a node for a label is at base ^ label."""

    def __init__(self) -> None:
        self.units = [0]
        self.taken = {0}
        self.bases: set[int] = set()

    def place(self, index: int, node: dict[int, Any]) -> None:
        """Put the children of the node at ``index`` where there is room for all of them."""
        base = next(
            b
            for b in range(len(self.bases) + 1, 1 << 21)
            if b not in self.bases and not any(b ^ label in self.taken for label in node)
        )
        self.bases.add(base)
        self.taken.update(base ^ label for label in node)
        self.units += [_NO_LABEL] * ((base | 0xFF) + 1 - len(self.units))
        self.units[index] |= (index ^ base) << 10 | (_HAS_LEAF if _END in node else 0)
        for label, child in node.items():
            self.units[base ^ label] = child | _LEAF if label == _END else label
        for label, child in node.items():
            if label != _END:
                self.place(base ^ label, child)
