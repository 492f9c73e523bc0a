r"""Oniguruma's syntax (its default one, with Unicode), read into nodes.

What Oniguruma and Python's ``re`` spell alike but mean differently is settled here: ``{1,3}+`` is
not possessive, ``{3}?`` is "three or none", ``^`` and ``$`` always work by line, ``(?m)`` is
dot-all, ``\h`` is a hexadecimal digit, ``&&`` intersects classes. Back references, ``\X``, ``\K``,
``\G``, absent operators, calls, conditionals and counted turns that may be empty have no exact
translation and raise.
"""

from __future__ import annotations

from itertools import groupby

from pygpukit.tokenizer.onig import folding
from pygpukit.tokenizer.onig.classes import ClassReader
from pygpukit.tokenizer.onig.nodes import (
    UNBOUNDED,
    Anchor,
    Assertion,
    Atomic,
    Chars,
    Choice,
    Concat,
    Look,
    Node,
    Repeat,
    Text,
)
from pygpukit.tokenizer.unicode import sets
from pygpukit.tokenizer.unicode.properties import UNICODE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pygpukit.tokenizer.unicode.properties import Universe

_NEWLINE = sets.from_text("\n")
_UNSUPPORTED = {
    "K": r"\K", "G": r"\G", "X": r"\X", "y": r"\y", "Y": r"\Y", "g": r"\g", "k": r"\k",
}  # fmt: skip
# Beside the letters of options, for what is inside a look-behind.
_BEHIND = "<"
_LOOKS = {"=": (True, False), "!": (True, True), "<=": (False, False), "<!": (False, True)}


def parse(source: str, universe: Universe) -> Node:
    """Parse a pattern, its character sets restricted to ``universe``.

    Raises:
        PatternError: not valid, or not supported; the message says where.
    """
    parser = Parser(source, universe)
    node = parser.alternatives("")
    if parser.position < len(source):
        raise parser.error("unmatched close parenthesis")
    return node


