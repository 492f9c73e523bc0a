"""The scheduler and its simulator, as Python sees them; the policies are tested in Rust."""

from __future__ import annotations

import threading

import pytest
from pygpukit.core import (
    PygpukitError,
    QueueFullError,
    RequestRefusedError,
    Scheduler,
    SchedulerConfig,
    SchedulerShare,
    SchedulerStats,
    simulate,
)

CONFIG = SchedulerConfig(pages=10, page_size=4, step_tokens=8, max_running=4, max_waiting=3)


def run(scheduler: Scheduler, now: int = 0) -> list[tuple[int, str]]:
    """Plans and completes one step."""
    plan = scheduler.schedule(now)
    sampled = sum(row.samples for row in plan.rows)
    return scheduler.complete(plan.step, [7] * sampled, [False] * sampled)


def test_a_request_from_prompt_to_end() -> None:
    scheduler = Scheduler(CONFIG)
    request = scheduler.submit([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 3, now=0)
    assert scheduler.busy
    plan = scheduler.schedule(0)
    assert (plan.step, plan.tokens, plan.admitted) == (0, 8, [(request, 0)])
    assert (plan.preempted, plan.expired) == ([], [])
    (row,) = plan.rows
    assert repr(row) == (
        f"StepRow(request={request}, start=0, count=8, samples=False, first_new_page=0)"
    )
    assert scheduler.pages(request) == [0, 1, 2]
    assert scheduler.complete(plan.step, [], []) == []
    plan = scheduler.schedule(0)
    (row,) = plan.rows
    assert (row.start, row.count, row.samples, row.first_new_page) == (8, 2, True, 3)
    assert scheduler.complete(plan.step, [50], [False]) == []
    assert run(scheduler) == []
    assert run(scheduler) == [(request, "length")]
    assert not scheduler.busy
    assert scheduler.pages(request) == []
    stats = scheduler.stats()
    assert (stats.computed_tokens, stats.pages_in_use, stats.requests) == (12, 0, 0)


def test_a_stop_ends_it() -> None:
    scheduler = Scheduler(CONFIG)
    request = scheduler.submit([1], 30, now=0)
    plan = scheduler.schedule(0)
    assert scheduler.complete(plan.step, [50], [True]) == [(request, "stop")]


def test_beginnings_are_shared() -> None:
    scheduler = Scheduler(CONFIG)
    for _ in range(2):
        request = scheduler.submit(range(8), 1, now=0)
        plan = scheduler.schedule(0)
        scheduler.complete(plan.step, [7], [False])
    assert plan.admitted == [(request, 4)]
    assert scheduler.stats().cached_tokens == 4


def test_a_deadline_and_a_cancellation() -> None:
    scheduler = Scheduler(CONFIG)
    late = scheduler.submit([1], 30, now=0, deadline=100)
    gone = scheduler.submit([1], 30, now=0)
    assert run(scheduler, 99) == []
    assert scheduler.cancel(gone)
    assert not scheduler.cancel(gone)
    plan = scheduler.schedule(100)
    assert (plan.expired, plan.rows) == ([late], [])
    assert not scheduler.busy


def test_priorities_and_tenants() -> None:
    config = SchedulerConfig(pages=10, page_size=4, max_running=1)
    scheduler = Scheduler(config)
    scheduler.set_weight(2, 5)
    low = scheduler.submit([1], 1, now=0)
    high = scheduler.submit([1], 1, now=0, priority=1)
    other = scheduler.submit([1], 1, now=0, tenant=2)
    order = [run(scheduler)[0][0] for _ in range(3)]
    assert sorted(order) == sorted([low, high, other])
    assert order.index(high) < order.index(low)
    assert order.index(other) < order.index(low)


def test_refusals() -> None:
    scheduler = Scheduler(CONFIG)
    with pytest.raises(RequestRefusedError, match="41 that the context and the page quota allow"):
        scheduler.submit([1] * 40, 2, now=0)
    with pytest.raises(ValueError, match="the prompt is empty"):
        scheduler.submit([], 2, now=0)
    for _ in range(3):
        scheduler.submit([1], 1, now=0)
    with pytest.raises(QueueFullError, match="3 requests are waiting") as caught:
        scheduler.submit([1], 1, now=0)
    assert isinstance(caught.value, (RequestRefusedError, PygpukitError))


def test_outcomes_that_do_not_fit() -> None:
    scheduler = Scheduler(CONFIG)
    scheduler.submit([1], 9, now=0)
    plan = scheduler.schedule(0)
    with pytest.raises(ValueError, match="step 5 can't be completed: expected step 0"):
        scheduler.complete(5, [1], [False])
    with pytest.raises(ValueError, match="chose 1 tokens, found 2"):
        scheduler.complete(plan.step, [1, 2], [False, False])
    with pytest.raises(ValueError, match="expected as many as tokens, 1, found 0"):
        scheduler.complete(plan.step, [1], [])
    assert scheduler.complete(plan.step, [1], [False]) == []


def test_configuration() -> None:
    assert (
        SchedulerConfig(pages=10, page_size=4, step_tokens=8, max_running=4, max_waiting=3)
        == CONFIG
    )
    assert Scheduler(CONFIG).config == CONFIG
    assert (CONFIG.pages, CONFIG.page_size, CONFIG.capacity) == (10, 4, 41)
    assert (CONFIG.step_tokens, CONFIG.max_running, CONFIG.max_waiting) == (8, 4, 3)
    assert SchedulerConfig(pages=10, page_size=4, max_length=30).capacity == 30
    with pytest.raises(ValueError, match="step_tokens: expected at least 9"):
        SchedulerConfig(pages=10, page_size=4, step_tokens=8, max_running=9)
    with pytest.raises(ValueError, match="weight: expected at least 1"):
        Scheduler(CONFIG).set_weight(1, 0)


def test_threads_submit_at_the_same_time() -> None:
    scheduler = Scheduler(SchedulerConfig(pages=1000, page_size=4))
    found: list[int] = []

    def submit() -> None:
        found.extend(scheduler.submit([1, 2, 3], 2, now=0) for _ in range(50))

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended: list[int] = []
    while scheduler.busy:
        ended += [request for request, _ in run(scheduler)]
    assert len(set(found)) == 200
    assert sorted(ended) == sorted(found)
    assert isinstance(scheduler.stats(), SchedulerStats)


def test_models_share_a_device() -> None:
    share = SchedulerShare(1000)
    first = share.add(CONFIG, 60)
    with pytest.raises(ValueError, match="of 1000 only 400 are left"):
        share.add(CONFIG, 41)
    with pytest.raises(ValueError, match="weight: expected at least 1"):
        share.add(CONFIG, 1, weight=0)
    second = share.add(CONFIG, 40, weight=2)
    models = [first, second]
    assert share.schedule(0) is None
    for scheduler in models:
        scheduler.submit([1, 2], 30, now=0)
    tokens = [0, 0]
    for _ in range(18):
        model, plan = share.schedule(0)
        tokens[model] += plan.tokens
        models[model].complete(plan.step, [7], [False])
    assert abs(tokens[1] - 2 * tokens[0]) <= 4
    assert first.stats().running == second.stats().running == 1


def test_models_take_turns() -> None:
    share = SchedulerShare(1000)
    models = [share.add(CONFIG, 10), share.add(CONFIG, 10)]
    assert share.turn() is None
    for scheduler in models:
        scheduler.submit([1, 2], 30, now=0)
    tokens = [0, 0]
    for _ in range(20):
        model = share.turn()
        plan = models[model].schedule(0)
        tokens[model] += plan.tokens
        models[model].complete(plan.step, [7], [False])
    assert abs(tokens[0] - tokens[1]) <= 2
    models[0].clear()
    assert (models[0].busy, models[0].stats().requests, share.turn()) == (False, 0, 1)


def test_a_simulation() -> None:
    config = SchedulerConfig(pages=100, page_size=4, step_tokens=16, max_running=4)
    arrivals = [(0, 10, 3, 0, 0, 0, 0), (500, 10, 3, 0, 0, 1, 0)]
    report = simulate(config, arrivals, step=1000.0, token=10.0)
    assert (report.finished, report.refused, report.steps) == (2, 0, 4)
    assert (report.end, report.busy, report.computed_tokens) == (4240, 4240, 24)
    assert (report.cached_tokens, report.preemptions) == (0, 0)
    assert len(report.first_token) == len(report.whole) == 2
    assert len(report.between_tokens) == 4
    assert report.first_token.percentile(0) == pytest.approx(1100, rel=2e-3)
    assert report.between_tokens.mean == pytest.approx((1110 + 1020 + 1020 + 1010) / 4, rel=0.02)
    with pytest.raises(ValueError, match="percent: expected a number from 0 to 100, found 101"):
        report.whole.percentile(101)
    with pytest.raises(ValueError, match="arrival 1 is at 0 µs, before the one before it"):
        simulate(config, arrivals[::-1], step=1000.0)
