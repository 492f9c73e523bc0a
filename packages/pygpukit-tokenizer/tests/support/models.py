"""Hypothesis strategies: small models of every kind, with all their options."""

from __future__ import annotations

from typing import Any

from files import Json, bpe
from hypothesis import strategies as st

LETTERS = "abcde▁ éß漢👍</w>0x#"
MARK = "▁"
PIECES = st.text(LETTERS, min_size=1, max_size=4)
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = st.text(LETTERS + "xyz", max_size=12)
PARTED_WORDS = st.text("aaaab--.▁é漢", max_size=16)


@st.composite
def word_levels(draw: st.DrawFn) -> Json:
    """WordLevel models, not always with their unknown token."""
    tokens = draw(st.lists(PIECES, max_size=8, unique=True))
    tokens += draw(st.sampled_from([["[UNK]"], ["[UNK]"], []]))
    vocab = {token: id for id, token in enumerate(dict.fromkeys(tokens))}
    return {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}


@st.composite
def word_pieces(draw: st.DrawFn) -> Json:
    """WordPiece models over a few letters."""
    prefix = draw(st.sampled_from(["##", "", "é"]))
    letters = draw(st.lists(st.sampled_from(LETTERS), max_size=12))
    pieces = draw(st.lists(PIECES, max_size=12))
    tokens = ["[UNK]", *letters, *pieces]
    tokens += [prefix + token for token in draw(st.permutations(letters + pieces))]
    return {
        "type": "WordPiece",
        "vocab": {token: id for id, token in enumerate(dict.fromkeys(tokens))},
        "unk_token": draw(st.sampled_from(["[UNK]", "[UNK]", "[UNK]", "<none>"])),
        "continuing_subword_prefix": prefix,
        "max_input_chars_per_word": draw(st.sampled_from([100, 5])),
    }


@st.composite
def unigrams(draw: st.DrawFn) -> Json:
    """Unigram models, with equal scores, pieces that come twice, and byte tokens."""
    scores = st.sampled_from([0.0, -1.0, -1.5, -2.0, -3.0]) | st.floats(-12, 1)
    pieces = draw(st.lists(st.tuples(PIECES, scores), max_size=16))
    pieces += draw(st.lists(st.tuples(st.sampled_from(LETTERS), scores), max_size=12))
    unknown = draw(st.sampled_from(["<unk>", "<unk>", "a", None]))
    fallback = draw(st.booleans())
    if fallback:
        count = draw(st.sampled_from([256, 256, 200]))
        pieces += [(token, 0.0) for token in BYTE_TOKENS[:count]]
    if unknown is not None:
        pieces.insert(draw(st.integers(0, len(pieces))), (unknown, 0.0))
    unk_id = None if unknown is None else [token for token, _ in pieces].index(unknown)
    return {
        "type": "Unigram",
        "unk_id": unk_id,
        "vocab": [list(piece) for piece in pieces],
        "byte_fallback": fallback,
    }


@st.composite
def unigrams_of_parts(draw: st.DrawFn) -> Json:
    """Unigram models that cut words between letters and other characters, with many ties."""
    # Sums of tenths depend on their order.
    scores = st.sampled_from(draw(st.sampled_from([(-0.1, -0.2, -0.3, -0.6), (-1.0, -1.5, -4.0)])))
    spelled = st.text("ab", max_size=3) | st.text("-.", min_size=1, max_size=3)
    pieces = st.builds(str.__add__, st.sampled_from(["", "", MARK]), spelled).filter(bool)
    tokens = [MARK, *draw(st.lists(pieces, max_size=16)), *draw(st.sampled_from(["ab-.", "a-"]))]
    tokens += draw(st.sampled_from([["aa", "aaa"], []]))
    tokens += draw(st.lists(st.sampled_from(["a-", "-b", "b.", "éa"]), max_size=1))
    vocab = [["<unk>", 0.0], *([token, draw(scores)] for token in dict.fromkeys(tokens))]
    return {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False}


@st.composite
def bpes(draw: st.DrawFn) -> Json:
    """BPE models with all options; every merge is of tokens that are there."""
    prefix = draw(st.sampled_from([None, None, "##", "é"]))
    suffix = draw(st.sampled_from([None, None, "</w>"]))
    letters = draw(st.lists(st.sampled_from(LETTERS), min_size=1, max_size=14, unique=True))
    tokens = list(letters)
    tokens += [prefix + letter for letter in letters if prefix]
    tokens += [token + suffix for token in list(tokens) if suffix]
    merges = []
    for _ in range(draw(st.integers(0, 25))):
        left, right = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        merged = left + (
            right.encode()[len(prefix.encode()) :].decode("utf-8", "replace") if prefix else right
        )
        if "\ufffd" in merged or not merged:
            continue
        merges.append([left, right])
        tokens.append(merged)
    tokens += draw(st.lists(PIECES, max_size=3))
    # The reference counts the bytes of what is affixed as the word's, and offsets go astray.
    fallback = not prefix and not suffix and draw(st.booleans())
    if fallback:
        tokens += BYTE_TOKENS[: draw(st.sampled_from([256, 256, 200]))]
    unknown = draw(st.sampled_from([None, "<unk>", "<unk>", "<none>"]))
    if unknown == "<unk>":
        tokens.insert(0, "<unk>")
    vocab = {token: id for id, token in enumerate(dict.fromkeys(tokens))}
    joined = draw(st.booleans()) and not any(" " in half for pair in merges for half in pair)
    return bpe(
        vocab,
        [" ".join(pair) for pair in merges] if joined else merges,
        unk_token=unknown,
        continuing_subword_prefix=prefix,
        end_of_word_suffix=suffix,
        fuse_unk=draw(st.booleans()),
        byte_fallback=fallback,
        ignore_merges=draw(st.booleans()),
        dropout=draw(st.sampled_from([None, 0.0])),
    )


MODELS_BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "BPE": bpes(),
    "Unigram": unigrams(),
    "WordLevel": word_levels(),
    "WordPiece": word_pieces(),
}
MODELS = st.one_of(*MODELS_BY_NAME.values())
