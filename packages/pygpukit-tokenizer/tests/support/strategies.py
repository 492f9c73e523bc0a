"""Hypothesis strategies: texts, and the parts of tokenizer files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from charsmap import precompiled_charsmap
from corpus import PIECES
from files import Json, added_token, byte_level
from hypothesis import strategies as st

BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
CHARACTERS = st.characters(exclude_categories=["Cs"])


def texts(extra: Iterable[str] = ()) -> st.SearchStrategy[str]:
    """Texts made of awkward pieces, ``extra`` ones among them, and of any characters."""
    pieces = st.sampled_from([*PIECES, *extra, *extra])
    return st.lists(pieces | st.text(CHARACTERS, max_size=4), max_size=12).map("".join)


def lists_of(part: st.SearchStrategy[Any], key: str) -> st.SearchStrategy[Json]:
    """A Sequence component of a few parts."""
    parts = st.lists(part, min_size=1, max_size=3)
    return parts.map(lambda parts: {"type": "Sequence", key: parts})


def plain(name: str) -> st.SearchStrategy[Json]:
    """A component without fields."""
    return st.just({"type": name})


def component(name: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    """A component with fields."""
    return st.fixed_dictionaries({"type": st.just(name), **fields})


TOKEN_TEXTS = st.sampled_from(
    "<s>,</s>,<|end|>,<|end|>x,<|,the,the dog,a,ab, ,  ,\n,é,E\u0301,ﬁ,Hello,DOG,_,12,▁a,Ġthe,👍,"
    "😀😀,e".split(",")
)
ADDED_TOKENS = st.lists(
    st.builds(
        added_token,
        TOKEN_TEXTS,
        **{
            flag: st.booleans()
            for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")
        },
    ),
    max_size=6,
)

PATTERNS = st.sampled_from(
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+$|\s+(?!\S)|\s",
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        r"\w+|[^\w\s]+",
        r"\s+",
        r"\d|\p{P}",
        "(?<=the)x?| ",
    ]
)
PATTERN_SPECS = PATTERNS.map(lambda p: {"Regex": p}) | st.sampled_from(
    ["", " ", "a", "-", "e\u0301"]
).map(lambda text: {"String": text})

BYTE_LEVEL_PRE_TOKENIZERS = st.builds(
    byte_level, add_prefix_space=st.booleans(), use_regex=st.booleans()
)
CUTTERS_BY_NAME = {
    "Split": component(
        "Split",
        pattern=PATTERN_SPECS,
        behavior=st.sampled_from(BEHAVIORS),
        invert=st.booleans(),
    ),
    "Digits": component("Digits", individual_digits=st.booleans()),
    "Punctuation": component("Punctuation", behavior=st.sampled_from(BEHAVIORS)),
    "CharDelimiterSplit": component("CharDelimiterSplit", delimiter=st.sampled_from(" a▁é\n👍")),
    "FixedLength": component("FixedLength", length=st.integers(1, 5)),
    **{
        name: plain(name)
        for name in "BertPreTokenizer UnicodeScripts Whitespace WhitespaceSplit".split()
    },
}
CUTTING_PRE_TOKENIZERS = st.one_of(*CUTTERS_BY_NAME.values())
METASPACES = st.builds(
    lambda replacement, scheme, split: {
        "type": "Metaspace",
        "replacement": replacement,
        "prepend_scheme": scheme,
        "split": split,
    },
    st.sampled_from("▁_é"),
    st.sampled_from(["always", "first", "never"]),
    st.booleans(),
)
PRE_TOKENIZERS_BY_NAME = {
    **CUTTERS_BY_NAME,
    "ByteLevel": BYTE_LEVEL_PRE_TOKENIZERS,
    "Metaspace": METASPACES,
}
PRE_TOKENIZERS_BY_NAME["Sequence"] = lists_of(
    st.one_of(*PRE_TOKENIZERS_BY_NAME.values()), "pretokenizers"
)
PRE_TOKENIZERS = st.one_of(*PRE_TOKENIZERS_BY_NAME.values())

CHARSMAP_TEXTS = st.sampled_from(
    "a,ab,e,e\u0301,\u0301,\r,\r\n,\n,\xa9,\u2122,ﬁ, ,ｆ,㌀,\u1100,\u1161,각,ष,\u094d,क,\u0600,😀,"
    "\u200d,é,▁".split(",")
)


def charsmaps() -> st.SearchStrategy[Json]:
    """Precompiled normalizers with a few rules."""
    replacements = st.sampled_from(["", "x", "xy", "é", "\u0301", " ", "1\u20444", "😀"])
    rules = st.dictionaries(CHARSMAP_TEXTS, replacements, max_size=9)
    return rules.map(
        lambda rules: {
            "type": "Precompiled",
            "precompiled_charsmap": precompiled_charsmap(rules),
        }
    )


CONTENTS = st.sampled_from(["", " ", "▁", "x", "xyz", "\\1$1", "é", "👍"])
NORMALIZERS_BY_NAME = {
    "BertNormalizer": component(
        "BertNormalizer",
        clean_text=st.booleans(),
        handle_chinese_chars=st.booleans(),
        strip_accents=st.sampled_from([None, True, False]),
        lowercase=st.booleans(),
    ),
    "Strip": component("Strip", strip_left=st.booleans(), strip_right=st.booleans()),
    "Replace": component("Replace", pattern=PATTERN_SPECS, content=CONTENTS),
    # Behind an empty one the reference's other normalizers panic.
    "Prepend": component("Prepend", prepend=CONTENTS.filter(bool)),
    "Precompiled": charsmaps(),
    **{
        name: plain(name)
        for name in "ByteLevel Lowercase NFC NFD NFKC NFKD Nmt StripAccents".split()
    },
}
NORMALIZERS_BY_NAME["Sequence"] = lists_of(st.one_of(*NORMALIZERS_BY_NAME.values()), "normalizers")
NORMALIZERS = st.one_of(*NORMALIZERS_BY_NAME.values())

DECODERS_BY_NAME = {
    "BPEDecoder": component("BPEDecoder", suffix=st.sampled_from(["</w>", "", "a"])),
    "CTC": component(
        "CTC",
        pad_token=st.sampled_from(["<pad>", "a"]),
        word_delimiter_token=st.sampled_from(["|", " ", "▁"]),
        cleanup=st.booleans(),
    ),
    "Metaspace": METASPACES,
    "Replace": component("Replace", pattern=PATTERN_SPECS, content=CONTENTS),
    # Of what is stripped whole at both ends the reference takes a slice that panics.
    "Strip": component(
        "Strip", content=st.sampled_from(" a▁"), start=st.integers(0, 3), stop=st.just(0)
    ),
    "WordPiece": component(
        "WordPiece", prefix=st.sampled_from(["##", "", "a"]), cleanup=st.booleans()
    ),
    "ByteLevel": st.just(byte_level()),
    "ByteFallback": plain("ByteFallback"),
    "Fuse": plain("Fuse"),
}
DECODERS_BY_NAME["Sequence"] = lists_of(st.one_of(*DECODERS_BY_NAME.values()), "decoders")
DECODERS = st.one_of(*DECODERS_BY_NAME.values())
