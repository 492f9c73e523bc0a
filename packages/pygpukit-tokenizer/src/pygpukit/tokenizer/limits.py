"""Truncation and padding."""

from __future__ import annotations

from pygpukit.tokenizer.encoding import Encoding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pygpukit.tokenizer.spec import Spec

STRATEGIES = ("longest_first", "only_first", "only_second")
DIRECTIONS = ("left", "right")
_FORMAT_STRATEGIES = ("LongestFirst", "OnlyFirst", "OnlySecond")
_FORMAT_DIRECTIONS = ("Left", "Right")


class Truncation:
    """Cut encodings to at most ``max_length`` tokens, special tokens included.

    ``stride`` tokens of each part are repeated in the next part of ``Encoding.overflowing``.
    """

    __slots__ = ("direction", "max_length", "strategy", "stride")

    def __init__(
        self,
        max_length: int,
        stride: int = 0,
        strategy: str = "longest_first",
        direction: str = "right",
    ) -> None:
        if max_length < 0 or stride < 0:
            raise ValueError("max_length and stride must not be negative")
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {STRATEGIES}, not {strategy!r}")
        if direction not in DIRECTIONS:
            raise ValueError(f"direction must be one of {DIRECTIONS}, not {direction!r}")
        self.max_length = max_length
        self.stride = stride
        self.strategy = strategy
        self.direction = direction

    @classmethod
    def from_spec(cls, spec: Spec) -> Truncation | None:
        """Truncation as the file has it; None for null."""
        if spec.value is None:
            return None
        strategy = spec.choice("strategy", _FORMAT_STRATEGIES)
        try:
            return cls(
                spec.get("max_length", int),
                spec.get("stride", int),
                STRATEGIES[_FORMAT_STRATEGIES.index(strategy)],
                spec.choice("direction", _FORMAT_DIRECTIONS, "Right").lower(),
            )
        except ValueError as error:
            raise spec.error(str(error)) from None

    def to_spec(self) -> dict[str, Any]:
        """The format's own spelling."""
        return {
            "direction": self.direction.capitalize(),
            "max_length": self.max_length,
            "strategy": _FORMAT_STRATEGIES[STRATEGIES.index(self.strategy)],
            "stride": self.stride,
        }

    def apply(
        self, first: Encoding, second: Encoding | None, special: int
    ) -> tuple[Encoding, Encoding | None]:
        """Cut one or two encodings so that ``special`` tokens still fit.

        Raises:
            ValueError: the strategy can't reach the length, or the stride leaves no room.
        """
        limit = self.max_length - special
        if limit < 0:
            raise ValueError(
                f"truncation max_length {self.max_length} is less than the {special} special tokens"
            )
        lengths = len(first), len(second) if second is not None else 0
        if limit == 0:
            return self.cut(first, 0), None if second is None else self.cut(second, 0)
        excess = sum(lengths) - limit
        if excess <= 0:
            return first, second
        if self.strategy == "longest_first":
            if second is None:
                return self.cut(first, limit), None
            one, two = _shares(lengths, limit)
            return self.cut(first, one), self.cut(second, two)
        if self.strategy == "only_first":
            return self.cut(first, self._rest(lengths[0], excess)), second
        if second is None:
            raise ValueError("truncation 'only_second' needs a second sequence")
        return first, self.cut(second, self._rest(lengths[1], excess))

    @staticmethod
    def _rest(length: int, excess: int) -> int:
        if length <= excess:
            raise ValueError("the sequence to truncate is too short to respect max_length")
        return length - excess

    def cut(self, encoding: Encoding, limit: int) -> Encoding:
        """Keep ``limit`` tokens; the others become overflowing parts."""
        count = len(encoding)
        if limit >= count:
            return encoding
        if limit == 0:
            rest = Encoding.empty()
            rest.overflowing = [encoding]
            return rest
        if self.stride >= limit:
            raise ValueError(
                f"truncation stride {self.stride} must be less than the {limit} tokens that "
                "max_length leaves beside the special ones"
            )
        step = limit - self.stride
        if self.direction == "right":
            starts = range(0, max(count - self.stride, 1), step)
            parts = [(start, min(start + limit, count)) for start in starts]
        else:
            ends = range(count, self.stride, -step)
            parts = [(max(end - limit, 0), end) for end in ends]
        kept, *others = [encoding.slice(start, end) for start, end in parts]
        kept.overflowing = others
        return kept


def _shares(lengths: tuple[int, int], limit: int) -> tuple[int, int]:
    """How many tokens of each of two sequences ``longest_first`` keeps."""
    short, long = sorted(lengths)
    long = short if short > limit else max(short, limit - short)
    if short + long > limit:
        short = limit // 2
        long = short + limit % 2
    return (long, short) if lengths[0] > lengths[1] else (short, long)


class Padding:
    """Fill encodings up: to the longest of a batch, or to a fixed length."""

    __slots__ = ("direction", "length", "pad_id", "pad_to_multiple_of", "pad_token", "pad_type_id")

    def __init__(
        self,
        length: int | None = None,
        pad_id: int = 0,
        pad_token: str = "[PAD]",
        pad_type_id: int = 0,
        direction: str = "right",
        pad_to_multiple_of: int | None = None,
    ) -> None:
        if direction not in DIRECTIONS:
            raise ValueError(f"direction must be one of {DIRECTIONS}, not {direction!r}")
        self.length = length
        self.pad_id = pad_id
        self.pad_token = pad_token
        self.pad_type_id = pad_type_id
        self.direction = direction
        self.pad_to_multiple_of = pad_to_multiple_of

    @classmethod
    def from_spec(cls, spec: Spec) -> Padding | None:
        """Padding as the file has it; None for null."""
        if spec.value is None:
            return None
        strategy = spec.child("strategy")
        if strategy.value == "BatchLongest":
            length = None
        elif isinstance(strategy.value, dict) and list(strategy.value) == ["Fixed"]:
            length = strategy.get("Fixed", int)
        else:
            raise strategy.error(f"unknown strategy {strategy.value!r}")
        return cls(
            length,
            spec.get("pad_id", int),
            spec.get("pad_token", str),
            spec.get("pad_type_id", int),
            spec.choice("direction", _FORMAT_DIRECTIONS).lower(),
            spec.optional("pad_to_multiple_of", int),
        )

    def to_spec(self) -> dict[str, Any]:
        """The format's own spelling."""
        return {
            "strategy": "BatchLongest" if self.length is None else {"Fixed": self.length},
            "direction": self.direction.capitalize(),
            "pad_to_multiple_of": self.pad_to_multiple_of,
            "pad_id": self.pad_id,
            "pad_type_id": self.pad_type_id,
            "pad_token": self.pad_token,
        }

    def apply(self, encodings: list[Encoding]) -> None:
        """Pad the encodings in place."""
        length = self.length
        if length is None:
            length = max(map(len, encodings), default=0)
        multiple = self.pad_to_multiple_of
        if multiple:
            length += -length % multiple
        for encoding in encodings:
            encoding.pad(
                length, self.pad_id, self.pad_type_id, self.pad_token, left=self.direction == "left"
            )
