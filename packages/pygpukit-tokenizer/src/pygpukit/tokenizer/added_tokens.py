"""Added tokens: texts that become one token before the model sees them.

Matching is leftmost-longest in two passes: tokens with ``normalized=false`` on the raw text, then
the others, in their normalised form, on each normalised piece between those.
"""

from __future__ import annotations

import re
from functools import cache

from pygpukit.tokenizer.errors import TokenizerLoadError
from pygpukit.tokenizer.unicode import WHITE_SPACE, sets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from pygpukit.tokenizer.models import Model
    from pygpukit.tokenizer.spec import Spec
    from pygpukit.tokenizer.unicode.sets import CodePoints

_FEW = 64
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class AddedToken:
    """A token beside the model's vocabulary.

    Attributes:
        content: the text that becomes this token.
        id: its id, as assigned by the rules of the format.
        single_word: match only where no word character is next to it.
        lstrip: take in the white space before it.
        rstrip: take in the white space behind it.
        normalized: match its normalised form in normalised text.
        special: ``decode(..., skip_special_tokens=True)`` leaves it out.
    """

    __slots__ = ("content", "id", *_FLAGS)

    def __init__(
        self,
        content: str,
        id: int = -1,
        *,
        single_word: bool = False,
        lstrip: bool = False,
        rstrip: bool = False,
        normalized: bool = True,
        special: bool = False,
    ) -> None:
        self.content = content
        self.id = id
        self.single_word = single_word
        self.lstrip = lstrip
        self.rstrip = rstrip
        self.normalized = normalized
        self.special = special

    @classmethod
    def from_spec(cls, spec: Spec) -> AddedToken:
        """An element of the file's ``added_tokens``; its id there only says where it came from."""
        spec.get("id", int)
        token = cls(spec.get("content", str))
        for flag in _FLAGS:
            setattr(token, flag, spec.get(flag, bool))
        return token

    def to_spec(self) -> dict[str, Any]:
        """The format's own spelling."""
        flags = {flag: getattr(self, flag) for flag in _FLAGS}
        return {"id": self.id, "content": self.content, **flags}

    def __repr__(self) -> str:
        flags = "".join(f", {flag}=True" for flag in _FLAGS if getattr(self, flag))
        return f"AddedToken({self.content!r}, id={self.id}{flags})"


class AddedVocabulary:
    """All added tokens of a tokenizer, with their ids."""

    def __init__(
        self,
        tokens: Iterable[AddedToken],
        model: Model,
        normalize: Callable[[str], str] | None,
    ) -> None:
        """Assign ids: those of the model where it knows the content, else new ones.

        The reference ignores the ids in the file: new ones count up from the size of the model's
        vocabulary, in file order. Of tokens that normalizing makes equal the last one is found,
        where the reference takes any, now this and now that.

        Raises:
            TokenizerLoadError: the normalizer leaves nothing of a token that is to be matched in
                normalised text. The reference can't encode most texts with such a file.
        """
        self.ids: dict[str, int] = {}
        self.by_id: dict[int, AddedToken] = {}
        self.specials: set[str] = set()
        self.decoded: dict[int, str] = {}
        model_ids = model.vocab
        next_id = model.size
        for i, token in enumerate(tokens):
            content = token.content
            if not content:
                continue
            known = self.ids.get(content, model_ids.get(content))
            if known is None:
                known = next_id
                next_id += 1
            token.id = known
            self.ids[content] = known
            self.by_id[known] = token
            # As in the reference, a form once normalised stays if the token comes again.
            self.decoded.setdefault(known, content)
            if token.normalized and normalize is not None:
                self.decoded[known] = normalize(content)
                if not self.decoded[known]:
                    raise TokenizerLoadError(
                        f"added_tokens[{i}]: the normalizer leaves nothing of {content!r}"
                    )
            if token.special:
                self.specials.add(content)
        ordinary = self.by_id.values()
        self.raw = Matcher({t.content: t for t in ordinary if not t.normalized})
        self.normalized = Matcher({self.decoded[t.id]: t for t in ordinary if t.normalized})


