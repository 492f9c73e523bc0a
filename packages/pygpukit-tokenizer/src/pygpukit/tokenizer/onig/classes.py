"""Escapes and bracketed classes of Oniguruma's syntax, evaluated to sets of code points."""

from __future__ import annotations

from pygpukit.tokenizer.errors import PatternError
from pygpukit.tokenizer.onig import folding
from pygpukit.tokenizer.unicode import sets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pygpukit.tokenizer.unicode.properties import Universe
    from pygpukit.tokenizer.unicode.sets import CodePoints

_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "a": 7, "e": 27}
_OCTAL = "01234567"
_HEX = "0123456789abcdefABCDEF"


class ClassReader:
    """A cursor over a pattern that reads character classes within a universe."""

    def __init__(self, source: str, universe: Universe) -> None:
        self.source = source
        self.universe = universe
        self.position = 0

    def error(self, message: str) -> PatternError:
        """An error that quotes the pattern and says how far the reading came."""
        return PatternError(f"pattern {self.source!r}, at {self.position}: {message}")

    def peek(self) -> str:
        """The next character, or "" at the end."""
        return self.source[self.position : self.position + 1]

    def next(self) -> str:
        """Read a character."""
        if self.position >= len(self.source):
            raise self.error("end pattern")
        self.position += 1
        return self.source[self.position - 1]

    def take(self, text: str) -> bool:
        """Read ``text`` if it comes next."""
        found = self.source.startswith(text, self.position)
        if found:
            self.position += len(text)
        return found

    def everything(self) -> CodePoints:
        """Any character."""
        return (0, self.universe.limit)

    def except_newline(self) -> CodePoints:
        """Any character but a line feed."""
        return self.universe.complement(sets.from_text("\n"))

    def folded(self, points: CodePoints) -> CodePoints:
        """``points`` with all their case variants."""
        return folding.close(points, self.universe.limit)

    # Escapes -------------------------------------------------------------------------------------

    def class_escape(self, *, in_brackets: bool) -> CodePoints | None:
        r"""``\d \w \s \h \p{..}`` and their negations, the backslash read; None for others."""
        char = self.peek()
        if char in ("p", "P") and self.source[self.position + 1 : self.position + 2] == "{":
            return self.property(in_brackets=in_brackets)
        universe = self.universe
        lower = char.lower()
        if not lower or lower not in "dwsh":
            return None
        self.position += 1
        if lower == "d":
            points = universe.category("Nd")
        elif lower == "w":
            points = universe.word(bare=not in_brackets)
        else:
            points = universe.bracket("space" if lower == "s" else "xdigit")
        return points if char == lower else universe.complement(points)

    def property(self, *, in_brackets: bool) -> CodePoints:
        r"""``\p{Name}``, ``\P{Name}`` or ``\p{^Name}``."""
        negative = self.next() == "P"
        self.position += 1
        if self.take("^"):
            negative = not negative
        end = self.source.find("}", self.position)
        name = self.source[self.position : max(end, self.position)]
        try:
            points = self.universe.property(name, in_brackets=in_brackets)
        except KeyError:
            raise self.error(f"unknown character property {name!r}") from None
        self.position = end + 1
        return self.universe.complement(points) if negative else points

    def character_escape(self) -> str:
        """The character that an escape stands for, the backslash read."""
        char = self.next()
        if char in _CONTROLS:
            return chr(_CONTROLS[char])
        if char == "x":
            return self.hexadecimal()
        if char == "u":
            digits = self.digits(_HEX, 4)
            if len(digits) < 4:
                raise self.error("invalid code point value")
            return self.character(int(digits, 16))
        if char == "0":
            return chr(int(self.digits(_OCTAL, 2) or "0", 8))
        if char == "c" or (char == "C" and self.take("-")):
            return chr(ord(self.next()) & 0x1F)
        if char == "M":
            raise self.error(r"\M is not supported")
        return char

    def hexadecimal(self) -> str:
        r"""``\x{..}``, or the bytes of one character as ``\xHH`` escapes."""
        if self.take("{"):
            digits = self.digits(_HEX, 8)
            if not digits or not self.take("}"):
                raise self.error("invalid code point value")
            return self.character(int(digits, 16))
        data = bytearray([int(self.digits(_HEX, 2) or "0", 16)])
        while data[0] >= 0x80 and len(data) < 4:
            try:
                return data.decode()
            except UnicodeDecodeError:
                if not self.take("\\x"):
                    raise self.error("too short multibyte code string") from None
                data.append(int(self.digits(_HEX, 2) or "0", 16))
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self.error("invalid code point value") from None

    def character(self, value: int) -> str:
        """The character of a code point."""
        if value >= sets.LIMIT or 0xD800 <= value < 0xE000:
            raise self.error("invalid code point value")
        return chr(value)

    def digits(self, alphabet: str, most: int) -> str:
        """Up to ``most`` digits."""
        start = self.position
        while self.position - start < most and self.peek() and self.peek() in alphabet:
            self.position += 1
        return self.source[start : self.position]

    # Brackets ------------------------------------------------------------------------------------

    def bracketed(self, *, fold: bool = False) -> CodePoints:
        """A class, its opening bracket read; ``&&`` binds weaker than juxtaposition."""
        negative = self.take("^")
        operands: list[CodePoints] = []
        members: list[CodePoints] = []
        first = True
        while first or self.peek() != "]":
            first = False
            if self.position >= len(self.source):
                raise self.error("premature end of char-class")
            if self.take("&&"):
                operands.append(sets.union(*members) if members else ())
                members = []
            else:
                members.append(self.class_item())
        self.position += 1
        operands.append(sets.union(*members) if members else ())
        points = sets.intersection(*operands) if len(operands) > 1 else operands[0]
        points = self.folded(points) if fold else self.universe.clip(points)
        return self.universe.complement(points) if negative else points

    def class_item(self) -> CodePoints:
        """A nested class, an escape, a range or a character."""
        if self.source.startswith("[:", self.position):
            named = self.posix_bracket()
            if named is not None:
                return named
        if self.take("["):
            return self.bracketed()
        if self.peek() == "\\":
            self.position += 1
            points = self.class_escape(in_brackets=True)
            if points is not None:
                return points
            low = "\b" if self.take("b") else self.character_escape()
        else:
            low = self.next()
        if self.peek() != "-" or self.source[self.position + 1 : self.position + 2] in ("]", ""):
            return sets.from_text(low)
        return self.range_from(low)

    def range_from(self, low: str) -> CodePoints:
        """``low-high``, the dash not yet read."""
        self.position += 1
        if self.source.startswith("[", self.position) or self.source.startswith(
            "&&", self.position
        ):
            return sets.from_text((low, "-"))
        if self.take("\\"):
            if self.class_escape(in_brackets=True) is not None:
                raise self.error("char-class value at end of range")
            high = "\b" if self.take("b") else self.character_escape()
        else:
            high = self.next()
        if high < low:
            raise self.error("empty range in char class")
        return sets.from_ranges([(ord(low), ord(high))])

    def posix_bracket(self) -> CodePoints | None:
        """``[:name:]`` or ``[:^name:]``; None when it is an ordinary nested class."""
        end = self.source.find(":]", self.position)
        name = self.source[self.position + 2 : max(end, 0)]
        negative = name.startswith("^")
        name = name.removeprefix("^")
        if not name.isalpha():
            return None
        try:
            points = self.universe.bracket(name)
        except KeyError:
            return None
        self.position = end + 2
        return self.universe.complement(points) if negative else points
