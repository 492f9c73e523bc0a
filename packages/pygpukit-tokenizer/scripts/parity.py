"""Compare with Hugging Face tokenizers on real files and write ``docs/tokenizer-parity.md``.

Neither the tokenizer files nor the texts are part of the project: ``--tokenizers`` names a folder
with a folder for each model (``tokenizer.json``, perhaps ``.xz``), ``--corpora`` one of text files,
``--cases`` a JSON file of texts with the ids that are right for them. Needs the PyPI package
``tokenizers`` and the packages of the tests.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
PAGE = PACKAGE.parents[1] / "docs/tokenizer-parity.md"
sys.path.insert(0, str(PACKAGE / "tests/support"))

import real_files  # noqa: E402
from oracle import Both, tokenizers  # noqa: E402

INTRODUCTION = """\
# Parity of the tokenizer

Written by `packages/pygpukit-tokenizer/scripts/parity.py`; not to be edited.

What `pygpukit.tokenizer` gives, compared with Hugging Face tokenizers {version} on the files of
{models} models. A cell says how many comparisons differed, out of how many.

- *texts*: random strings of awkward Unicode, tokens and words. Compared are ids, tokens, offsets,
  word ids, type ids, both masks and sequence ids of `encode`; the ids of `encode_ids`; what the ids
  decode to with and without special tokens, at once and as a stream.
- *ids*: random lists of ids, some without a token, decoded in the same four ways.
- *saved*: the vocabulary, and the file as it is saved again.
- *reported*: texts that users reported to be wrong in one engine or another, and their right ids.
- the others are whole texts: ids and offsets of `encode`, the ids of `encode_ids`, and the decoded
  text.
{corpora}
"""

RANDOM = """
## Tokenizers put together at random

`nox -s nightly` puts tokenizers together at random, of every component with all its options, and
compares them on random texts: 20,000 new examples for each test. Run to the end in November 2026,
without a difference:

- whole byte-level tokenizers: normalizer, pre-tokenizers, merges, post-processor, added tokens; and
  what any ids decode to, at once and as a stream;
- byte-level merges in any order of letters that share bytes, merged from characters; merges by
  score, as a GGUF file has them;
- each normalizer, pre-tokenizer, model, post-processor and decoder, and sequences of them; Strip at
  both ends; Unigram by parts;
- normalizers with added tokens; pre-tokenizers behind normalizers, with added tokens; models behind
  pre-tokenizers, with decoders and added tokens;
- regular expressions, against Oniguruma itself. What isn't translated exactly is refused:
  look-behinds of variable length, back references, \\K, \\G, \\X, calls, conditionals, absent
  operators, and counted repetitions whose turns may be empty, where Oniguruma leaves them or not by
  the length of its program.
"""


def differs(check: Callable[[], None]) -> bool:
    """Whether a comparison fails, or even raises."""
    try:
        check()
    except Exception:
        return True
    return False


def ratio(checks: Iterable[Callable[[], None]]) -> str:
    """How many checks failed, out of how many."""
    outcomes = [differs(check) for check in checks]
    return f"{sum(outcomes)} / {len(outcomes):,}" if outcomes else "–"


def row(
    model: str, path: Path, texts: int, corpora: dict[str, str], cases: list[dict[str, Any]]
) -> list[str]:
    """The cells of one model."""
    both = Both.from_source(real_files.read(path))
    tokenizer = both.tokenizer
    cells = [
        ratio(
            lambda i=i, text=text: both.check(text, add_special_tokens=i % 2 == 0)
            for i, text in enumerate(real_files.random_texts(tokenizer, model, texts))
        ),
        ratio(
            lambda ids=ids: both.check_decoding(ids)
            for ids in real_files.random_ids(tokenizer, model, texts)
        ),
        ratio([lambda: real_files.check_vocabulary(both)]),
        ratio(
            lambda case=case: real_files.check_case(tokenizer, case)
            for case in cases
            if case["file"] == model
        ),
    ]
    for text in corpora.values():
        cells.append(ratio([lambda text=text: real_files.check_corpus(both, text)]))
    return [model, tokenizer.to_dict()["model"].get("type", "untyped"), *cells]


def main() -> None:
    """Compare, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizers", type=Path, required=True)
    parser.add_argument("--corpora", type=Path)
    parser.add_argument("--cases", type=Path)
    parser.add_argument("--texts", type=int, default=3000, help="random strings for each model")
    parser.add_argument("--only", nargs="*", help="names of models; the page isn't written then")
    options = parser.parse_args()
    files = real_files.tokenizer_files(options.tokenizers)
    corpora = {n: real_files.read(p) for n, p in real_files.corpora(options.corpora).items()}
    cases = real_files.load_cases(options.cases)
    header = ["model", "kind", "texts", "ids", "saved", "reported", *corpora]
    rows = []
    for model in options.only or files:
        rows.append(row(model, files[model], options.texts, corpora, cases))
        print(*rows[-1], sep="\t", flush=True)
    if options.only:
        return
    sizes = "".join(f"  *{n}* has {len(t.encode()):,} bytes.\n" for n, t in corpora.items())
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    introduction = INTRODUCTION.format(
        version=tokenizers.__version__, models=len(rows), corpora=sizes
    )
    PAGE.write_text(f"{introduction}\n{table}\n{RANDOM}", encoding="utf-8")


if __name__ == "__main__":
    main()