class Matcher:
    """Finds tokens in a text, leftmost and longest first."""

    __slots__ = ("_gate", "_lengths", "_plain", "_tokens")

    def __init__(self, tokens: dict[str, AddedToken]) -> None:
        self._tokens = {text: token for text, token in tokens.items() if text}
        by_first: dict[str, list[str]] = {}
        for text in self._tokens:
            by_first.setdefault(text[0], []).append(text)
        # Of few tokens with one first character the expression finds the longest. Of many it finds
        # what they have in common, and one dict lookup for each length decides.
        self._lengths = {
            first: sorted({len(text) for text in texts}, reverse=True)
            for first, texts in by_first.items()
            if len(texts) > _FEW
        }
        options: list[str] = []
        for first, texts in by_first.items():
            if first in self._lengths:
                options.append(re.escape(_common_prefix(texts)))
            else:
                options.append(_longest_of(texts))
        self._gate = re.compile("|".join(options)) if options else None
        # Whether it is enough to find them.
        self._plain = not any(t.single_word or t.lstrip or t.rstrip for t in self._tokens.values())

    def has_tokens(self) -> bool:
        """Whether there is anything to find."""
        return self._gate is not None

    def only_finds(self) -> bool:
        """Whether what it finds is never more than the token's text."""
        return self._plain

    def find(self, text: str) -> list[tuple[int, int, AddedToken]]:
        """All tokens in ``text`` as (start, end, token), white space taken in as they ask."""
        if self._gate is None or self._gate.search(text) is None:
            return []
        if self._plain:
            return self._candidates(text)
        found = []
        covered = 0
        for start, end, token in self._candidates(text):
            if token.single_word and (_word_before(text, start) or _word_at(text, end)):
                continue
            if token.lstrip:
                while start > covered and text[start - 1] in WHITE_SPACE:
                    start -= 1
                # What an earlier token took in stays with it, even if nothing is left for this one.
                start = max(start, covered)
            if token.rstrip:
                while end < len(text) and text[end] in WHITE_SPACE:
                    end += 1
            if start < end:
                found.append((start, end, token))
            covered = end
        return found

    def _candidates(self, text: str) -> list[tuple[int, int, AddedToken]]:
        assert self._gate is not None
        found = []
        position: int | None = 0
        while position is not None:
            matches = self._gate.finditer(text, position)
            position = None
            for match in matches:
                start, end = match.span()
                if text[start] not in self._lengths:
                    found.append((start, end, self._tokens[match.group()]))
                    continue
                # Where what was found isn't all of the token, or is none, searching begins anew.
                token = self._longest(text, start)
                position = start + (1 if token is None else len(token))
                if token is not None:
                    found.append((start, position, self._tokens[token]))
                break
        return found

    def _longest(self, text: str, start: int) -> str | None:
        """The longest token at a place where many may begin."""
        for length in self._lengths[text[start]]:
            candidate = text[start : start + length]
            if candidate in self._tokens:
                return candidate
        return None


def _longest_of(texts: list[str]) -> str:
    """An expression that matches the longest of the texts: where they part, it does."""
    prefix = _common_prefix(texts)
    by_next: dict[str, list[str]] = {}
    for text in texts:
        if text != prefix:
            by_next.setdefault(text[len(prefix)], []).append(text[len(prefix) :])
    options = "|".join(map(_longest_of, by_next.values()))
    if not options:
        return re.escape(prefix)
    return f"{re.escape(prefix)}(?:{options}){'?' if prefix in texts else ''}"


def _common_prefix(texts: Iterable[str]) -> str:
    first, last = min(texts), max(texts)
    length = next((i for i, c in enumerate(first) if c != last[i]), len(first))
    return first[:length]


def _word_before(text: str, position: int) -> bool:
    return position > 0 and sets.contains(_word_characters(), ord(text[position - 1]))


def _word_at(text: str, position: int) -> bool:
    return position < len(text) and sets.contains(_word_characters(), ord(text[position]))


@cache
def _word_characters() -> CodePoints:
    from pygpukit.tokenizer.unicode._rust import WORD

    return sets.parse_set(WORD)
