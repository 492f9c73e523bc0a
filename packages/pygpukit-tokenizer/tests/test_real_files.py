"""Tokenizers of real models, against the reference.

They aren't part of the package. ``PYGPUKIT_TOKENIZERS`` names a folder that has one for each model,
with a ``tokenizer.json`` or ``tokenizer.json.xz`` in it; ``PYGPUKIT_CORPORA`` may name one of text
files (``*.txt`` or ``*.txt.xz``), and ``PYGPUKIT_TOKENIZER_CASES`` a JSON file of texts with their
right ids, to compare on as well.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import pytest
import real_files
from oracle import Both

TEXTS = int(os.environ.get("PYGPUKIT_TOKENIZER_TEXTS", "200"))
FILES = real_files.tokenizer_files(os.environ.get("PYGPUKIT_TOKENIZERS"))
CORPORA = real_files.corpora(os.environ.get("PYGPUKIT_CORPORA"))
CASES = real_files.load_cases(os.environ.get("PYGPUKIT_TOKENIZER_CASES"))
pytestmark = pytest.mark.skipif(not FILES, reason="PYGPUKIT_TOKENIZERS names no real tokenizers")


@cache
def both(model: str) -> Both:
    return Both.from_source(real_files.read(FILES[model]))


@pytest.mark.parametrize("model", FILES)
def test_random_texts(model: str) -> None:
    tokenizer = both(model).tokenizer
    for number, text in enumerate(real_files.random_texts(tokenizer, model, TEXTS)):
        both(model).check(text, add_special_tokens=number % 2 == 0)
    for ids in real_files.random_ids(tokenizer, model, TEXTS):
        both(model).check_decoding(ids)


@pytest.mark.parametrize("model", FILES)
def test_vocabulary_and_saving(model: str) -> None:
    real_files.check_vocabulary(both(model))


@pytest.mark.parametrize("model", FILES)
@pytest.mark.parametrize("corpus", CORPORA)
def test_corpora(model: str, corpus: str) -> None:
    real_files.check_corpus(Both.from_source(real_files.read(FILES[model])), read_corpus(corpus))


@cache
def read_corpus(name: str) -> str:
    return real_files.read(CORPORA[name])


@pytest.mark.parametrize("case", CASES, ids=[f"{c['file']}-{c['tag']}" for c in CASES])
def test_reported_cases(case: dict[str, Any]) -> None:
    real_files.check_case(both(case["file"]).tokenizer, case)
