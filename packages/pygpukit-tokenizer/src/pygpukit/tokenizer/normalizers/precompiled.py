"""SentencePiece's compiled normalization rules."""

from __future__ import annotations

import re
import struct

from pygpukit.tokenizer.aligned import AlignedText
from pygpukit.tokenizer.normalizers.base import Normalizer
from pygpukit.tokenizer.unicode.mapping import CharacterMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pygpukit.tokenizer.spec import Spec

    Change = tuple[str, int]
    Edit = tuple[int, int, list[Change]]

# Clusters of at least so many bytes are replaced character by character.
_LONG_CLUSTER = 6


class Precompiled(Normalizer):
    """Replace texts by the rules of a ``precompiled_charsmap``.

    As the reference does it, rules are looked up by grapheme clusters: a cluster of less than six
    bytes is replaced as a whole by what its shortest prefix in the rules stands for; otherwise, and
    in longer clusters, each character by its own rule.
    """

    __slots__ = ("_characters", "_exchanged", "_rules")

    def __init__(self, rules: CharacterTrie) -> None:
        self._rules = rules
        self._characters = CharacterMap(self._character)
        # The same without rules that change how many characters there are.
        self._exchanged = CharacterMap(self._exchange)

    @classmethod
    def from_spec(cls, spec: Spec) -> Precompiled:
        import binascii

        charsmap = spec.get("precompiled_charsmap", str)
        try:
            return cls(CharacterTrie(binascii.a2b_base64(charsmap, strict_mode=True)))
        except ValueError as error:
            raise spec.error(f"precompiled_charsmap: {error}") from None

    def normalize(self, text: str) -> str:
        if text.isascii() and "\r\n" not in text:
            return text.translate(self._characters)
        parts: list[str] = []
        position = 0
        for start, end, replacement in self._clusters(text):
            parts += (text[position:start].translate(self._characters), replacement)
            position = end
        return "".join([*parts, text[position:].translate(self._characters)])

    def align(self, text: AlignedText) -> AlignedText:
        edits = self._edits(text.text)
        text = text.mapped(text.text.translate(self._exchanged))
        dropped = leading = 0
        for start, end, changes in edits:
            if changes or start != dropped:
                break
            dropped = end
            leading += 1
        if dropped:
            # As in the reference, characters dropped up front leave their spans to those behind.
            count = len(text.text) - dropped
            kept = text.text[dropped:]
            rest = AlignedText(kept, text.origin, text.starts[:count], text.ends[:count])
            edits = [(start - dropped, end - dropped, c) for start, end, c in edits[leading:]]
            return rest.edited(edits) if edits else rest
        return text.edited(edits) if edits else text

    def _edits(self, text: str) -> list[Edit]:
        """The stretches that rules rewrite but for exchanging characters one for one."""
        edits: list[Edit] = []
        position = 0
        for start, end, replacement in self._clusters(text):
            self._add_characters(edits, text, position, start)
            _append(edits, start, end, replacement)
            position = end
        self._add_characters(edits, text, position, len(text))
        return edits

    def _clusters(self, text: str) -> list[tuple[int, int, str]]:
        """The clusters of several characters that have a rule: (start, end, replacement)."""
        from pygpukit.tokenizer.unicode.graphemes import clusters_of_several

        found = []
        for start, end in clusters_of_several(text):
            cluster = text[start:end].encode()
            if len(cluster) < _LONG_CLUSTER:
                replacement = self._rules.find(cluster)
                if replacement is not None:
                    found.append((start, end, replacement))
        return found

    def _character(self, char: str) -> str:
        replacement = self._rules.find(char.encode())
        return char if replacement is None else replacement

    def _exchange(self, char: str) -> str:
        replacement = self._characters[ord(char)]
        return replacement if len(replacement) == 1 else char

    def _add_characters(self, edits: list[Edit], text: str, start: int, end: int) -> None:
        stretch = text[start:end]
        changing = {c for c in set(stretch) if len(self._characters[ord(c)]) != 1}
        if not changing:
            return
        for match in re.finditer(f"[{re.escape(''.join(changing))}]", stretch):
            position = start + match.start()
            _append(edits, position, position + 1, self._characters[ord(match.group())])


def _append(edits: list[Edit], start: int, end: int, replacement: str) -> None:
    """Add an edit; an inserted character takes the place of what is dropped behind it."""
    if not replacement and edits and edits[-1][1] == start:
        first, _, changes = edits[-1]
        if changes:
            char, change = changes[-1]
            changes[-1] = char, change + start - end
            edits[-1] = first, end, changes
            return
    edits.append((start, end, _changes(end - start, replacement)))


def _changes(replaced: int, replacement: str) -> list[Change]:
    """A replacement for so many characters, as the reference counts."""
    plain = min(replaced, len(replacement))
    changes = [(char, 0) for char in replacement[:plain]]
    changes += [(char, 1) for char in replacement[plain:]]
    if changes and len(replacement) < replaced:
        char, _ = changes[-1]
        changes[-1] = char, len(replacement) - replaced
    return changes


class CharacterTrie:
    """The rules: a double-array trie in the layout of darts-clone, and the replacements.

    The layout is a little-endian 32-bit size of the array, the array of 32-bit units, and the
    replacements, each with a zero byte behind it.

    Raises:
        ValueError: the data is too short for what it says.
    """

    __slots__ = ("_replacements", "_units")

    def __init__(self, data: bytes) -> None:
        size = struct.unpack_from("<I", data)[0] if len(data) >= 4 else -1
        if size < 4 or size % 4 or size > len(data) - 4:
            raise ValueError(f"{len(data)} bytes don't hold a trie")
        self._units = struct.unpack_from(f"<{size // 4}I", data, 4)
        self._replacements = data[4 + size :]

    def find(self, key: bytes) -> str | None:
        """What the shortest prefix of ``key`` in the rules stands for; None if there is none."""
        units = self._units
        try:
            position = _offset(units[0])
            for byte in key:
                if not byte:
                    break
                position ^= byte
                unit = units[position]
                if unit & 0x800000FF != byte:
                    break
                position ^= _offset(unit)
                if unit >> 8 & 1:
                    return self._replacement(units[position] & 0x7FFFFFFF)
        except IndexError:
            raise ValueError("precompiled_charsmap: the trie points outside itself") from None
        return None

    def _replacement(self, start: int) -> str:
        end = self._replacements.find(b"\0", start)
        return self._replacements[start : end if end >= 0 else None].decode()


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 0x200) >> 6)
