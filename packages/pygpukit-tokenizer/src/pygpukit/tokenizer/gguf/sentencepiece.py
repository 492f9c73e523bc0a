"""SentencePiece's BPE vocabularies in GGUF files: ``tokenizer.ggml.model = "llama"``.

They have a score for every token instead of a list of merges: of the tokens that two neighbours
make together, the one of the highest score is made first.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
_UNSPACE = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}


def merges(tokens: Sequence[str], scores: Sequence[float]) -> list[list[str]]:
    """All pairs of tokens that make a token, ordered as converters to tokenizer.json do: by score.

    Of the pairs that make one token, or tokens of equal score, those with longer halves come first.
    """
    vocab = {token: id for id, token in enumerate(tokens)}
    pairs = []
    for token, score in zip(tokens, scores, strict=True):
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocab and right in vocab:
                pairs.append((score, len(left), len(right), left, right))
    pairs.sort(key=lambda pair: pair[:3], reverse=True)
    return [[left, right] for _, _, _, left, right in pairs]


def components(*, add_space_prefix: bool) -> dict[str, Any]:
    """Normalizer and decoder: spaces as U+2581, one more in front if asked for."""
    normalizers: list[dict[str, Any]] = [_SPACE]
    decoders: list[dict[str, Any]] = [_UNSPACE, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if add_space_prefix:
        normalizers.insert(0, {"type": "Prepend", "prepend": "\u2581"})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
    }


def model(tokens: Sequence[str], scores: Sequence[float], unknown: str | None) -> Mapping[str, Any]:
    """The model of the format."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {token: id for id, token in enumerate(tokens)},
        "merges": merges(tokens, scores),
    }
