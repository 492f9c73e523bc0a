"""Cutting texts that pre-tokenizers leave long into words that a model can tokenize one by one.

No merge reaches across a place inside of no token that a merge gives, no segmentation across one
inside of no token. In the vocabularies that SentencePiece trained, such are the places before a run
of U+2581, which it writes for spaces, and those between a letter and another ASCII character, with
few exceptions. Which these are is read off the vocabulary. It is worth it: the shorter a word, the
more often it comes again.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import count

from pygpukit.tokenizer.possessive import possessive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

MARK = "\u2581"
"""What SentencePiece writes for a space."""
# The class of letters, by what the interpreter takes for one, which only decides where to look for
# places to cut. Digits like \u00b2, which it takes for letters, are none.
_LETTERS = r"^\W\d_\xb2\xb3\xb9\xbc-\xbe"


def word_pattern(
    vocab: Collection[str], is_given: Callable[[str], bool], atoms: Sequence[str] = ()
) -> re.Pattern[str]:
    """A pattern whose matches are words: together the whole text.

    ``is_given`` says which tokens the model can give. Where one of these has one of ``atoms`` in
    it, nothing is cut.
    """
    # What isn't a token itself is in no token that is given; in others it does no harm.
    separator = next(char for char in map(chr, count()) if char not in vocab)
    text = separator + separator.join(vocab) + separator
    for match in re.finditer("|".join(map(re.escape, atoms)), text) if atoms else ():
        if is_given(_around(text, match.start(), separator)):
            return re.compile(".+", re.DOTALL)
    others = {c for c in map(chr, range(0x80)) if c in vocab and not c.isalpha()}
    meeting = _meeting_letters(text, others, is_given, separator)
    others -= {other for letter, other in meeting if letter.isascii()}
    letters = _LETTERS + _members({letter for letter, _ in meeting if not letter.isascii()})
    inside = re.finditer(f"{MARK}(?<=[^{MARK}{separator}]{MARK})", text)
    before = {text[match.start() - 1] for match in inside}
    source = _words(letters, _members(others), _members(before))
    return re.compile(source, re.DOTALL)


def _members(characters: set[str]) -> str:
    return re.escape("".join(sorted(characters)))


def _meeting_letters(
    text: str, others: set[str], is_given: Callable[[str], bool], separator: str
) -> set[tuple[str, str]]:
    """Letters and ``others`` that are beside each other in a token that is given."""
    found: set[tuple[str, str]] = set()
    if not others:
        return found
    other, letter = f"[{_members(others)}]", f"[{_LETTERS}]"
    beside = re.compile(f"{other}(?:(?={letter})|(?<={letter}{other}))")
    is_letter = cache(re.compile(letter).match)
    end = 0
    for match in beside.finditer(text):
        place = match.start()
        if place < end:
            continue
        pairs = {(neighbour, text[place]) for neighbour in text[place - 1 : place + 2 : 2]}
        pairs = {pair for pair in pairs - found if is_letter(pair[0])}
        if not pairs:
            continue
        # Most tokens that have such pairs, if any, are added ones of no merge.
        if is_given(_around(text, place, separator)):
            found |= pairs
        else:
            end = text.index(separator, place)
    return found


def _words(letters: str, others: str, before: str) -> str:
    """Words that end between letters and ``others``, and before marks but behind ``before``.

    Every part takes all that it can and gives nothing back, so that long runs need no memory.
    """
    word = f"(?:[^{MARK}]++)"
    if others:
        run = f"(?:[{letters}]++|[{others}]++)"
        # What is neither stays with whatever is beside it.
        rest = possessive(f"(?:(?![{letters}]|[{others}{MARK}]).)", "+")
        beside = f"(?:{rest}{possessive(run, '?')})"
        word = f"(?:{run}{possessive(beside, '*')}|{possessive(beside, '+')})"
    uncut = ""
    if before:
        uncut = possessive(f"(?:(?<=[{before}]){MARK}++{possessive(word, '?')})", "*")
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
