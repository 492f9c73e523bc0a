"""Text that remembers which characters of the original each of its characters came from."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Span = tuple[int, int]


class AlignedText:
    """A stretch of text on its way through normalizers and pre-tokenizers.

    ``spans[i]`` is the range of original characters behind ``text[i]``. ``spans`` is None while the
    text is still an untouched stretch of the original that begins at ``origin``, which most is.
    """

    __slots__ = ("origin", "spans", "text")

    def __init__(self, text: str, origin: int = 0, spans: Sequence[Span] | None = None) -> None:
        self.text = text
        self.origin = origin
        self.spans = spans

    def slice(self, start: int, end: int) -> AlignedText:
        """A stretch of this text."""
        if self.spans is None:
            return AlignedText(self.text[start:end], self.origin + start)
        spans = self.spans[start:end]
        origin = spans[0][0] if spans else self.origin
        return AlignedText(self.text[start:end], origin, spans)

    def original(self, start: int, end: int) -> Span:
        """The range of the original behind ``text[start:end]``, which must not be empty."""
        if self.spans is None:
            return self.origin + start, self.origin + end
        return self.spans[start][0], self.spans[end - 1][1]

    def all_spans(self) -> Sequence[Span]:
        """The spans of all characters, computed where they are implicit."""
        if self.spans is not None:
            return self.spans
        return [(i, i + 1) for i in range(self.origin, self.origin + len(self.text))]

    def replaced(self, changes: Iterable[tuple[str, int]], removed_first: int = 0) -> AlignedText:
        """The text rewritten character by character.

        ``changes`` gives every new character with 0 where it replaces the next old one, 1 where it
        is inserted (it then shares the span of the old character before it), and -n where it
        replaces one and n more are dropped. ``removed_first`` old characters are dropped up front.
        """
        old = self.all_spans()
        position = removed_first
        text: list[str] = []
        spans: list[Span] = []
        for char, change in changes:
            text.append(char)
            if change > 0:
                spans.append(old[position - 1] if position else (self.origin, self.origin))
                continue
            spans.append(old[position])
            position += 1 - change
        return AlignedText("".join(text), self.origin, spans)

    def mapped(self, text: str) -> AlignedText:
        """The text with every character replaced by one other."""
        return AlignedText(text, self.origin, self.spans)

    def expanded(self, replacements: Iterable[str]) -> AlignedText:
        """The text with every character replaced by a text of its own, perhaps an empty one."""
        text: list[str] = []
        spans: list[Span] = []
        for replacement, span in zip(replacements, self.all_spans(), strict=True):
            text.append(replacement)
            spans += [span] * len(replacement)
        return AlignedText("".join(text), self.origin, spans)

    def prepended(self, prefix: str) -> AlignedText:
        """The text, which isn't empty, behind ``prefix``, which gets its first character's span."""
        spans = self.all_spans()
        if not prefix:
            # As in the reference: the first character counts as inserted before everything.
            return AlignedText(self.text, self.origin, [(self.origin, self.origin), *spans[1:]])
        return AlignedText(prefix + self.text, self.origin, [spans[0]] * len(prefix) + [*spans])

    def substituted(self, matches: Iterable[Span], content: str) -> AlignedText:
        """The text with ``content`` for each match, whose last character's span it takes over."""
        old = self.all_spans()
        text: list[str] = []
        spans: list[Span] = []
        position = 0
        for start, end in matches:
            text += (self.text[position:start], content)
            spans += old[position:start]
            spans += [old[end - 1] if end else (self.origin, self.origin)] * len(content)
            position = end
        text.append(self.text[position:])
        spans += old[position:]
        return AlignedText("".join(text), self.origin, spans)
