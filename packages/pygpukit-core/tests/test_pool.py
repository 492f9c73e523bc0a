"""The memory pool, driven through its tensors against what a pool must always hold."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pygpukit.core import Device, MemoryPool, OutOfMemoryError, Tensor

PAGE = 4096
# Requests from here on are also served by free blocks that are up to an eighth larger.
LARGE = 1 << 20
sizes = st.integers(0, 3000) | st.integers((1 << 20) - 5000, 3 << 20)


def most_bytes(request: int) -> int:
    """The largest block that a request may take: an eighth more, and what rounding takes."""
    return request + max(request // 8, 64) + PAGE * 9 // 8


class PoolMachine(RuleBasedStateMachine):
    """Tensors are made and dropped in any order; each keeps what was written into it."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = MemoryPool("cpu")
        self.live: list[Tensor] = []
        self.made = 0
        self.peak = 0

    def keep(self, tensor: Tensor) -> None:
        """Counts a tensor, marks its elements and holds it."""
        self.made += 1
        self.peak = max(self.peak, self.pool.stats().in_use)
        tensor.copy_(np.full(tensor.size, address_tag(tensor), np.uint8))
        self.live.append(tensor)

    @rule(size=sizes)
    def make(self, size: int) -> None:
        before, quota = self.pool.stats(), self.pool.quota
        tensor, refusal = None, None
        try:
            tensor = Tensor.empty(size, "uint8", pool=self.pool)
        except OutOfMemoryError as error:
            refusal = error
        after = self.pool.stats()
        if tensor is None:
            assert quota is not None
            assert size <= refusal.needed <= most_bytes(size)
            assert refusal.free == max(quota - before.in_use, 0) < refusal.needed
            assert (after.in_use, after.allocations) == (before.in_use, before.allocations)
            return
        assert size <= after.in_use - before.in_use <= most_bytes(size)
        assert after.held - before.held <= after.in_use - before.in_use
        self.keep(tensor)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        tensor = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        # Nobody else has written into it.
        assert (tensor.numpy() == address_tag(tensor)).all()
        before, quota = self.pool.stats(), self.pool.quota
        address, size = tensor.data_ptr, tensor.size
        del tensor
        after = self.pool.stats()
        assert before.in_use - after.in_use >= size
        if quota is None or before.held <= quota:
            # The block is kept, and the next request of its size gets it.
            assert after.held == before.held
            again = Tensor.empty(size, "uint8", pool=self.pool)
            assert self.pool.stats().reuses == after.reuses + 1
            assert size > LARGE or again.data_ptr == address
            self.keep(again)
        else:
            assert after.held < before.held

    @rule(quota=st.none() | st.integers(0, 8 << 20))
    def set_quota(self, quota: int | None) -> None:
        self.pool.quota = quota
        assert self.pool.quota == quota

    @rule()
    def trim(self) -> None:
        before = self.pool.stats()
        assert self.pool.trim() == before.held - before.in_use
        assert self.pool.stats().held == before.in_use

    @rule()
    def drop_all(self) -> None:
        self.live.clear()
        assert self.pool.stats().in_use == 0

    @invariant()
    def what_always_holds(self) -> None:
        stats, requested = self.pool.stats(), [tensor.size for tensor in self.live]
        assert stats.live_blocks == len(self.live)
        assert sum(requested) <= stats.in_use <= sum(map(most_bytes, requested))
        assert stats.in_use <= stats.held
        assert (stats.peak, stats.allocations) == (self.peak, self.made)
        if self.pool.quota is not None:
            assert stats.held <= max(self.pool.quota, stats.in_use)


def address_tag(tensor: Tensor) -> int:
    """A byte that other live tensors of the pool hardly have."""
    return tensor.data_ptr // 64 % 251


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40)


def test_the_error_says_what_was_needed_and_the_next_smaller_request_works():
    pool = MemoryPool(quota=1 << 20)
    kept = Tensor.zeros(600_000, "uint8", pool=pool)
    for _ in range(2):
        with pytest.raises(OutOfMemoryError) as caught:
            Tensor.zeros((1000, 500), "float32", pool=pool)
        stats = pool.stats()
        error = caught.value
        assert (error.needed, error.held) == (2_002_944, stats.held)
        assert error.free == (1 << 20) - stats.in_use
        assert str(error) == (
            f"out of memory on cpu: needed 2002944 bytes, free {error.free}, held {error.held} "
            f"({stats.in_use} in use), quota 1048576; drop tensors or raise the quota"
        )
    assert Tensor.zeros(300_000, "uint8", pool=pool).numpy().any() == np.False_
    del kept
    pool.trim()
    assert pool.stats().held == 0


def test_more_than_the_machine_has_is_refused():
    total = Device("cpu").info().total_memory
    with pytest.raises(
        MemoryError, match=r"out of memory on cpu: .* no quota; drop tensors or run"
    ):
        Tensor.empty(total * 2, "uint8", pool=MemoryPool())
    with pytest.raises(ValueError, match="too large to address"):
        Tensor.empty((1 << 40, 1 << 40), "float32")


def test_reused_memory_is_cleared_for_zeros(pool: MemoryPool):
    Tensor.from_numpy(np.full(1000, 7, np.uint8), pool=pool)
    tensor = Tensor.zeros(1000, "uint8", pool=pool)
    assert pool.stats().reuses == 1
    assert not tensor.numpy().any()


def test_views_hold_the_memory_until_the_last_is_gone(pool: MemoryPool):
    tensor = Tensor.zeros((4, 4), "float32", pool=pool)
    row, array = tensor[1].reshape(2, 2), tensor.numpy(copy=False)
    del tensor
    array[1] = 5
    assert row.tolist() == [[5, 5], [5, 5]]
    assert pool.stats().live_blocks == 1
    del row
    assert pool.stats().live_blocks == 1
    del array
    assert pool.stats().in_use == 0


def test_pools_are_told_apart():
    pool, device = MemoryPool("cpu", quota=100), Device("cpu")
    assert Tensor.zeros(1, "uint8", pool=pool).pool == pool != device.pool
    assert Tensor.zeros(1, "uint8").pool == device.pool == Device("cpu").pool
    assert len({pool, MemoryPool(), device.pool, device.pool}) == 3
    assert (pool.device, pool.quota, device.pool.quota) == (device, 100, None)
    assert repr(pool) == "<MemoryPool on cpu: in_use=0, held=64, quota=100>"
    for quota in (-1, 1 << 70):
        with pytest.raises((ValueError, OverflowError)):
            MemoryPool(quota=quota)


def test_threads_share_a_pool(pool: MemoryPool):
    pool.quota = 1 << 20
    failures: list[object] = []

    def work(tag: int) -> None:
        for round_ in range(300):
            size = 1 + round_ * 997 % 9000
            tensor = Tensor.from_numpy(np.full(size, tag, np.uint8), pool=pool)
            if not (tensor.numpy() == tag).all():
                failures.append((tag, round_))

    threads = [threading.Thread(target=work, args=(tag,)) for tag in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = pool.stats()
    assert failures == []
    assert (stats.in_use, stats.live_blocks, stats.allocations) == (0, 0, 1200)
    assert stats.held <= 1 << 20
    assert stats.reuses > 0
