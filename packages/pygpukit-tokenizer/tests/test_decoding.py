"""Decoding, at once and as a stream."""

from __future__ import annotations

from files import added_token, byte_level_model, file
from hypothesis import given
from hypothesis import strategies as st
from strategies import texts

from pygpukit.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_dict(file(added_tokens=[added_token("<|end|>")]))


@given(texts())
def test_round_trip(text: str) -> None:
    ids = TOKENIZER.encode_ids(text, parse_special=False)
    assert TOKENIZER.decode(ids) == text


@given(st.lists(st.integers(-5, 600)), st.booleans())
def test_stream_pieces_add_up(ids: list[int], skip: bool) -> None:
    stream = TOKENIZER.decode_stream(skip)
    for _ in range(2):  # a flushed stream starts over
        assert "".join([*map(stream.step, ids), stream.flush()]) == TOKENIZER.decode(ids, skip)


def test_a_character_is_held_back_until_it_is_whole() -> None:
    stream = TOKENIZER.decode_stream()
    family = "\U0001f468"
    ids = [TOKENIZER.vocab[c] for c in "ðŁĳ¨"]
    assert [stream.step(id) for id in ids] == ["", "", "", family]
    assert stream.flush() == ""


def test_what_can_no_longer_become_a_character_is_replaced_at_once() -> None:
    stream = TOKENIZER.decode_stream()
    first, letter = TOKENIZER.vocab["ð"], TOKENIZER.vocab["a"]
    assert stream.step(first) == ""
    assert stream.step(letter) == "\ufffda"
    assert stream.step(first) == ""
    assert stream.flush() == "\ufffd"


def test_ids_without_a_token_are_left_out() -> None:
    assert TOKENIZER.decode([-1, TOKENIZER.vocab["a"], 10**9]) == "a"
    assert TOKENIZER.id_to_token(-1) is None
    assert TOKENIZER.id_to_token(10**9) is None
    assert TOKENIZER.token_to_id("no such token") is None


def test_without_a_decoder_tokens_are_joined_by_spaces() -> None:
    tokenizer = Tokenizer.from_dict(file(byte_level_model()))
    ids = [tokenizer.vocab[c] for c in "abc"]
    assert tokenizer.decode(ids) == "a b c"
    stream = tokenizer.decode_stream()
    assert [stream.step(id) for id in ids] == ["a", " b", " c"]


def test_decode_batch() -> None:
    batch = [TOKENIZER.encode_ids(text) for text in ("one", "", "two<|end|>")]
    assert TOKENIZER.decode_batch(batch) == ["one", "", "two"]
    assert TOKENIZER.decode_batch(batch, skip_special_tokens=False)[2] == "two<|end|>"


@given(texts())
def test_the_bytes_of_tokens_add_up(text: str) -> None:
    ids = TOKENIZER.encode_ids(text, parse_special=False)
    assert b"".join(TOKENIZER.token_bytes(id) or b"" for id in ids) == text.encode()


def test_special_tokens_have_no_bytes() -> None:
    assert TOKENIZER.token_bytes(TOKENIZER.token_to_id("<|end|>")) is None
    assert TOKENIZER.token_bytes(10**9) is None


def test_the_bytes_of_sentencepiece_tokens() -> None:
    space = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    decoders = [space, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]
    vocab = {"▁a": 0, "b": 1, "<0x0A>": 2, "<0xE2>": 3, "é": 4}
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    decoder = {"type": "Sequence", "decoders": decoders}
    tokenizer = Tokenizer.from_dict(file(model, decoder=decoder))
    found = [tokenizer.token_bytes(id) for id in range(5)]
    assert found == [b" a", b"b", b"\n", b"\xe2", "é".encode()]
    plain = Tokenizer.from_dict(file(model, decoder={"type": "Fuse"}))
    assert plain.token_bytes(3) == b"<0xE2>"
