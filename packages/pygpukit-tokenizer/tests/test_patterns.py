"""Oniguruma patterns: their translation, against Oniguruma itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, chain, pairwise
from operator import add

import pytest
import strategies as our
from expressions import EXPRESSIONS
from hypothesis import assume, given
from hypothesis import strategies as st
from oracle import PANIC, attempt, tokenizers
from tokenizers.pre_tokenizers import Split

from pygpukit.tokenizer.errors import PatternError
from pygpukit.tokenizer.onig import Pattern
from pygpukit.tokenizer.onig import pattern as pattern_module

FOLDS = ["ss", "SS", "ß", "ẞ", "ſs", "s", "st", "ﬆ", "ſt", "ffi", "ﬃ", "ﬀ", "ff", "i", "f", "t"]


def reference_pieces(source: str, text: str, *, matches: bool) -> list[tuple[str, tuple[int, int]]]:
    """What Oniguruma's matches cut the text into, or only the matches."""
    pattern = tokenizers.Regex(source)
    split = Split(pattern, "removed", invert=True) if matches else Split(pattern, "isolated")
    pieces: list[tuple[str, tuple[int, int]]] = split.pre_tokenize_str(text)
    return pieces


def spans_as_pieces(text: str, spans: list[tuple[int, int]]) -> list[tuple[str, tuple[int, int]]]:
    return [(text[start:end], (start, end)) for start, end in spans if start < end]


@pytest.fixture(autouse=True, scope="module", params=[0, 1 << 20], ids=["long", "short"])
def _long_text(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both ways of matching on texts that aren't ASCII."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pattern_module, "_LONG_TEXT", request.param)
        yield


@given(EXPRESSIONS | our.PATTERNS, st.lists(our.texts(FOLDS), min_size=1, max_size=5))
def test_random_patterns(source: str, texts: list[str]) -> None:
    try:
        tokenizers.Regex(source)
    except Exception:
        with pytest.raises(PatternError):
            Pattern.from_source(source)
        return
    try:
        pattern = Pattern.from_source(source)
    except PatternError as error:
        # What isn't valid was settled above: these are the refusals that the package documents.
        assume("not supported" not in str(error))
        raise
    for text in texts:
        if attempt(lambda text=text: reference_pieces(source, text, matches=True)) is PANIC:
            # Oniguruma gives up where matching takes too many steps.
            continue
        spans = pattern.spans(text)
        assert spans_as_pieces(text, spans) == reference_pieces(source, text, matches=True)
        cuts = sorted({0, len(text), *(position for span in spans for position in span)})
        pieces = spans_as_pieces(text, list(pairwise(cuts)))
        assert pieces == reference_pieces(source, text, matches=False)
    check_many(pattern, texts)


def check_many(pattern: Pattern, texts: list[str]) -> None:
    """Texts matched as one must give what they give one by one."""
    spans = [[span for span in pattern.spans(text) if span[0] < span[1]] for text in texts]
    matches = [text[a:b] for text, found in zip(texts, spans, strict=True) for a, b in found]
    assert pattern.matches(texts) == matches
    for text, found in zip(texts, spans, strict=True):
        words, gaps = pattern.located_matches(text)
        assert words == [text[a:b] for a, b in found]
        starts = accumulate(map(add, gaps, [0, *map(len, words)]))
        assert list(starts) == [start for start, _ in found]
    pieces = pattern.isolated(texts)
    if pieces is not None:
        each = [pattern.isolated([text]) or [] for text in texts]
        assert pieces == list(chain.from_iterable(each))


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("(?i:'s)", "it'ſ", ["'ſ"]),
        ("(?i)class", "class claß CLAẞ claſs", ["class", "claß", "CLAẞ", "claſs"]),
        ("(?i)sss", "sss ßs sß", ["sss", "ßs"]),
        ("(?i)s(?:s)", "ss ß", ["ss", "ß"]),
        ("(?i)(s)s", "ss ß", ["ss"]),
        ("(?i)ffi", "ffi ﬃ ﬀi fﬁ", ["ffi", "ﬃ"]),
        ("(?i)xßy", "XSSY xẞy xſsy xsy", ["XSSY", "xẞy", "xſsy"]),
        ("(?<=(?i)ss)a", "ssa ßa", ["a"]),
        ("a{1,3}+b", "aaab", ["aaab"]),
        ("(?:ab?c)++", "a acabca", ["acabc"]),
        ("(?:(?!C).)++", "ABC", ["AB"]),
        ("a{2}?", "aaa", ["aa"]),
        ("^b", "a\nb", ["b"]),
        ("a$", "a\nb", ["a"]),
        ("(?m)a.b", "a\nb", ["a\nb"]),
        (r"\h+", "xyzBEEF1g", ["BEEF1"]),
        (r"[a-z&&[^aeiou]]+", "hello", ["h", "ll"]),
        (r"\w", "²³¹¼½¾", list("²³¹¼½¾")),
        (r"[\w]", "²³¹¼½¾", []),
        (r"\s", "\x1c\x85\u180e\u200b\u3000", ["\x85", "\u3000"]),
    ],
)
def test_what_means_something_else_in_python(source: str, text: str, expected: list[str]) -> None:
    assert Pattern.from_source(source).matches([text]) == expected
    assert [piece for piece, _ in reference_pieces(source, text, matches=True)] == expected


@pytest.mark.parametrize("source", ["(", "a)", "[a", "*a", "(?<n", r"\p{Nonsense}", "a**", "(?s)a"])
def test_invalid_or_unsupported(source: str) -> None:
    try:
        tokenizers.Regex(source)
    except Exception:
        with pytest.raises(PatternError):
            Pattern.from_source(source)
    else:
        Pattern.from_source(source)


@pytest.mark.parametrize("source", [r"(\W|^){2}", "(|a){1,3}", "(?:a*+){2,}", r"(?:a?\b){3}$"])
def test_turns_that_may_be_empty_are_not_counted(source: str) -> None:
    """Oniguruma leaves such a repetition after an empty turn, or doesn't, by its body's size."""
    tokenizers.Regex(source)
    with pytest.raises(PatternError, match="of something that may be empty is not supported"):
        Pattern.from_source(source)


@pytest.mark.parametrize("source", ["(?:a?){2}", "(?:a*b?){2,3}b", r"(a|\b){1,3}", "(|a)+b"])
@pytest.mark.parametrize("text", ["", "a", "ab", "b a", "aaab"])
def test_turns_that_end_alike_either_way(source: str, text: str) -> None:
    spans = Pattern.from_source(source).spans(text)
    assert spans_as_pieces(text, spans) == reference_pieces(source, text, matches=True)
