"""Byte-level pre-tokenizers by the names that GGUF files give them.

What a name stands for is llama.cpp's choice, spelled here as the models' own tokenizer.json has it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

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


_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")
_QWEN35 = (
    rf"{_CONTRACTIONS}|{_START}[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_SEED_CODER = rf"{_CONTRACTIONS}|{_START}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
_BAILING = (
    rf"'(?i:[sdmt]|ll|ve|re)|{_START}+\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"


def _split(pattern: str, behavior: str = "Isolated") -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def byte_level(*, use_regex: bool) -> dict[str, Any]:
    """A ByteLevel component."""
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _patterns(*patterns: str) -> list[dict[str, Any]]:
    return [*map(_split, patterns), byte_level(use_regex=False)]


class Family:
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


_GPT2 = Family([byte_level(use_regex=True)])
_DIGITS_APART = Family([{"type": "Digits", "individual_digits": True}, byte_level(use_regex=True)])
_LLAMA3 = Family(_patterns(_words_and_numbers(r"\p{N}{1,3}")), ignore_merges=True, add_bos=True)
_DBRX = Family(_patterns(_words_and_numbers(r"\p{N}{1,3}")))
_QWEN2 = Family(_patterns(_words_and_numbers(r"\p{N}")), nfc=True)
_GPT4O = Family(_patterns(_cased_words(_CONTRACTIONS + "?", r"\p{N}{1,3}")))
_TEKKEN = Family(_patterns(_cased_words("", r"\p{N}")), ignore_merges=True, add_bos=True)
_FALCON = Family(
    [
        {"type": "Punctuation", "behavior": "Contiguous"},
        byte_level(use_regex=True),
        {"type": "Digits", "individual_digits": False},
        _split("[0-9][0-9][0-9]"),
    ]
)

_DEEPSEEK3 = Family(_patterns(*_DEEPSEEK_V3), add_bos=True)
_BAILING_MOE = Family(_patterns(_BAILING))
_BLOOM_WORDS = Family(_patterns(_BLOOM))

_NAMES: tuple[tuple[Family, str], ...] = (
    (
        _GPT2,
        "default gpt-2 gpt2 phi-2 mpt olmo jais trillion exaone4 gigachat a.x-4.0 mellum "
        "modern-bert granite-docling jina-es jina-de jina-v2-es jina-v2-de",
    ),
    (
        _DIGITS_APART,
        "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
    ),
    (_LLAMA3, "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2"),
    (_DBRX, "dbrx smaug-bpe glm4 chatglm-bpe"),
    (_QWEN2, "qwen2 deepseek-r1-qwen megrez kormo f2llmv2"),
    (Family(_QWEN2.steps), "stablelm2 hunyuan solar-open grok-2"),
    (Family(_patterns(_QWEN35), nfc=True), "qwen35"),
    (_GPT4O, "gpt-4o llama4 kanana2 talkie minimax-m2"),
    (_TEKKEN, "tekken"),
    (_DEEPSEEK3, "deepseek-v3"),
    (Family(_DEEPSEEK3.steps), "hunyuan-dense joyai-llm"),
    (Family(_patterns(*_DEEPSEEK_CODER), add_bos=True), "deepseek-coder"),
    (Family(_patterns(_SEED_CODER)), "seed-coder"),
    (_BAILING_MOE, "bailingmoe bailingmoe2 llada-moe"),
    (_BLOOM_WORDS, "bloom gpt3-finnish poro-chat"),
    (Family(_patterns(_BLOOM, r"\p{N}")), "viking"),
    (_FALCON, "falcon"),
)
FAMILIES = {name: family for family, names in _NAMES for name in names.split()}
"""What each pre-tokenizer name implies."""
