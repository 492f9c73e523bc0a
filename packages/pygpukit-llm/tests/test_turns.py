"""One thread works for all that wait."""

from __future__ import annotations

import threading

from pygpukit.llm.turns import Turns


def test_whoever_waits_is_woken_by_each_turn() -> None:
    turns = Turns()
    assert turns.take()
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda: results.append(turns.take_or_wait())) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(0.05)
    assert results == []
    turns.pass_on()
    for thread in threads:
        thread.join(5)
    # Whoever comes after the turn was passed on may take it.
    assert len(results) == 3
    assert results.count(True) <= 1


def test_threads_do_all_the_work_one_at_a_time() -> None:
    turns, done, inside = Turns(), [0], [0]

    def work() -> None:
        while done[0] < 500:
            if turns.take_or_wait():
                inside[0] += 1
                assert inside[0] == 1
                done[0] += 1
                inside[0] -= 1
                turns.pass_on()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert 500 <= done[0] < 504
