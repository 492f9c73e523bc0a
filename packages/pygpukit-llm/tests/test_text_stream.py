"""Stop strings, found wherever the pieces are cut."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st
from pygpukit.llm.generation import TextStream

LETTERS = st.text("ab", max_size=6)


class Pieces:
    """A decoder that turns id i into the i-th piece of a text."""

    def __init__(self, pieces: Sequence[str], tail: str) -> None:
        self._pieces = pieces
        self._tail = tail

    def step(self, token_id: int) -> str:
        return self._pieces[token_id]

    def flush(self) -> str:
        return self._tail


@given(st.lists(LETTERS), LETTERS, st.lists(LETTERS.filter(bool), max_size=3))
@example(["a", "a", "b"], "", ["aab"])
@example(["aa", "a", "b"], "", ["aab"])
@example(["ab", "ab"], "a", ["ababa"])
@example(["ab", "aa"], "", ["ba", "b"])
def test_pieces_are_the_text_up_to_the_first_stop_string(
    pieces: list[str], tail: str, stop: list[str]
) -> None:
    stream = TextStream(Pieces(pieces, tail), stop)
    shown = []
    for id_ in range(len(pieces)):
        shown.append(stream.push(id_))
        if stream.stopped:
            break
    else:
        shown.append(stream.finish())
    read = "".join(pieces[: len(shown)]) + (tail if len(shown) > len(pieces) else "")
    cuts = [read.index(string) for string in stop if string in read]
    assert stream.stopped == bool(cuts)
    assert "".join(shown) == stream.text == read[: min(cuts, default=len(read))]


@given(st.lists(LETTERS), st.lists(LETTERS.filter(bool), max_size=3))
def test_no_more_is_held_back_than_a_stop_string_could_need(
    pieces: list[str], stop: list[str]
) -> None:
    stream = TextStream(Pieces(pieces, ""), stop)
    for id_ in range(len(pieces)):
        stream.push(id_)
        if stream.stopped:
            return
        held = "".join(pieces[: id_ + 1])[len(stream.text) :]
        assert held == "" or any(string.startswith(held) for string in stop)


def test_without_a_decoder_there_is_no_text() -> None:
    stream = TextStream(None, ())
    assert stream.push(0) + stream.finish() + stream.text == ""
    assert not stream.stopped
