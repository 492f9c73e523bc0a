"""Sets of code points as inversion lists.

A set is a sorted tuple of boundaries ``(start, end, start, end, ...)``, each end exclusive; a code
point is a member when an odd number of boundaries lies at or below it.
"""

from __future__ import annotations

from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    CodePoints = tuple[int, ...]

LIMIT = 0x110000
ASCII_LIMIT = 0x80


def parse_set(text: str) -> CodePoints:
    """Read a generated table: base-36 distances between successive boundaries."""
    position = 0
    boundaries = []
    for delta in text.split():
        position += int(delta, 36)
        boundaries.append(position)
    return tuple(boundaries)


def from_ranges(ranges: Iterable[tuple[int, int]]) -> CodePoints:
    """The union of inclusive ranges, in any order."""
    boundaries: list[int] = []
    for first, last in sorted(ranges):
        if boundaries and first <= boundaries[-1]:
            boundaries[-1] = max(boundaries[-1], last + 1)
        else:
            boundaries += (first, last + 1)
    return tuple(boundaries)


def from_text(text: Iterable[str]) -> CodePoints:
    """The set of the given characters."""
    return from_ranges((ord(c), ord(c)) for c in text)


def as_class(points: CodePoints) -> str:
    """The set as what stands between the brackets of a class in a regular expression."""
    ranges = zip(points[::2], points[1::2], strict=True)
    return "".join(f"\\U{start:08x}-\\U{end - 1:08x}" for start, end in ranges)


def complement(points: CodePoints, limit: int = LIMIT) -> CodePoints:
    """Everything below ``limit`` that isn't a member."""
    inner = points[1:] if points and points[0] == 0 else (0, *points)
    return inner[:-1] if inner and inner[-1] == limit else (*inner, limit)


def combine(sets: Sequence[CodePoints], keep: Callable[[int], bool]) -> CodePoints:
    """The code points whose membership mask (bit i: in ``sets[i]``) satisfies ``keep``."""
    result: list[int] = []
    inside = False
    for position, mask in partition(sets):
        if keep(mask) != inside:
            inside = not inside
            result.append(position)
    return tuple(result)


@lru_cache(maxsize=16)
def union(*sets: CodePoints) -> CodePoints:
    """Members of any of the sets. Patterns have the same classes again and again."""
    return combine(sets, bool)


def intersection(*sets: CodePoints) -> CodePoints:
    """Members of all of the sets."""
    everything = (1 << len(sets)) - 1
    return combine(sets, lambda mask: mask == everything)


def clip(points: CodePoints, limit: int) -> CodePoints:
    """The members below ``limit``."""
    below = tuple(p for p in points if p < limit)
    return (*below, limit) if len(below) % 2 else below


def without_first(points: CodePoints) -> CodePoints:
    """The members but for the code point 0."""
    if not points or points[0]:
        return points
    return points[2:] if points[1] == 1 else (1, *points[1:])


def partition(sets: Sequence[CodePoints]) -> list[tuple[int, int]]:
    """Cut the code space where any membership changes.

    Returns ``(start, mask)`` pairs in order, the first at 0; bit i of the mask says that the code
    points from there to the next start belong to ``sets[i]``.
    """
    toggles: dict[int, int] = {0: 0}
    for i, points in enumerate(sets):
        bit = 1 << i
        for position in points:
            toggles[position] = toggles.get(position, 0) ^ bit
    mask = 0
    cuts: list[tuple[int, int]] = []
    for position in sorted(toggles):
        mask ^= toggles[position]
        if not cuts or cuts[-1][1] != mask:
            cuts.append((position, mask))
    return cuts


def contains(points: CodePoints, code_point: int) -> bool:
    """Whether ``code_point`` is a member."""
    low, high = 0, len(points)
    while low < high:
        middle = (low + high) // 2
        if points[middle] <= code_point:
            low = middle + 1
        else:
            high = middle
    return low % 2 == 1