class Parser(ClassReader):
    """A recursive-descent parser; ``flags`` are the letters of the options in force."""

    def alternatives(self, flags: str) -> Node:
        """Everything up to the next ``)`` or the end."""
        items = [self.concatenation(flags)]
        while self.take("|"):
            items.append(self.concatenation(flags))
        return items[0] if len(items) == 1 else Choice(items)

    def concatenation(self, flags: str) -> Node:
        """Everything up to the next ``|`` or ``)``."""
        items: list[Node] = []
        while self.position < len(self.source) and self.peek() not in "|)":
            if "x" in flags and self.skip_blank():
                continue
            options = self.isolated_options(flags)
            if options is not None:
                # Oniguruma puts all the rest of the group, alternatives included, under them.
                items.append(self.alternatives(options))
                break
            atom = self.atom(flags)
            if atom is not None:
                items.append(self.quantified(atom, flags))
        if "i" in flags:
            items = self.with_folds(items, flags)
        return items[0] if len(items) == 1 else Concat(items)

    def with_folds(self, items: list[Node], flags: str) -> list[Node]:
        """The items with literal characters in a row put together to a :class:`Text`."""
        result: list[Node] = []
        for literal, run in groupby(items, _is_literal):
            if not literal:
                result += run
                continue
            literals: list[Chars] = []
            for node in run:
                if isinstance(node, Text):
                    literals += node.literals
                elif isinstance(node, Chars):
                    literals.append(node)
            folded = list(self.folded_text(literals, flags))
            result.append(literals[0] if folded == literals[:1] else Text(folded, literals))
        return result

    def folded_text(self, literals: Sequence[Chars], flags: str) -> Iterator[Node]:
        """``(?i)ss`` also matches "ß", and the other way round."""
        position = 0
        while position < len(literals):
            rest = [node.literal for node in literals[position:]]
            found = None if _BEHIND in flags else folding.several(rest)
            if found is None:
                yield literals[position]
                position += 1
                continue
            count, text, chars = found
            position += count
            single = self.folded(sets.from_text(chars))
            yield Choice([Concat([self.literal(char, flags) for char in text]), Chars(single)])

    def skip_blank(self) -> bool:
        """Skip white space or a comment of the extended syntax."""
        if self.peek().isspace():
            self.position += 1
            return True
        if self.peek() == "#":
            end = self.source.find("\n", self.position)
            self.position = len(self.source) if end < 0 else end + 1
            return True
        return False

    # Groups --------------------------------------------------------------------------------------

    def isolated_options(self, flags: str) -> str | None:
        """``(?imx-imx)``: the options from here to the end of the group, or None."""
        start = self.position
        if not self.take("(?"):
            return None
        options = self.options(flags)
        if options is not None and self.take(")"):
            return options
        self.position = start
        return None

    def options(self, flags: str) -> str | None:
        """The letters of an option group applied to ``flags``; None when it isn't one."""
        add, active = True, set(flags)
        first = self.position
        while self.position < len(self.source) and self.peek() not in ":)":
            letter = self.next()
            if letter == "-":
                add = False
            elif letter in "imx":
                (active.add if add else active.discard)(letter)
            else:
                if self.position - first > 1:
                    raise self.error("undefined group option")
                return None
        return "".join(sorted(active))

    def group(self, flags: str) -> Node | None:
        """What follows an opening parenthesis."""
        if not self.take("?"):
            return Concat([self.closed(self.alternatives(flags))])
        if self.take("#"):
            end = self.source.find(")", self.position)
            if end < 0:
                raise self.error("end pattern in group")
            self.position = end + 1
            return None
        if self.take(">"):
            return Atomic(self.closed(self.alternatives(flags)))
        for prefix, (ahead, negative) in _LOOKS.items():
            if self.take(prefix):
                # A look-behind matches one character for one, whatever their case.
                body = self.closed(self.alternatives(flags if ahead else flags + _BEHIND))
                return Look(body, ahead=ahead, negative=negative)
        if self.peek() in "<'":
            close = ">" if self.next() == "<" else "'"
            end = self.source.find(close, self.position)
            if end <= self.position:
                raise self.error("invalid group name")
            self.position = end + 1
            return Concat([self.closed(self.alternatives(flags))])
        bare = self.peek() == ":"
        options = self.options(flags)
        if options is None or not self.take(":"):
            raise self.error("undefined or unsupported group option")
        body = self.closed(self.alternatives(options))
        return body if bare else Concat([body])

    def closed(self, node: Node) -> Node:
        """``node``, its closing parenthesis read."""
        if not self.take(")"):
            raise self.error("end pattern with unmatched parenthesis")
        return node

    # Atoms ---------------------------------------------------------------------------------------

    def atom(self, flags: str) -> Node | None:
        """One character, class, group or assertion; None for a comment."""
        char = self.next()
        if char == "(":
            return self.group(flags)
        if char == "[":
            return self.folded_class(flags) if "i" in flags else Chars(self.bracketed())
        if char == ".":
            return Chars(self.everything() if "m" in flags else self.except_newline())
        if char == "^":
            # Not at the very end, though: there is no line behind a last line feed.
            begins = Choice([Assertion("start"), Look(Chars(_NEWLINE), ahead=False)])
            more = Choice([Look(Assertion("end"), ahead=True, negative=True), Assertion("start")])
            return Anchor(Concat([begins, more]))
        if char == "$":
            return Anchor(Choice([Assertion("end"), Look(Chars(_NEWLINE), ahead=True)]))
        if char == "\\":
            return self.escape(flags)
        if char in "*+?":
            raise self.error("target of repeat operator is not specified")
        return self.literal(char, flags)

    def literal(self, char: str, flags: str) -> Chars:
        """A character that stands for itself, or for its case variants."""
        points = self.universe.clip(sets.from_text(char))
        if "i" not in flags:
            return Chars(points, char)
        return Chars(folding.close(sets.from_text(char), self.universe.limit), char)

    def folded_class(self, flags: str) -> Node:
        """A class without regard to case, ``[`` read; where "ß" is in it, "ss" matches as well."""
        start = self.position
        folded = Chars(self.bracketed(fold=True))
        text = self.source[start : self.position]
        # Only characters outside of ASCII fold to several, which ASCII can name by an escape.
        if text.startswith("^") or (text.isascii() and "\\" not in text and "[:" not in text):
            return folded
        members = ClassReader(self.source, UNICODE)
        members.position = start
        texts = folding.texts_of(members.bracketed())
        options = [Concat([self.literal(char, flags) for char in text]) for text in texts]
        return Choice([folded, *options]) if options else folded

    def escape(self, flags: str) -> Node:
        """What follows a backslash, outside of brackets."""
        if self.position >= len(self.source):
            raise self.error("end pattern at escape")
        char = self.peek()
        if char in _UNSUPPORTED or char in "123456789":
            raise self.error(f"{_UNSUPPORTED.get(char, 'a back reference')} is not supported")
        points = self.class_escape(in_brackets=False)
        if points is not None:
            return Chars(points)
        if char in "AzZbBRNO":
            self.position += 1
            return self.assertion(char)
        return self.literal(self.character_escape(), flags)

    def assertion(self, char: str) -> Node:
        r"""``\A \z \Z \b \B \R \N \O``."""
        if char == "A":
            return Assertion("start")
        if char == "z":
            return Assertion("end")
        if char == "Z":
            return Look(Concat([Repeat(Chars(_NEWLINE), 0, 1), Assertion("end")]), ahead=True)
        if char == "N":
            return Chars(self.except_newline())
        if char == "O":
            return Chars(self.everything())
        if char == "R":
            breaks = sets.from_text("\n\v\f\r\x85\u2028\u2029")
            pair = Concat([Chars(sets.from_text("\r")), Chars(_NEWLINE)])
            return Atomic(Choice([pair, Chars(self.universe.clip(breaks))]))
        return self.word_boundary(negative=char == "B")

    def word_boundary(self, *, negative: bool) -> Node:
        word = Chars(self.universe.word())
        inside = Look(word, ahead=False), Look(word, ahead=True)
        outside = Look(word, ahead=False, negative=True), Look(word, ahead=True, negative=True)
        pairs = (
            [(inside[0], inside[1]), (outside[0], outside[1])]
            if negative
            else [(inside[0], outside[1]), (outside[0], inside[1])]
        )
        return Anchor(Choice([Concat(pair) for pair in pairs]))

    # Quantifiers ---------------------------------------------------------------------------------

    def quantified(self, node: Node, flags: str) -> Node:
        """``node`` under the quantifiers that follow it."""
        while self.position < len(self.source):
            if "x" in flags and self.skip_blank():
                continue
            char = self.peek()
            if char in "*+?":
                self.position += 1
                low, high = {"*": (0, UNBOUNDED), "+": (1, UNBOUNDED), "?": (0, 1)}[char]
                mode = self.next() if self.peek() in ("?", "+") else ""
                node = self.repeated(node, low, high, mode)
                continue
            bounds = self.interval() if char == "{" else None
            if bounds is None:
                break
            low, high = bounds
            if low == high and self.take("?"):
                if node.widths()[0] == 0:
                    raise self.error("{n}? of something that may be empty is not supported")
                node = Repeat(self.repeated(node, low, high), 0, 1)
            else:
                node = self.repeated(node, low, high, "?" if self.take("?") else "")
        return node

    def repeated(self, node: Node, low: int, high: int, mode: str = "") -> Repeat:
        """``node`` under one quantifier."""
        if _is_place(node):
            raise self.error("target of repeat operator is invalid")
        if (low > 1 or high > 1) and node.widths()[0] == 0 and not _turns_alike(node, low):
            raise self.error("{n,m} of something that may be empty is not supported")
        return Repeat(node, low, high, mode)

    def interval(self) -> tuple[int, int] | None:
        """``{n}``, ``{n,}``, ``{,m}`` or ``{n,m}``; None where the brace stands for itself."""
        end = self.source.find("}", self.position)
        text = self.source[self.position + 1 : end] if end > 0 else ""
        low, comma, high = text.partition(",")
        digits = low + high
        if not digits.isascii() or not digits.isdigit():
            return None
        self.position = end + 1
        bounds = (int(low or 0), (int(high) if high else UNBOUNDED) if comma else int(low))
        if bounds[1] != UNBOUNDED and bounds[0] > bounds[1]:
            raise self.error("a range with its bounds reversed is not supported")
        return bounds


def _is_literal(node: Node) -> bool:
    return isinstance(node, Text) or (isinstance(node, Chars) and bool(node.literal))


def _is_place(node: Node) -> bool:
    """Whether Oniguruma takes the node, or one of its alternatives, for a bare anchor."""
    if isinstance(node, Choice):
        return any(map(_is_place, node.items))
    return isinstance(node, Anchor | Assertion | Look)


def _turns_alike(node: Node, low: int) -> bool:
    """Whether it doesn't matter if an empty turn ends a repetition with a least or a last count.

    In Oniguruma it does, or other turns follow, by the length of the node's program.
    """
    last, everywhere = node.empties()
    return last and (low < 2 or everywhere)
