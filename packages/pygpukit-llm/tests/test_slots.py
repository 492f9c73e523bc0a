"""The block tables of sequences that decode together, as they grow."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pygpukit.core import Device
from pygpukit.llm import SamplingParams
from pygpukit.llm.cache import PAGE_SIZE
from pygpukit.llm.request import Request
from pygpukit.llm.slots import NEAR, NO_PAGE, Slots, joined

CAPACITY, PAGES = 6, 5


def slots(device: Device, lengths: list[int]) -> tuple[Slots, np.ndarray]:
    """Slots of sequences with so many pages each, numbered 100 to a sequence; their tables."""
    params = SamplingParams(max_new_tokens=1)
    requests = [Request([1, 2], 8, params, lambda id_, logprobs: False) for _ in lengths]
    pages = [[100 * row + at for at in range(length)] for row, length in enumerate(lengths)]
    found = Slots(CAPACITY, PAGES * PAGE_SIZE, False, 0, device)
    found.load(requests, pages, vocab_size=10)
    tables = np.full((CAPACITY, PAGES), NO_PAGE, np.int32)
    for row, numbers in enumerate(pages):
        tables[row, : len(numbers)] = numbers
    return found, tables


def test_pages_come_where_a_sequence_ends(device: Device) -> None:
    found, tables = slots(device, [1, 3, 4, 2])
    assert np.array_equal(found.block_tables.numpy(), tables)
    # The third sequence has just been cancelled, the last gets two pages at once.
    found.add_pages([(3, 2, [7, 8]), (0, 1, [9]), (2, 4, [])])
    tables[3, 2:4], tables[0, 1] = [7, 8], 9
    assert np.array_equal(found.block_tables.numpy(), tables)
    found.add_pages([(1, 3, [6])])
    tables[1, 3] = 6
    assert np.array_equal(found.block_tables.numpy(), tables)


def test_other_sequences_take_the_tables_over() -> None:
    found, _ = slots(Device("cpu"), [5, 5])
    found.load(found.requests[:1], [[11]], vocab_size=10)
    found.add_pages([(0, 1, [12])])
    tables = np.full((CAPACITY, PAGES), NO_PAGE, np.int32)
    tables[0, :2] = 11, 12
    assert np.array_equal(found.block_tables.numpy(), tables)


SPANS = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 9)).map(lambda s: (s[0], sum(s))))


@given(SPANS, st.integers(0, 40))
def test_joined_spans_cover_theirs_and_lie_apart(spans: list[tuple[int, int]], near: int) -> None:
    found = joined(spans, near)
    assert all(any(a <= start and end <= b for a, b in found) for start, end in spans)
    assert {a for a, _ in found} <= {start for start, _ in spans}
    assert {b for _, b in found} <= {end for _, end in spans}
    assert all(after - before > near for (_, before), (after, _) in pairwise(found))


def test_near_pages_are_one_copy() -> None:
    assert joined([(0, 1), (NEAR, NEAR + 1)], NEAR) == [(0, NEAR + 1)]
    assert joined([(2 * NEAR, 2 * NEAR + 1), (0, 1)], NEAR) == [(0, 1), (2 * NEAR, 2 * NEAR + 1)]
    assert joined([], NEAR) == []
