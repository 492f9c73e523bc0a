"""Splits fused into one pattern, against the same one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import strategies as our
from expressions import EXPRESSIONS
from hypothesis import assume, given
from hypothesis import strategies as st

from pygpukit.tokenizer import TokenizerLoadError
from pygpukit.tokenizer.onig import pattern as pattern_module
from pygpukit.tokenizer.pre_tokenizers import build_pre_tokenizer, flattened
from pygpukit.tokenizer.pre_tokenizers.fusing import fused
from pygpukit.tokenizer.spec import Spec


def split(regex: str, behavior: str = "Isolated") -> dict[str, Any]:
    pattern = {"Regex": regex}
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}


DIGITS = [{"type": "Digits", "individual_digits": flag} for flag in (False, True)]
CLASSES = r"\p{N}{1,3} [一-龥぀-ゟ゠-ヿ]+ \s+ [a-e]{1,2} \p{Lu} [é👍]++ \p{P}".split()
BEHAVIORS = st.sampled_from(["Isolated", "Contiguous"])
ISOLATING = (
    st.sampled_from(DIGITS)
    | st.builds(split, st.sampled_from(CLASSES), BEHAVIORS)
    | BEHAVIORS.map(lambda behavior: {"type": "Punctuation", "behavior": behavior})
)
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def check(specs: list[dict[str, Any]], texts: list[str]) -> bool:
    """Compare one text, and all of them; False where the steps can't be fused."""
    steps = flattened(build_pre_tokenizer(Spec("", {"type": "Sequence", "pretokenizers": specs})))
    count, together = fused(steps)
    if together is None:
        return False
    assert count == len(steps)
    texts = list(filter(None, texts))
    for pieces in ([[text] for text in texts], [texts] if texts else []):
        for each in pieces:
            expected = each
            for step in steps:
                expected = step.split(expected)
            assert together(each) == expected
    return True


@pytest.mark.parametrize("long_text", [0, 1 << 20], ids=["long", "short"])
@given(
    st.lists(ISOLATING, min_size=1, max_size=3),
    EXPRESSIONS | our.PATTERNS | st.just(DEEPSEEK),
    st.lists(our.texts(), min_size=1, max_size=4),
)
def test_random_steps(
    long_text: int, isolating: list[dict[str, Any]], last: str, texts: list[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pattern_module, "_LONG_TEXT", long_text)
        try:
            assume(check([*isolating, split(last)], texts))
        except TokenizerLoadError:
            assume(False)


@pytest.mark.parametrize(
    ("isolating", "last"),
    [
        ([split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+")], DEEPSEEK),
        ([DIGITS[1]], r" ?\p{L}+| ?\p{N}+|\s+(?!\S)|\s+"),
        # What no match begins with, also beside isolated characters; the ends of the text.
        ([DIGITS[0]], r"b+$|^a|\Bx"),
        # A pattern that cuts within the runs.
        ([split("[a-c]+")], "ab?|cd|d+(?=c)|d+(?!e)"),
    ],
)
def test_steps_that_can_be_fused(isolating: list[dict[str, Any]], last: str) -> None:
    texts = ["a12345 bb b\n\n漢字・ガ３a1x\x00\u200b x", "aabcdcddeabcac", "1", "abb", "x漢y  "]
    assert check([*isolating, split(last)], texts)


@pytest.mark.parametrize(
    ("isolating", "last"),
    [
        # It would have to be cut after three characters first, and then by the pattern.
        ([split(r"\p{N}{1,3}")], r"\p{N}{2}"),
        # The second one cuts what the first one isolates.
        ([split(r"\s+"), split(r"\p{Zs}")], "a"),
        ([DIGITS[0]], "a*"),
        ([], "a"),
    ],
)
def test_steps_that_can_not_be_fused(isolating: list[dict[str, Any]], last: str) -> None:
    assert not check([*isolating, split(last)], ["a"])
