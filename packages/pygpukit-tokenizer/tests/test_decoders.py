"""Every decoder, against the reference, at once and as a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
import strategies as our
from files import bpe, file
from hypothesis import given
from hypothesis import strategies as st
from oracle import PANIC, attempt, tokenizers

from pygpukit.tokenizer import Tokenizer
from pygpukit.tokenizer.decoders import DECODERS, build_decoder
from pygpukit.tokenizer.spec import Spec

TOKENS = (
    *("▁the", "the", "##ing", "##", "</w>", "do</w>", "a", "aa", "aaa", "|", "<pad>", "▁", "▁▁"),
    *(" ", "  a ", "", ".", " .", "!", "do not", "n't", "'s", "<0x41>", "<0xE2>", "<0x96>"),
    *(
        "<0x81>",
        "<0xF0>",
        "<0xZZ>",
        "<0x+A>",
        "<0xé>",
        "<0x0a>",
        "é",
        "👍",
        "Ġ",
        "ĠÃ",
        "Ã",
        "©",
        "ð",
    ),
)
TOKEN_LISTS = st.lists(st.sampled_from(TOKENS), max_size=12)


def check(decoder: dict[str, Any], tokens: list[str]) -> None:
    data = file(bpe({}, []), decoder=decoder)
    reference = tokenizers.Tokenizer.from_str(json.dumps(data)).decoder
    expected = attempt(lambda: reference.decode(tokens))
    ours = build_decoder(Spec("", decoder))
    found = ours.decode(tokens)
    step = ours.step()
    for _ in range(2):  # a flushed stream starts over
        pieces = [piece for token in tokens for piece in step.push(token)]
        assert "".join([*pieces, *step.flush()]) == found
    if expected is not PANIC:
        assert found == expected


@pytest.mark.parametrize("name", sorted(DECODERS))
@given(st.data())
def test_each(name: str, data: st.DataObject) -> None:
    decoder = data.draw(our.DECODERS_BY_NAME[name])
    check(decoder, data.draw(TOKEN_LISTS))


@given(st.sampled_from(" a▁"), st.integers(0, 3), st.integers(0, 3), TOKEN_LISTS, st.booleans())
def test_strip_at_both_ends(
    content: str, start: int, stop: int, tokens: list[str], fused: bool
) -> None:
    strip = {"type": "Strip", "content": content, "start": start, "stop": stop}
    decoders = [{"type": "Fuse"}, strip] if fused else [strip]
    check({"type": "Sequence", "decoders": decoders}, tokens)


def test_sentencepiece_decoders_stream_token_by_token() -> None:
    data = file(
        bpe({token: id for id, token in enumerate(["▁a", "b", "<0xC3>", "<0xA9>", "▁"])}, []),
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
    )
    stream = Tokenizer.from_dict(data).decode_stream()
    assert [stream.step(id) for id in (0, 2, 3, 1, 4, 0)] == ["a", "", "", "éb", " ", " a"]
    assert stream.flush() == ""
    # One U+FFFD for each byte of a run that isn't valid, as in the reference.
    assert [stream.step(id) for id in (2, 2, 1)] == ["", "", "\ufffd\ufffdb"]
