"""Threads, pathological texts, and what must not grow without end."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from corpus import CORPUS, PIECES
from files import bpe, byte_level, file

from pygpukit.tokenizer import Tokenizer

MEGABYTE = 1_000_000


def test_threads_share_a_tokenizer() -> None:
    texts = [*PIECES, *CORPUS.splitlines()] * 3
    expected = [Tokenizer.from_dict(file()).encode(text).ids for text in texts]
    shared = Tokenizer.from_dict(file())
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(shared.encode_ids, texts)) == expected
        assert [e.ids for e in pool.map(shared.encode, texts)] == expected
        decoded = list(pool.map(shared.decode, expected))
    assert decoded == [shared.decode(ids) for ids in expected]


IN_A_BROWSER = """
import json, sys, threading

class Missing:
    def find_spec(self, name, path=None, target=None):
        # What Pyodide leaves out, or has without it working.
        if name.partition(".")[0] in {
            "curses", "dbm", "fcntl", "grp", "lzma", "multiprocessing", "pwd", "resource",
            "socket", "sqlite3", "ssl", "subprocess", "syslog", "termios", "tkinter", "venv",
        }:
            raise ModuleNotFoundError(name)

def start(thread):
    raise RuntimeError("can't start new thread")

sys.meta_path.insert(0, Missing())
threading.Thread.start = start
from pygpukit.tokenizer import Tokenizer

tokenizer = Tokenizer.from_file(sys.argv[1])
texts = json.loads(sys.argv[2])
stream = tokenizer.decode_stream()
encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
pieces = [*map(stream.step, encoded[0]), stream.flush()]
print(json.dumps([encoded, tokenizer.decode_batch(encoded), "".join(pieces)]))
"""


def test_where_there_are_no_threads_sockets_or_processes(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_dict(file())
    tokenizer.save(tmp_path / "tokenizer.json")
    texts = list(PIECES)
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    command = [sys.executable, "-c", IN_A_BROWSER, str(tmp_path / "tokenizer.json")]
    done = subprocess.run(
        [*command, json.dumps(texts)], check=True, capture_output=True, text=True, encoding="utf-8"
    )
    decoded = tokenizer.decode_batch(encoded)
    assert json.loads(done.stdout) == [encoded, decoded, decoded[0]]


@pytest.mark.parametrize(
    "unit", ["a", " ", "\n", "^", "1", "é", "漢", "\u0301", "ab", "😀", " a\n"]
)
@pytest.mark.parametrize("use_regex", [True, False])
def test_runs_of_one_thing_take_linear_time(unit: str, use_regex: bool) -> None:
    data = file(pre_tokenizer=byte_level(use_regex=use_regex), normalizer={"type": "NFC"})
    tokenizer = Tokenizer.from_dict(data)

    def seconds(length: int) -> float:
        text = unit * (length // len(unit.encode()))
        start = time.perf_counter()
        ids = tokenizer.encode_ids(text)
        spent = time.perf_counter() - start
        assert tokenizer.decode(ids) == text
        return spent

    seconds(MEGABYTE // 64)
    # Linear time grows 16-fold, quadratic 256-fold.
    assert seconds(MEGABYTE // 2) < 70 * (seconds(MEGABYTE // 32) + 0.001)


UNSPLIT_MODELS = {
    "BPE": bpe(
        {t: i for i, t in enumerate(["<unk>", "▁", "a", ",", "aa", "▁a", "▁▁", "aaaa"])},
        [["a", "a"], ["▁", "▁"], ["aa", "aa"], ["▁", "a"]],
        unk_token="<unk>",
        fuse_unk=True,
    ),
    "Unigram": {
        "type": "Unigram",
        "vocab": [["<unk>", 0.0], ["a", -2.0], ["aa", -3.0], [",", -2.0], ["▁", -1.5]],
        "unk_id": 0,
    },
    "WordPiece": {
        "type": "WordPiece",
        "vocab": {"[UNK]": 0, "a": 1, "##a": 2},
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": MEGABYTE,
    },
}


@pytest.mark.parametrize("unit", ["a", "▁", "é", "—", ",", "a,", "—,", "▁a", "😀"])
@pytest.mark.parametrize("model", UNSPLIT_MODELS)
def test_words_without_end_take_linear_time(model: str, unit: str) -> None:
    tokenizer = Tokenizer.from_dict(file(UNSPLIT_MODELS[model]))
    tokenizer.encode_ids("a, " * 1000)

    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        start = time.perf_counter()
        tokenizer.decode(tokenizer.encode_ids(text))
        return time.perf_counter() - start

    assert seconds(MEGABYTE // 8) < 70 * (seconds(MEGABYTE // 128) + 0.001)


def test_decoding_remembers_no_long_texts() -> None:
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    fuse = {"type": "Fuse"}
    decoder = {"type": "Sequence", "decoders": [fuse, strip, byte_level(), fuse]}
    tokenizer = Tokenizer.from_dict(file(decoder=decoder))
    ids = tokenizer.encode_ids(" a" * 100_000)
    tracemalloc.start()
    for end in range(len(ids) - 20, len(ids)):
        tokenizer.decode(ids[:end])
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < MEGABYTE


def test_lone_surrogates_are_an_error_and_not_a_wrong_token() -> None:
    with pytest.raises(UnicodeEncodeError):
        Tokenizer.from_dict(file()).encode_ids("a\ud800")


@pytest.mark.parametrize("method", ["encode", "encode_ids"])
def test_encoding_leaves_garbage_collection_as_it_was(method: str) -> None:
    encode = getattr(Tokenizer.from_dict(file()), method)
    long = "a b" * 10_000
    encode(long)
    assert gc.isenabled()
    with pytest.raises(UnicodeEncodeError):
        encode(long + "\ud800")
    assert gc.isenabled()
    gc.disable()
    try:
        encode(long)
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("method", ["encode", "encode_ids"])
def test_what_the_program_froze_stays_so(method: str) -> None:
    encode = getattr(Tokenizer.from_dict(file()), method)
    long = "a b" * 10_000
    encode(long)
    assert not gc.get_freeze_count()
    gc.freeze()
    try:
        encode(long)
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()


def test_empty_text() -> None:
    tokenizer = Tokenizer.from_dict(file())
    assert tokenizer.encode_ids("") == []
    assert len(tokenizer.encode("")) == 0
    assert tokenizer.decode([]) == ""
    assert tokenizer.encode_batch([]) == []
