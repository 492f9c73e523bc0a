"""What is remembered of words."""

from __future__ import annotations

import pytest

from pygpukit.tokenizer import words
from pygpukit.tokenizer.words import IdCache


def test_learning_computes_each_short_word_once_in_their_order() -> None:
    computed: list[str] = []

    def compute(word: str) -> list[int]:
        computed.append(word)
        return [len(word)]

    cache = IdCache(compute)
    long = "x" * 100
    cache.learn(["b", "a", long, "b", "cc"])
    assert computed == ["a", "b", "cc"]
    assert [cache[word] for word in ("a", "b", "cc", long)] == [[1], [1], [2], [100]]
    assert computed == ["a", "b", "cc", long]
    assert long not in cache


def test_learning_stays_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_MAX_WORDS", 3)
    cache = IdCache(lambda word: [len(word)])
    cache.learn(["a", "b", "c", "d"])
    assert not cache
    cache.learn(["a", "b", "c"])
    assert len(cache) == 3
