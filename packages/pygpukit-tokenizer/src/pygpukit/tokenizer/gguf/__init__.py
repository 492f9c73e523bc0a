"""Tokenizers of GGUF files, as tokenizer.json would describe them.

The keys are those of the GGUF specification (``tokenizer.ggml.*``).
"""

from __future__ import annotations

from pygpukit.tokenizer.errors import TokenizerLoadError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_PREFIX = "tokenizer.ggml."
# Values of tokenizer.ggml.token_type.
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4


def tokenizer_data(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer.json, as parsed JSON, of a GGUF file's metadata.

    Raises:
        TokenizerLoadError: a key is missing, or its value isn't supported.
    """
    model = _required(metadata, "model")
    if model not in ("gpt2", "llama"):
        raise TokenizerLoadError(f'{_PREFIX}model: unsupported tokenizer model "{model}"')
    tokens = list(_required(metadata, "tokens"))
    if model == "gpt2":
        parts, add_bos = _byte_level_parts(tokens, metadata)
    else:
        parts, add_bos = _sentencepiece_parts(tokens, metadata), True
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(tokens, metadata),
        "post_processor": _template(tokens, metadata, add_bos),
        **parts,
    }


def _byte_level_parts(
    tokens: list[str], metadata: Mapping[str, Any]
) -> tuple[dict[str, Any], bool]:
    """Normalizer, pre-tokenizer, decoder and model; whether a text begins with BOS by default."""
    from pygpukit.tokenizer.gguf.families import FAMILIES, byte_level

    pre = metadata.get(_PREFIX + "pre", "default")
    family = FAMILIES.get(pre)
    if family is None:
        known = ", ".join(sorted(FAMILIES))
        raise TokenizerLoadError(f'{_PREFIX}pre: unknown pre-tokenizer "{pre}" (known: {known})')
    parts = {
        "normalizer": {"type": "NFC"} if family.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": family.steps},
        "decoder": byte_level(use_regex=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": family.ignore_merges,
            "vocab": dict(zip(tokens, range(len(tokens)), strict=True)),
            "merges": list(_required(metadata, "merges")),
        },
    }
    return parts, family.add_bos


def _sentencepiece_parts(tokens: list[str], metadata: Mapping[str, Any]) -> dict[str, Any]:
    from pygpukit.tokenizer.gguf import sentencepiece

    scores = _required(metadata, "scores")
    if len(scores) != len(tokens):
        raise TokenizerLoadError(f"{_PREFIX}scores: {len(scores)} scores for {len(tokens)} tokens")
    unknown = None
    if _PREFIX + "unknown_token_id" in metadata:
        unknown, _ = _special(tokens, metadata, "unknown_token_id")
    prefix = bool(metadata.get(_PREFIX + "add_space_prefix", True))
    return {
        **sentencepiece.components(add_space_prefix=prefix),
        "model": sentencepiece.model(tokens, scores, unknown),
    }


def _required(metadata: Mapping[str, Any], name: str) -> Any:
    try:
        return metadata[_PREFIX + name]
    except KeyError:
        raise TokenizerLoadError(f"{_PREFIX}{name}: missing") from None


def _added_tokens(tokens: Sequence[str], metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Control tokens and the unknown one as special added tokens, the user's own as ordinary."""
    types = metadata.get(_PREFIX + "token_type")
    if types is None:
        return []
    if len(types) != len(tokens):
        raise TokenizerLoadError(
            f"{_PREFIX}token_type: {len(types)} types for {len(tokens)} tokens"
        )
    return [
        {
            "id": id,
            "content": tokens[id],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != _USER_DEFINED,
        }
        for id, kind in enumerate(types)
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]


def _template(
    tokens: Sequence[str], metadata: Mapping[str, Any], add_bos: bool
) -> dict[str, Any] | None:
    """A post-processor for the BOS and EOS tokens that the file asks for."""
    before = after = None
    if metadata.get(_PREFIX + "add_bos_token", add_bos):
        before = _special(tokens, metadata, "bos_token_id")
    if metadata.get(_PREFIX + "add_eos_token", False):
        after = _special(tokens, metadata, "eos_token_id")
    specials = dict(filter(None, (before, after)))
    if not specials:
        return None

    def around(sequence: str, type_id: int) -> list[dict[str, Any]]:
        pieces: list[dict[str, Any]] = [{"Sequence": {"id": sequence, "type_id": type_id}}]
        if before:
            pieces.insert(0, {"SpecialToken": {"id": before[0], "type_id": type_id}})
        if after:
            pieces.append({"SpecialToken": {"id": after[0], "type_id": type_id}})
        return pieces

    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": {
            token: {"id": token, "ids": [id], "tokens": [token]} for token, id in specials.items()
        },
    }


def _special(tokens: Sequence[str], metadata: Mapping[str, Any], name: str) -> tuple[str, int]:
    id = int(_required(metadata, name))
    if not 0 <= id < len(tokens):
        raise TokenizerLoadError(f"{_PREFIX}{name}: {id} isn't the id of a token")
    return tokens[id], id
