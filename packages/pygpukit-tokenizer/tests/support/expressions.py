"""Random regular expressions."""

from __future__ import annotations

from hypothesis import strategies as st

CLASSES = st.sampled_from(
    r"\w \W \d \D \s \S \h \H \N . \p{L} \p{Lu} \P{N} \p{^Han} \p{Greek} \p{M} \p{P} \p{S} \p{Zs} "
    r"\p{Alpha} [a-cé] [^a-z] [[:alpha:]1] [^[:space:]] [\w&&[^a-m]] [\s\d] [a[bc]-] []a] [\]\-] "
    r"[^\s\p{L}\p{N}] [aß-] [ﬀﬃ] [一-龥] [\x{1F600}-\x{1F64F}] [^\r\n]".split()
)
LITERALS = st.sampled_from(
    [*"abcseST12 -_'.", "é", "ß", "ſ", "ss", "st", "ffi", "ﬃ", "漢", "\\n", "\\.", "\\t", "\\x41"]
)
ANCHORS = st.sampled_from(["^", "$", r"\b", r"\B", r"\A", r"\z", r"\Z", r"\R"])
LOOKS = st.sampled_from(["(?=", "(?!", "(?<=", "(?<!"])
GROUPS = st.sampled_from(["(", "(?:", "(?>", "(?i:", "(?m:", "(?-i:", "(?<n>"])
QUANTIFIERS = st.sampled_from(
    ["", "", "", *"* + ? *? +? ?? *+ ++ ?+ {2} {1,3} {2,} {,2} {1,2}+ {2}? {1,3}?".split()]
)


def extended(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Bigger patterns out of smaller ones."""
    quantified = st.builds("{}{}".format, st.builds("({})".format, inner), QUANTIFIERS)
    joined = st.lists(inner, min_size=1, max_size=3).map("".join)
    choice = st.lists(inner, min_size=2, max_size=3).map("|".join)
    grouped = st.builds("{}{}){}".format, GROUPS, inner | choice, QUANTIFIERS)
    look = st.builds("{}{})".format, LOOKS, CLASSES | LITERALS)
    return quantified | joined | choice | grouped | look


ATOMS = st.builds("{}{}".format, CLASSES | LITERALS, QUANTIFIERS) | ANCHORS
EXPRESSIONS = st.recursive(ATOMS, extended, max_leaves=5)
