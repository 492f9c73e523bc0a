"""Operations captured as a graph, some of them launched as one: the bits that they have alone."""

from __future__ import annotations

import numpy as np
import pytest
from pygpukit import kernels
from pygpukit.core import Tensor
from pygpukit.kernels import Norm
from reference import ints

pytestmark = [pytest.mark.gpu, pytest.mark.parametrize("device", ["cuda"], indirect=True)]

DTYPES = ["float16", "bfloat16"]
LARGE = pytest.mark.large


def assert_same_bits(actual: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(actual.numpy("float32"), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("inputs", [320, pytest.param(4160, marks=LARGE)])
@pytest.mark.parametrize(
    "rows",
    [1, 2, 8, 13, 32, 40, 64, 65, pytest.param(150, marks=LARGE), pytest.param(300, marks=LARGE)],
)
def test_products_of_what_is_normalised(device, put, normal, rows, inputs, kind, dtype):
    """Two in a row with a gated MLP between them, replayed with other inputs."""
    other = next(each for each in DTYPES if each != dtype)
    first = normal(rows, inputs, dtype=dtype)
    x = put(first, dtype)
    norms = [Norm(kind, put(normal(inputs)), put(normal(inputs) / 8), 1e-5, 1.0) for _ in "ab"]
    up = put(normal(2 * 520, inputs, dtype=dtype) / 64, dtype)
    down = put(normal(inputs, 520, dtype=dtype) / 64, dtype)
    last = put(normal(136, inputs, dtype=other) / 64, other)

    def step():
        h = kernels.linear(x, up, norm=norms[0], activation="silu", gated=True)
        kernels.linear(h, down, residual=x, out=x)
        return kernels.linear(x, last, norm=norms[1], dtype="float32")

    with device.controller.capture() as graph:
        y = step()
    for given in (first, first[::-1].copy(), first / 2):
        x.copy_(given)
        expected = step().numpy()
        hidden = x.numpy("float32")
        x.copy_(given)
        graph.replay()
        assert np.isfinite(expected).all()
        assert_same_bits(x, hidden)
        assert_same_bits(y, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "rotary", "interleaved", "page_size", "window"),
    [
        (8, 2, 64, 64, False, 256, 0),
        (6, 6, 64, 32, True, 16, 0),
        (8, 1, 128, 128, False, 64, 100),
        (4, 2, 80, 0, False, 32, 0),
        (20, 1, 64, 64, False, 64, 300),
        (4, 1, 256, 64, False, 64, 0),
    ],
)
def test_tokens_are_appended_and_attend(
    device,
    put,
    rng,
    normal,
    heads,
    kv_heads,
    dim,
    rotary,
    interleaved,
    page_size,
    window,
    normed,
    dtype,
):
    """Of sequences of their own; one without a page for it, and one that is none, harm no other."""
    lengths = [1, 2, 63, 64, 65, 128, 255, 256, 257, 300, 511, 700]
    count = len(lengths)
    columns = -(-max(lengths) // page_size)
    tables = rng.permutation(count * columns).reshape(count, columns)
    tables[9, (lengths[9] - 1) // page_size] = -1
    sequences = ints(range(count))
    sequences[3] = -1
    shape = (count * columns, kv_heads, page_size, dim)
    before = [normal(*shape, dtype=dtype) for _ in "kv"]
    caches = [put(each, dtype) for each in before]
    positions = ints([length - 1 for length in lengths])
    qkv = put(normal(count, (heads + 2 * kv_heads) * dim, dtype=dtype), dtype)
    angles = None
    if rotary:
        frequencies = (1e4 ** -(np.arange(0, rotary, 2) / rotary)).astype(np.float32)
        angles = kernels.rope_angles(put(positions), put(frequencies))
    norms = [Norm("rms", put(normal(dim)), None, 1e-5) if normed else None for _ in "qk"]
    where = [put(positions), put(sequences), put(ints(tables))]

    def step():
        q = kernels.append_kv(
            qkv,
            angles,
            *where,
            *caches,
            num_heads=heads,
            interleaved=interleaved,
            q_norm=norms[0],
            k_norm=norms[1],
        )
        y = kernels.attention(
            q, *caches, where[2], *where[:2], scale=dim**-0.5, window=window, alone=count
        )
        return q, y

    q, y = (each.numpy("float32") for each in step())
    expected = [cache.numpy("float32") for cache in caches]
    with device.controller.capture() as graph:
        captured_q, captured_y = step()
    for _ in range(2):
        for cache, content in zip(caches, before, strict=True):
            cache.copy_(content)
        graph.replay()
        there = [row for row in range(count) if row != 3]
        np.testing.assert_array_equal(captured_q.numpy("float32")[there], q[there])
        assert_same_bits(captured_y, y)
        for cache, content in zip(caches, expected, strict=True):
            assert_same_bits(cache, content)
    assert np.isnan(y).any(1).nonzero()[0].tolist() == [3, 9]


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_tokens_of_a_sequence_in_one_graph(device, put, rng, normal, dtype):
    """What is written within a graph, positions and the cache, is read there as it is then."""
    count, steps, heads, kv_heads, dim, length = 6, 5, 4, 2, 64, 320
    columns = length // 64
    tables = put(ints(rng.permutation(count * columns).reshape(count, columns)))
    caches = [put(normal(count * columns, kv_heads, 64, dim, dtype=dtype), dtype) for _ in "kv"]
    first = ints([0, 60, 127, 250, 254, 310])
    positions, sequences = put(first), put(ints(range(count)))
    ids, token_ids, history = (
        put(ints([7] * count)),
        put(ints([7] * count)),
        put(ints([[0]] * count)),
    )
    given = [
        put(normal(count, (heads + 2 * kv_heads) * dim, dtype=dtype), dtype) for _ in range(steps)
    ]
    frequencies = put((1e4 ** -(np.arange(0, dim, 2) / dim)).astype(np.float32))

    def step(qkv: Tensor) -> Tensor:
        angles = kernels.rope_angles(positions, frequencies)
        place = positions, sequences
        q = kernels.append_kv(qkv, angles, *place, tables, *caches, num_heads=heads)
        y = kernels.attention(q, *caches, tables, *place, scale=dim**-0.5, alone=count)
        kernels.advance(ids, token_ids, positions, history)
        return y

    before = [cache.numpy("float32") for cache in caches]
    expected = [step(qkv).numpy("float32") for qkv in given]
    after = [cache.numpy("float32") for cache in caches]
    with device.controller.capture() as graph:
        results = [step(qkv) for qkv in given]
    for _ in range(2):
        positions.copy_(first)
        for cache, content in zip(caches, before, strict=True):
            cache.copy_(content)
        graph.replay()
        for y, known in zip(results, expected, strict=True):
            assert_same_bits(y, known)
        for cache, content in zip(caches, after, strict=True):
            assert_same_bits(cache, content)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [300, 1001, 20_000])
@pytest.mark.parametrize("rows", [1, 2, 8, 13, 32, 40, 64, 65, 150, 256, 300])
def test_the_likeliest_of_what_a_product_makes(device, put, normal, rows, vocabulary, dtype):
    """Of equals the first, none where not all can be compared; replays know nothing of others."""
    given = normal(rows, 256, dtype=dtype)
    weight = normal(vocabulary, 256, dtype=dtype)
    weight[vocabulary // 2 :] = weight[: vocabulary - vocabulary // 2]
    x, weight = put(given, dtype), put(weight, dtype)

    def step():
        logits = kernels.linear(x, weight, dtype="float32", scale=1.25)
        return logits, kernels.argmax(logits)

    with device.controller.capture() as graph:
        _, ids = step()
    unsound = given[::-1].copy()
    unsound[rows // 2, 3] = np.nan
    unsound[rows - 1] = 0.0
    unsound[0, 7] = np.inf
    for values in (given, given / 8, unsound, -given):
        x.copy_(values)
        logits, expected = (each.numpy() for each in step())
        sound = np.isfinite(logits).all(1)
        np.testing.assert_array_equal(expected, np.where(sound, logits.argmax(1), -1))
        graph.replay()
        np.testing.assert_array_equal(ids.numpy(), expected)


@pytest.mark.parametrize("rows", [1, 8, 40, 300])
def test_who_chooses_moves_on_to_what_is_chosen(device, put, normal, rows):
    """And tells the host; a sequence whose logits are unsound moves on to -1."""
    columns, steps = 7, 5
    weight = put(normal(1001, 256, dtype="bfloat16"), "bfloat16")
    given = [normal(rows, 256, dtype="bfloat16") for _ in range(steps)]
    given[2][rows // 2, 3] = np.nan
    x = put(given[0], "bfloat16")
    first = np.arange(rows, dtype=np.int32) % (columns + 3)
    positions, token_ids = put(first), put(np.zeros(rows, np.int32))
    history = put(np.full((rows, columns), -2, np.int32))
    state = positions, token_ids, history

    def step():
        ids = kernels.argmax(kernels.linear(x, weight, dtype="float32"))
        kernels.advance(ids, token_ids, positions, history)
        return ids

    start = [each.numpy() for each in state]
    expected = []
    for values in given:
        x.copy_(values)
        expected.append(step().numpy())
    after = [each.numpy() for each in state]
    assert (expected[2] == -1).sum() == 1
    with device.controller.capture() as graph:
        ids = step()
    for each, values in zip(state, start, strict=True):
        each.copy_(values)
    fetches = []
    for values in given:
        x.copy_(values)
        graph.replay()
        fetches.append(ids.fetch())
    for fetch, known in zip(fetches, expected, strict=True):
        np.testing.assert_array_equal(fetch.tolist(), known)
    for each, known in zip(state, after, strict=True):
        np.testing.assert_array_equal(each.numpy(), known)


@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, 256), (3, 1024), (0, 1025), (1, 30_000)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_fetched_is_of_the_replay_before(device, put, normal, dtype, first, count):
    """Whatever brings it to the host, and however late it is looked at."""
    x = put(np.zeros((1, first + count), np.float32), dtype)
    added = normal(1, first + count, dtype=dtype)
    with device.controller.capture() as graph:
        kernels.add(x, put(added, dtype), out=x)
    fetches = []
    for _ in range(5):
        graph.replay()
        fetches.append(x[0, first:].fetch())
    expected = np.zeros(count, dtype)
    for fetch in fetches:
        expected += added[0, first:].astype(dtype)
        np.testing.assert_array_equal(np.array(fetch.tolist(), dtype), expected)
