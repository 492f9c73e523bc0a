"""The generated tables, against the reference.

The nightly profile asks for every code point there is, the default one for those where a category
begins or ends in the interpreter's Unicode, and for every 64th.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import settings
from oracle import tokenizers

from pygpukit.tokenizer.normalizers import build_normalizer
from pygpukit.tokenizer.onig.nodes import Chars
from pygpukit.tokenizer.onig.parser import parse
from pygpukit.tokenizer.pre_tokenizers import build_pre_tokenizer
from pygpukit.tokenizer.spec import Spec
from pygpukit.tokenizer.unicode import sets
from pygpukit.tokenizer.unicode.properties import UNICODE


def characters() -> Iterator[str]:
    """The characters to ask for, in order."""
    everything = settings.get_current_profile_name() == "nightly"
    valid = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    categories = ["", *map(unicodedata.category, valid), ""]
    for i, char in enumerate(valid):
        if everything or i % 64 == 0 or len(set(categories[i : i + 3])) > 1:
            yield char


CHARACTERS = list(characters())
EVERYTHING = "".join(CHARACTERS)
CATEGORIES = (
    "L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Zl Zp "
    "C Cc Cf Co Cn LC"
).split()
BRACKETS = "alnum alpha ascii blank cntrl digit graph lower print punct space upper word xdigit"
OTHERS = r"\w \d \s \h [\w] [\d\s] \p{Any} \p{Assigned} \p{White_Space} \p{Han} \p{Latin} [^\W\d]"


@pytest.mark.parametrize(
    "source",
    [rf"\p{{{name}}}" for name in CATEGORIES]
    + [f"[[:{name}:]]" for name in BRACKETS.split()]
    + OTHERS.split(),
)
def test_properties(source: str) -> None:
    split = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(f"(?:{source})+"), "removed", invert=True
    )
    node = parse(source, UNICODE)
    assert isinstance(node, Chars)
    members = [c for c in CHARACTERS if sets.contains(node.points, ord(c))]
    assert members == [c for piece, _ in split.pre_tokenize_str(EVERYTHING) for c in piece]


@pytest.mark.parametrize(
    ("spec", "reference"),
    [
        (
            {"type": "Digits", "individual_digits": False},
            lambda: tokenizers.pre_tokenizers.Digits(False),
        ),
        (
            {"type": "Punctuation", "behavior": "Contiguous"},
            lambda: tokenizers.pre_tokenizers.Punctuation("contiguous"),
        ),
    ],
    ids=["Digits", "Punctuation"],
)
def test_character_classes_of_rust(spec: dict[str, object], reference: object) -> None:
    cut = build_pre_tokenizer(Spec("", spec)).split([EVERYTHING])
    expected = reference().pre_tokenize_str(EVERYTHING)  # type: ignore[operator]
    assert cut == [piece for piece, _ in expected]


@pytest.mark.parametrize("name", ["NFC"])
def test_normal_forms(name: str) -> None:
    normalizer = build_normalizer(Spec("", {"type": name}))
    reference = getattr(tokenizers.normalizers, name)()
    assert normalizer.normalize("x".join(CHARACTERS)) == reference.normalize_str(
        "x".join(CHARACTERS)
    )
    # Marks behind each character tell how characters compose and reorder; ideographs don't.
    others = [c for c in CHARACTERS if not "\u3400" <= c < "\ua000" and c < "\U0001f000"]
    for marks in ("\u0301", "\u0323\u0345\u0300"):
        text = marks.join(others)
        assert normalizer.normalize(text) == reference.normalize_str(text)
