"""Cutting texts that no pre-tokenizer cuts into words that BPE can merge one by one.

No merge reaches across a place inside of no token that a merge gives. In the vocabularies that
SentencePiece trained, such are the places before a run of U+2581, which it writes for spaces, and
those between a letter and another ASCII character, with few exceptions. Which these are is read off
the vocabulary. It is worth it: the shorter a word, the more often it comes again.
"""

from __future__ import annotations

import re
from itertools import count, pairwise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pygpukit.tokenizer.models.merges import Merges

MARK = "\u2581"
"""What SentencePiece writes for a space."""
# The class of letters, by what the interpreter takes for one, which only decides where to look for
# places to cut. Digits like \u00b2, which it takes for letters, are none.
_LETTERS = r"^\W\d_\xb2\xb3\xb9\xbc-\xbe"


def word_pattern(vocab: Mapping[str, int], merges: Merges, unk_token: str) -> re.Pattern[str]:
    """A pattern whose matches are words: together the whole text."""
    # What isn't a token itself is in no token that a merge gives; in others it does no harm.
    separator = next(char for char in map(chr, count()) if char not in vocab)
    text = separator + separator.join(vocab) + separator
    atoms = ["<0x", unk_token] if unk_token else ["<0x"]
    for match in re.finditer("|".join(map(re.escape, atoms)), text):
        # Bytes, or unknown characters, could merge with whatever is beside them.
        if _is_given(_around(text, match.start(), separator), vocab, merges):
            return re.compile(".+", re.DOTALL)
    others = {c for c in map(chr, range(0x80)) if c in vocab and not c.isalpha()}
    meeting = _meeting_letters(text, others, vocab, merges, separator)
    others -= {other for letter, other in meeting if letter.isascii()}
    letters = _LETTERS + _members({letter for letter, _ in meeting if not letter.isascii()})
    inside = re.finditer(f"{MARK}(?<=[^{MARK}{separator}]{MARK})", text)
    before = {text[match.start() - 1] for match in inside}
    source = _words(letters, _members(others), _members(before))
    return re.compile(source, re.DOTALL)


def _members(characters: set[str]) -> str:
    return re.escape("".join(sorted(characters)))


def _meeting_letters(
    text: str, others: set[str], vocab: Mapping[str, int], merges: Merges, separator: str
) -> set[tuple[str, str]]:
    """Letters and ``others`` that are beside each other in a token that a merge gives."""
    found: set[tuple[str, str]] = set()
    if not others:
        return found
    other, letter = f"[{_members(others)}]", f"[{_LETTERS}]"
    beside = re.compile(f"{other}(?:(?={letter})|(?<={letter}{other}))")
    is_letter = re.compile(letter).match
    end = 0
    for match in beside.finditer(text):
        place = match.start()
        if place < end:
            continue
        # One token at a time: most that have such pairs, if any, are added ones of no merge.
        start, end = text.rindex(separator, 0, place) + 1, text.index(separator, place)
        token = text[start:end]
        if not _is_given(token, vocab, merges):
            continue
        for left, right in pairwise(token):
            if right in others and is_letter(left):
                found.add((left, right))
            elif left in others and is_letter(right):
                found.add((right, left))
    return found


def _words(letters: str, others: str, before: str) -> str:
    """Words that end between letters and ``others``, and before marks but behind ``before``.

    Every part takes all that it can and gives nothing back, so that long runs need no memory.
    """
    word = f"(?:[^{MARK}]++)"
    if others:
        run = f"(?:[{letters}]++|[{others}]++)"
        # What is neither stays with whatever is beside it.
        rest = f"(?:(?![{letters}]|[{others}{MARK}]).)++"
        word = f"(?:{run}(?:{rest}{run}?+)*+|(?:{rest}{run}?+)++)"
    uncut = f"(?:(?<=[{before}]){MARK}++{word}?+)*+" if before else ""
    anything = f"{MARK}*+{word}{uncut}|{MARK}++"
    if not others:
        return anything
    # Most words are of ASCII and end where that is plain to see: it takes less time to try this.
    unsure = f"[^a-zA-Z{others}{MARK}]" + (f"|(?<=[{before}]){MARK}" if before else "")
    return f"{MARK}*+(?:[a-zA-Z]++|[{others}]++)(?!{unsure})|{anything}"


def _around(text: str, position: int, separator: str) -> str:
    """The token at a position of the text."""
    start = text.rindex(separator, 0, position) + 1
    return text[start : text.index(separator, position)]


def _is_given(token: str, vocab: Mapping[str, int], merges: Merges) -> bool:
    """Whether the token can come of a merge: few ends of others are tokens themselves."""
    ranks, separator = merges.ranks, merges.separator
    for cut in range(1, len(token)):
        right = token[cut:]
        if right in vocab and token[:cut] + separator + right in ranks:
            return True
    return False
