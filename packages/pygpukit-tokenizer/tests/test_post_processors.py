"""Every post-processor, against the reference."""

from __future__ import annotations

from typing import Any

import pytest
import strategies as our
from files import byte_level, file
from hypothesis import given
from hypothesis import strategies as st
from oracle import Both

from pygpukit.tokenizer import Tokenizer, TokenizerLoadError
from pygpukit.tokenizer.post_processors import POST_PROCESSORS

TYPE_IDS = st.integers(0, 3)
SPECIALS = {
    "<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]},
    "</s>": {"id": "</s>", "ids": [2, 3], "tokens": ["</s>", "</t>"]},
    "": {"id": "", "ids": [], "tokens": []},
}


def sequence(id: str) -> st.SearchStrategy[Any]:
    return TYPE_IDS.map(lambda type_id: {"Sequence": {"id": id, "type_id": type_id}})


SPECIAL = st.builds(
    lambda id, type_id: {"SpecialToken": {"id": id, "type_id": type_id}},
    st.sampled_from(sorted(SPECIALS)),
    TYPE_IDS,
)


def template(single: list[Any], pair: list[Any]) -> dict[str, Any]:
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": SPECIALS,
    }


# A template for two without one of them is refused by the reference's builder, not by its reader.
TEMPLATES = st.builds(
    template,
    st.lists(SPECIAL | sequence("A"), max_size=4),
    st.lists(SPECIAL | sequence("A") | sequence("B"), max_size=6).filter(
        lambda pieces: {p["Sequence"]["id"] for p in pieces if "Sequence" in p} == {"A", "B"}
    ),
)
FLAGS = {"trim_offsets": st.booleans(), "add_prefix_space": st.booleans()}
SEP_AND_CLS = {"sep": st.just(["[SEP]", 102]), "cls": st.just(["[CLS]", 101])}
BY_NAME = {
    "BertProcessing": our.component("BertProcessing", **SEP_AND_CLS),
    "ByteLevel": st.builds(byte_level, **FLAGS),
    "RobertaProcessing": our.component("RobertaProcessing", **SEP_AND_CLS, **FLAGS),
    "TemplateProcessing": TEMPLATES,
}
BY_NAME["Sequence"] = our.lists_of(st.one_of(*BY_NAME.values()), "processors")


@pytest.mark.parametrize("name", sorted(POST_PROCESSORS))
@given(st.data())
def test_each(name: str, data: st.DataObject) -> None:
    post_processor = data.draw(BY_NAME[name])
    prefix = data.draw(st.booleans())
    both = Both.load(
        file(pre_tokenizer=byte_level(add_prefix_space=prefix), post_processor=post_processor)
    )
    if both is None:
        return
    special = data.draw(st.booleans())
    # Each also with the one before it: drawing texts takes longer than all else.
    texts = data.draw(st.lists(our.texts(), min_size=1, max_size=4))
    for text, other in zip(texts, [texts[-1], *texts], strict=False):
        both.check(text, add_special_tokens=special)
        both.check(text, other, add_special_tokens=special)


def test_the_fast_path_keeps_to_the_template() -> None:
    pieces = [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "</s>", "type_id": 0}},
    ]
    tokenizer = Tokenizer.from_dict(file(post_processor=template(pieces, [])))
    inner = tokenizer.encode_ids("a", add_special_tokens=False)
    assert tokenizer.encode_ids("a") == [1, *inner, 2, 3]
    twice = [pieces[1], *pieces[1:]]
    tokenizer = Tokenizer.from_dict(file(post_processor=template(twice, [])))
    assert tokenizer.encode_ids("a") == [*inner, *inner, 2, 3]


@pytest.mark.parametrize("sep", [None, ["[SEP]"], ["[SEP]", "102"], [102, "[SEP]"]])
def test_wrong_fields(sep: Any) -> None:
    post_processor = {"type": "BertProcessing", "sep": sep, "cls": ["[CLS]", 101]}
    with pytest.raises(TokenizerLoadError, match=r"post_processor.sep: expected \[token, id\]"):
        Tokenizer.from_dict(file(post_processor=post_processor))
