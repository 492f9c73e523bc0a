"""Tokenizers of GGUF files, as tokenizer.json would describe them.

The keys are those of the GGUF specification (``tokenizer.ggml.*``); what a pre-tokenizer name
stands for is llama.cpp's choice, spelled here as the model's own tokenizer.json has it.
"""

from __future__ import annotations

from pygpukit.tokenizer.errors import TokenizerLoadError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_PREFIX = "tokenizer.ggml."
# Values of tokenizer.ggml.token_type.
_CONTROL, _USER_DEFINED = 3, 4

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_START = r"[^\r\n\p{L}\p{N}]?"


def _words_and_numbers(digits: str) -> str:
    """The pattern of Llama 3 and Qwen 2, which differ in how many digits make a piece."""
    return rf"{_CONTRACTIONS}|{_START}\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"


def _cased_words(contractions: str, digits: str) -> str:
    """The pattern of GPT-4o and Tekken, which cut where lower case turns to upper case."""
    return (
        rf"{_START}{_UPPER}*{_LOWER}+{contractions}|{_START}{_UPPER}+{_LOWER}*{contractions}"
        rf"|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    )


_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)


def _split(pattern: str, behavior: str = "Isolated") -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _patterns(*patterns: str) -> list[dict[str, Any]]:
    return [*map(_split, patterns), _byte_level(use_regex=False)]


class _Family:
    """What a pre-tokenizer name implies."""

    __slots__ = ("add_bos", "ignore_merges", "nfc", "steps")

    def __init__(
        self,
        steps: list[dict[str, Any]],
        *,
        ignore_merges: bool = False,
        add_bos: bool = False,
        nfc: bool = False,
    ) -> None:
        self.steps = steps
        self.ignore_merges = ignore_merges
        self.add_bos = add_bos
        self.nfc = nfc


_GPT2 = _Family([_byte_level(use_regex=True)])
_DIGITS_APART = _Family(
    [{"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True)]
)
_LLAMA3 = _Family(_patterns(_words_and_numbers(r"\p{N}{1,3}")), ignore_merges=True, add_bos=True)
_DBRX = _Family(_patterns(_words_and_numbers(r"\p{N}{1,3}")))
_QWEN2 = _Family(_patterns(_words_and_numbers(r"\p{N}")), nfc=True)
_GPT4O = _Family(_patterns(_cased_words(_CONTRACTIONS + "?", r"\p{N}{1,3}")))
_TEKKEN = _Family(_patterns(_cased_words("", r"\p{N}")), ignore_merges=True, add_bos=True)
_FALCON = _Family(
    [
        {"type": "Punctuation", "behavior": "Contiguous"},
        _byte_level(use_regex=True),
        {"type": "Digits", "individual_digits": False},
        _split("[0-9][0-9][0-9]"),
    ]
)

FAMILIES = {
    "default": _GPT2, "gpt-2": _GPT2, "gpt2": _GPT2, "phi-2": _GPT2, "mpt": _GPT2, "olmo": _GPT2,
    "smollm": _DIGITS_APART, "starcoder": _DIGITS_APART, "refact": _DIGITS_APART,
    "command-r": _DIGITS_APART, "codeshell": _DIGITS_APART,
    "llama-bpe": _LLAMA3, "llama3": _LLAMA3, "llama-v3": _LLAMA3,
    "dbrx": _DBRX, "smaug-bpe": _DBRX,
    "qwen2": _QWEN2, "deepseek-r1-qwen": _QWEN2,
    "gpt-4o": _GPT4O,
    "tekken": _TEKKEN,
    "deepseek-v3": _Family(_patterns(*_DEEPSEEK_V3), add_bos=True),
    "falcon": _FALCON,
}  # fmt: skip
"""The byte-level BPE pre-tokenizers by the names that GGUF files give them."""


def tokenizer_data(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer.json, as parsed JSON, of a GGUF file's metadata.

    Raises:
        TokenizerLoadError: a key is missing, or its value isn't supported.
    """
    model = _required(metadata, "model")
    if model != "gpt2":
        raise TokenizerLoadError(f'{_PREFIX}model: unsupported tokenizer model "{model}"')
    pre = metadata.get(_PREFIX + "pre", "default")
    family = FAMILIES.get(pre)
    if family is None:
        known = ", ".join(sorted(FAMILIES))
        raise TokenizerLoadError(f'{_PREFIX}pre: unknown pre-tokenizer "{pre}" (known: {known})')
    tokens = list(_required(metadata, "tokens"))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(tokens, metadata),
        "normalizer": {"type": "NFC"} if family.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": family.steps},
        "post_processor": _template(tokens, metadata, family),
        "decoder": _byte_level(use_regex=True),
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


def _required(metadata: Mapping[str, Any], name: str) -> Any:
    try:
        return metadata[_PREFIX + name]
    except KeyError:
        raise TokenizerLoadError(f"{_PREFIX}{name}: missing") from None


def _added_tokens(tokens: Sequence[str], metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Control tokens as special added tokens, the user's own as ordinary ones."""
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
            "special": kind == _CONTROL,
        }
        for id, kind in enumerate(types)
        if kind in (_CONTROL, _USER_DEFINED)
    ]


def _template(
    tokens: Sequence[str], metadata: Mapping[str, Any], family: _Family
) -> dict[str, Any] | None:
    """A post-processor for the BOS and EOS tokens that the file asks for."""
    before = after = None
    if metadata.get(_PREFIX + "add_bos_token", family.add_bos):
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
