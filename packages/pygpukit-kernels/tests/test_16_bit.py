"""Activations and a cache of keys and values in 16 bits: both types on a GPU, bfloat16 on the CPU.

Every result is compared with NumPy in float64, computed from the rounded inputs.
"""

from __future__ import annotations

import numpy as np
import pytest
from pygpukit import kernels
from pygpukit.core import Device, DeviceError, LaunchError
from pygpukit.kernels import Norm
from reference import ACTIVATIONS, PAGE, Cache, attend, clamped_swiglu, ints, rotate

PLACES = [
    ("cpu", "bfloat16"),
    *(pytest.param(("cuda", dtype), marks=pytest.mark.gpu) for dtype in ("float16", "bfloat16")),
]
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Half the distance between two numbers, relative to them, or a little more."""


@pytest.fixture(params=PLACES, ids="-".join)
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A device and a dtype that it has activations of."""
    name, dtype = request.param
    return name, dtype


@pytest.fixture
def device(place: tuple[str, str]) -> Device:
    try:
        return Device(place[0])
    except DeviceError as error:
        pytest.skip(f"no {place[0]} device: {error}")


@pytest.fixture
def dtype(place: tuple[str, str]) -> str:
    return place[1]


def relative_error(actual, expected):
    """Relative to the norm of all numbers."""
    return np.linalg.norm(actual.astype(np.float64) - expected) / np.linalg.norm(expected)


def assert_close(actual, expected, dtype, factor=1.0):
    """Within `factor` roundings to `dtype`."""
    error = relative_error(actual, expected)
    assert error <= factor * ROUNDING[dtype], error


LARGE = pytest.mark.large

SHAPES = [
    *[(1, 8, 8), (1, 7, 16), (3, 100, 136), (8, 64, 520), (2, 1536, 576), (5, 33, 2048)],
    *[(9, 40, 264), (17, 130, 520), (70, 200, 328), (130, 136, 1000), (300, 260, 72)],
    *[(1, 1, 1), (4, 9, 7), (66, 65, 67), (2, 512, 14336), (600, 1032, 256)],
    # Few rows: more chunks than a ring has places, a short one at the end, more tiles than blocks.
    *[(8, 96, 2304), (12, 40, 1088), (4, 4300, 4096), (27, 4300, 704), (40, 96, 2304)],
]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear(put, normal, shape, dtype, gated):
    tokens, outputs, inputs = shape
    x = normal(tokens, inputs, dtype=dtype)
    weight = normal(outputs * (1 + gated), inputs, dtype=dtype)
    y = kernels.linear(put(x, dtype), put(weight, dtype), gated=gated, dtype="float32")
    sums = x.astype(np.float64) @ weight.T.astype(np.float64)
    expected = sums[:, :outputs] * sums[:, outputs:] if gated else sums
    assert y.dtype == "float32"
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    rounded = kernels.linear(put(x, dtype), put(weight, dtype), gated=gated)
    if dtype == "bfloat16" or np.abs(expected).max() < 6e4:
        assert_close(rounded.numpy("float32"), expected, dtype)


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "gelu_quick"])
@pytest.mark.parametrize("tokens", [1, 4, 12, 90, 150])
@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("inputs", [320, 776])
def test_everything_fused(put, normal, dtype, activation, tokens, kind, inputs):
    outputs = 300
    x, weight = normal(tokens, inputs, dtype=dtype), normal(2 * outputs, inputs, dtype=dtype) / 32
    bias, residual = normal(2 * outputs), normal(tokens, outputs, dtype=dtype)
    gamma = normal(inputs)
    y = kernels.linear(
        put(x, dtype),
        put(weight, dtype),
        put(bias),
        norm=Norm(kind, put(gamma), None, 1e-5, 1.0),
        activation=activation,
        gated=True,
        residual=put(residual, dtype),
        scale=0.25,
    )
    h = x.astype(np.float64)
    h = h - h.mean(1, keepdims=True) if kind == "layer" else h
    h = h / np.sqrt((h**2).mean(1, keepdims=True) + 1e-5) * (gamma + 1)
    sums = h @ weight.T.astype(np.float64) + bias
    expected = residual + 0.25 * ACTIVATIONS[activation](sums[:, :outputs]) * sums[:, outputs:]
    assert_close(y.numpy("float32"), expected, dtype, factor=2)


# Rows, outputs and inputs for each of the kernels, and what isn't a multiple of eight.
SIZES = [(1, 300, 320), (3, 304, 776), (8, 300, 320), (50, 296, 328), (150, 512, 256), (5, 33, 99)]


@pytest.mark.parametrize("place", PLACES[1:], indirect=True)
@pytest.mark.parametrize("length", [8, 576, 1024, 1032, 2048, 3000, 4096, 4104])
@pytest.mark.parametrize("rows", [1, 5, 300])
def test_a_norm_is_that_of_the_sum_with_nothing(put, normal, dtype, rows, length):
    """Rows that find room in registers have other kernels than sums."""
    x, gamma = normal(rows, length, dtype=dtype), normal(length)
    nothing = put(np.zeros_like(x), dtype)
    alone = kernels.rms_norm(put(x, dtype), put(gamma), 1e-5, offset=1.0)
    of_sum, _ = kernels.rms_norm(put(x, dtype), put(gamma), 1e-5, residual=nothing, offset=1.0)
    np.testing.assert_array_equal(alone.numpy("float32"), of_sum.numpy("float32"))
    h = x.astype(np.float64)
    expected = h / np.sqrt((h**2).mean(axis=1, keepdims=True) + 1e-5) * (gamma + 1.0)
    assert_close(alone.numpy("float32"), expected, dtype)


@pytest.mark.parametrize("place", PLACES[2:], indirect=True)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_what_is_normalised_takes_the_type_of_the_weight(put, normal, dtype, size):
    tokens, outputs, inputs = size
    other = next(key for key in ROUNDING if key != dtype)
    x, gamma = normal(tokens, inputs, dtype=other), normal(inputs)
    weight = normal(outputs, inputs, dtype=dtype) / 32
    h = x / np.sqrt((x.astype(np.float64) ** 2).mean(1, keepdims=True) + 1e-5) * gamma
    expected = h @ weight.T.astype(np.float64)
    norm = Norm("rms", put(gamma), None, 1e-5)
    for result in (dtype, other, "float32"):
        y = kernels.linear(put(x, other), put(weight, dtype), norm=norm, dtype=result)
        assert y.dtype == result
        error = relative_error(y.numpy("float32"), expected)
        assert error <= ROUNDING[dtype] + ROUNDING.get(result, 0.0)


@pytest.mark.parametrize("place", PLACES[2:], indirect=True)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_residual_may_be_of_another_type(put, normal, dtype, size):
    tokens, outputs, inputs = size
    other = next(key for key in ROUNDING if key != dtype)
    x, weight = normal(tokens, inputs, dtype=dtype), normal(outputs, inputs, dtype=dtype) / 32
    residual = normal(tokens, outputs, dtype=other)
    expected = residual + x.astype(np.float64) @ weight.T.astype(np.float64)
    for result in (other, dtype, "float32"):
        y = kernels.linear(
            put(x, dtype), put(weight, dtype), residual=put(residual, other), dtype=result
        )
        assert y.dtype == result
        error = relative_error(y.numpy("float32"), expected)
        assert error <= ROUNDING.get(result, 1e-6)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(
    ("outputs", "inputs"),
    [
        *[(328, 1096), (64, 576), (2048, 256), (5000, 192), (96, 2304), (136, 4352), (40, 8192)],
        *[(3000, 136), (10_000, 72), pytest.param(512, 14336, marks=LARGE)],
    ],
)
def test_a_row_is_the_same_whichever_kernel_computes_it(put, normal, dtype, gated, outputs, inputs):
    x = put(normal(520, inputs, dtype=dtype), dtype)
    weight = put(normal(outputs * (1 + gated), inputs, dtype=dtype) / 64, dtype)
    norm = Norm("rms", put(normal(inputs)), None, 1e-6)

    def run(start, stop):
        part = x[start:stop]
        return kernels.linear(part, weight, norm=norm, gated=gated, dtype="float32").numpy()

    together = run(0, 520)
    parts = [(0, 1), (5, 7), (3, 11), (20, 33), (30, 55), (60, 124), (9, 109), (100, 300)]
    for start, stop in parts:
        np.testing.assert_array_equal(run(start, stop), together[start:stop])


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ["silu", "gelu", None])
@pytest.mark.parametrize("outputs", [512, 1416, 3000, pytest.param(2100, marks=LARGE)])
def test_what_follows_a_product_is_the_same_too(put, normal, dtype, gated, activation, outputs):
    x = put(normal(700, 320, dtype=dtype), dtype)
    weight = put(normal(outputs * (1 + gated), 320, dtype=dtype) / 64, dtype)
    bias = put(normal(outputs * (1 + gated)))
    residual = put(normal(700, outputs, dtype=dtype), dtype)

    def run(start, stop):
        options = {"activation": activation, "gated": gated, "scale": 0.7}
        rows = slice(start, stop)
        y = kernels.linear(x[rows], weight, bias, residual=residual[rows], **options)
        return y.numpy("float32")

    together = run(0, 700)
    parts = [(0, 1), (0, 3), (3, 8), (10, 22), (20, 50), (50, 110), (600, 700), (100, 600)]
    for start, stop in parts:
        np.testing.assert_array_equal(run(start, stop), together[start:stop])


@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 7), (2, 1000), (4, 4096), (2, 70000), (300, 576), (3500, 136), (3400, 77)]
)
@pytest.mark.parametrize("with_residual", [False, True])
def test_norms(put, normal, dtype, shape, with_residual):
    x, residual = normal(*shape, dtype=dtype) + 1, normal(*shape, dtype=dtype)
    x = put(x, dtype)
    gamma, beta = normal(shape[1]), normal(shape[1])
    residual = put(residual, dtype) if with_residual else None
    rms = kernels.rms_norm(x, put(gamma), 1e-6, residual=residual, offset=0.5)
    layer = kernels.layer_norm(x, put(gamma), put(beta), 1e-6, residual=residual)
    h = x.numpy("float32").astype(np.float64)
    if residual is not None:
        (rms, total), (layer, _) = rms, layer
        assert_close(total.numpy("float32"), h + residual.numpy("float32"), dtype)
        h = total.numpy("float32").astype(np.float64)
    expected = h / np.sqrt((h**2).mean(1, keepdims=True) + 1e-6) * (gamma + 0.5)
    assert_close(rms.numpy("float32"), expected, dtype)
    centered = h - h.mean(1, keepdims=True)
    expected = centered / np.sqrt((centered**2).mean(1, keepdims=True) + 1e-6) * gamma + beta
    assert_close(layer.numpy("float32"), expected, dtype)


@pytest.mark.parametrize("length", [1, 24, 1000])
def test_rows(put, normal, dtype, length):
    weight, table = normal(50, length, dtype=dtype), normal(20, length, dtype=dtype)
    ids, positions = put(ints([3, 49, 0, 7])), put(ints([0, 19, 5, 1]))
    y = kernels.embedding(
        ids,
        put(weight, dtype),
        scale=1.5,
        positions=positions,
        position_weight=put(table, dtype),
        dtype=dtype,
    )
    expected = 1.5 * weight[[3, 49, 0, 7]].astype(np.float64) + table[[0, 19, 5, 1]]
    assert y.dtype == dtype
    assert_close(y.numpy("float32"), expected, dtype)
    picked = kernels.gather_rows(put(weight, dtype), ids)
    np.testing.assert_array_equal(picked.numpy("float32"), weight[[3, 49, 0, 7]])
    total = kernels.add(y, picked, scale=-0.5).numpy("float32")
    assert_close(total, y.numpy("float32") - 0.5 * weight[[3, 49, 0, 7]].astype(np.float64), dtype)
    for name, function in ACTIVATIONS.items():
        expected = function(weight.astype(np.float64))
        found = kernels.activation(put(weight, dtype), name).numpy("float32")
        if np.abs(expected).max():
            assert_close(found, expected, dtype)
    capped = kernels.soft_cap(put(weight, dtype), 2.5).numpy("float32")
    assert_close(capped, 2.5 * np.tanh(weight.astype(np.float64) / 2.5), dtype)


def filled(put, rng, normal, lengths, kv_heads, dim, dtype, page_size=64):
    """A cache with random keys and values of sequences, and these."""
    cache = Cache(put, rng, lengths, kv_heads, dim, page_size, dtype)
    content = [normal(2, length, kv_heads, dim, dtype=dtype) for length in lengths]
    for sequence, (k, v) in enumerate(content):
        qkv = np.concatenate([np.zeros_like(k), k, v], axis=1).reshape(len(k), -1)
        kernels.append_kv(
            put(qkv, dtype),
            None,
            put(ints(range(len(k)))),
            put(ints([sequence] * len(k))),
            cache.block_tables,
            *cache,
            num_heads=kv_heads,
        )
    return cache, content


@pytest.mark.parametrize("dim", [64, 80, 128, 256, 20])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "page_size"), [(4, 4, PAGE), (6, 2, 64), (20, 1, 192), (3, 3, 48)]
)
@pytest.mark.parametrize(
    ("window", "soft_cap", "sunk"),
    [(0, 0.0, False), (70, 0.0, False), (0, 3.0, False), (70, 0.0, True)],
)
def test_attention(
    put, rng, normal, dtype, dim, heads, kv_heads, window, soft_cap, sunk, page_size
):
    lengths = [300, 37]
    cache, content = filled(put, rng, normal, lengths, kv_heads, dim, dtype, page_size)

    def run(tokens, alone=None):
        sequences, positions = (ints(column) for column in zip(*tokens, strict=True))
        q = queries[[offsets[s] + p for s, p in tokens]]
        return kernels.attention(
            put(q, dtype),
            *cache,
            cache.block_tables,
            put(positions),
            put(sequences),
            scale=dim**-0.5,
            window=window,
            soft_cap=soft_cap,
            sinks=put(sinks) if sunk else None,
            alone=alone,
        ).numpy("float32")  # fmt: skip

    sinks = 3 * normal(heads) if sunk else None
    offsets = [0, lengths[0]]
    queries = normal(sum(lengths), heads, dim, dtype=dtype)
    everything = [(s, p) for s, length in enumerate(lengths) for p in range(length)]
    together = run(everything)
    expected = np.concatenate(
        [
            attend(
                queries[offsets[s] : offsets[s] + length],
                *content[s],
                np.arange(length),
                dim**-0.5,
                window,
                soft_cap,
                sinks,
            )
            for s, length in enumerate(lengths)
        ]
    )
    assert_close(together, expected, dtype, factor=2)
    for part in [[(0, 299)], [(0, 0), (1, 36)], [(0, p) for p in range(60, 200)], everything[250:]]:
        rows = [offsets[s] + p for s, p in part]
        np.testing.assert_array_equal(run(part), together[rows])
        for alone in {0, len(part) // 3, len(part)}:
            np.testing.assert_array_equal(run(part, alone), together[rows])


@pytest.mark.parametrize("dim", [64, 128])
def test_many_sequences(put, rng, normal, dtype, dim):
    lengths = [5 * sequence + 1 for sequence in range(64)]
    cache, _ = filled(put, rng, normal, lengths, 8, dim, dtype)
    q = put(normal(2 * len(lengths), 16, dim, dtype=dtype), dtype)
    positions = put(ints([*(length - 1 for length in lengths), *(n // 2 for n in lengths)]))
    sequences = put(ints([*range(64)] * 2))

    def run(tokens):
        where = positions[tokens], sequences[tokens]
        y = kernels.attention(q[tokens], *cache, cache.block_tables, *where, scale=dim**-0.5)
        return y.numpy("float32")

    alone = np.concatenate([run(slice(token, token + 1)) for token in range(128)])
    for count in (20, 64, 128):
        np.testing.assert_array_equal(run(slice(0, count)), alone[:count])


@pytest.mark.parametrize("sunk", [False, True])
def test_long_contexts(put, rng, normal, dtype, sunk):
    cache, ((k, v),) = filled(put, rng, normal, [5000], 2, 128, dtype)
    q = normal(1, 8, 128, dtype=dtype)
    where = cache.block_tables, put(ints([4999])), put(ints([0]))
    sinks = 5 + normal(8) if sunk else None
    given = put(sinks) if sunk else None
    y = kernels.attention(put(q, dtype), *cache, *where, scale=0.2, sinks=given).numpy("float32")
    assert_close(y, attend(q, k, v, np.array([4999]), 0.2, sinks=sinks), dtype, factor=2)


def test_a_missing_page_is_nan_for_those_that_see_it(put, rng, normal, dtype):
    cache, ((k, v),) = filled(put, rng, normal, [400], 2, 128, dtype)
    tables = cache.block_tables.numpy()
    tables[0, 3] = -1
    q = normal(400, 8, 128, dtype=dtype)
    where = put(tables), put(ints(range(400))), put(ints([0] * 400))
    y = kernels.attention(put(q, dtype), *cache, *where, scale=0.1).numpy("float32")
    expected = attend(q, k, v, np.arange(400), 0.1)
    assert_close(y[:192], expected[:192], dtype, factor=2)
    assert np.isnan(y[192:]).all()
    # Within a window of 16 the positions from 272 on don't see the page.
    y = kernels.attention(put(q, dtype), *cache, *where, scale=0.1, window=16).numpy("float32")
    assert_close(y[272:], attend(q, k, v, np.arange(400), 0.1, 16)[272:], dtype, factor=2)


@pytest.mark.parametrize("dim", [64, 128])
def test_windows_begin_anywhere(put, rng, normal, dtype, dim):
    """What lies before them may be gone: its pages, and numbers in the memory that is left."""
    cache, ((k, v),) = filled(put, rng, normal, [900], 2, dim, dtype, 64)
    tables, first, window = cache.block_tables.numpy(), 700, 100
    gone = (first - window + 1) // 64
    nothing = put(np.full((2, 64, dim), np.nan, np.float32), dtype)
    for part in (cache.keys, cache.values):
        part[int(tables[0, gone - 1])].copy_(nothing)
    tables[0, : gone - 1] = -1
    q, positions = normal(200, 8, dim, dtype=dtype), np.arange(first, 900)

    def run(rows):
        where = put(tables), put(ints(positions[rows])), put(ints(0 * positions[rows]))
        y = kernels.attention(put(q[rows], dtype), *cache, *where, scale=0.1, window=window)
        return y.numpy("float32")

    together = run(slice(0, 200))
    assert_close(together, attend(q, k, v, positions, 0.1, window), dtype, factor=2)
    for row in (0, 27, 28, 199):
        np.testing.assert_array_equal(run(slice(row, row + 1))[0], together[row])


def test_results_may_lie_at_odd_places(put, rng, normal, dtype):
    cache, _ = filled(put, rng, normal, [100], 2, 64, dtype, 64)
    q = put(normal(100, 4, 64, dtype=dtype), dtype)
    where = cache.block_tables, put(ints(range(100))), put(ints([0] * 100))
    y = kernels.attention(q, *cache, *where, scale=0.1).numpy("float32")
    wide = put(normal(100, 257), dtype)
    kernels.attention(q, *cache, *where, scale=0.1, out=wide[:, 1:])
    np.testing.assert_array_equal(wide[:, 1:].numpy("float32"), y)


@pytest.mark.parametrize("interleaved", [False, True])
def test_queries_and_keys_are_rotated(put, rng, normal, dtype, interleaved):
    heads, kv_heads, dim, tokens = 6, 2, 64, 19
    cache = Cache(put, rng, [40], kv_heads, dim, dtype=dtype)
    positions, gamma = ints(range(9, 9 + tokens)), normal(dim)
    qkv = normal(tokens, (heads + 2 * kv_heads) * dim, dtype=dtype)
    inv_freq = (10_000.0 ** -np.linspace(0, 1, 32)).astype("f4")
    norm = Norm("rms", put(gamma), None, 1e-6)
    q = kernels.append_kv(
        put(qkv, dtype),
        kernels.rope_angles(put(positions), put(inv_freq)),
        put(positions),
        put(ints([0] * tokens)),
        cache.block_tables,
        *cache,
        num_heads=heads,
        interleaved=interleaved,
        q_norm=norm,
        k_norm=norm,
    )
    parts = qkv.reshape(tokens, -1, dim)[:, : heads + kv_heads].astype(np.float64)
    parts = parts / np.sqrt((parts**2).mean(-1, keepdims=True) + 1e-6) * gamma
    rotated = rotate(parts, positions, inv_freq, interleaved)
    assert_close(q.numpy("float32"), rotated[:, :heads], dtype, factor=2)
    keys, tables = cache.keys.numpy("float32"), cache.block_tables.numpy()
    found = np.stack([keys[tables[0, p // 16], :, p % 16] for p in positions])
    assert_close(found, rotated[:, heads:], dtype, factor=2)


@pytest.mark.parametrize("normed", [False, True])
def test_many_tokens_are_rotated_as_few(put, rng, normal, dtype, normed):
    heads, kv_heads, dim, tokens = 9, 3, 80, 2500
    qkv = normal(tokens, (heads + 2 * kv_heads) * dim, dtype=dtype)
    norm = Norm("rms", put(normal(dim)), None, 1e-6) if normed else None
    inv_freq = put((10_000.0 ** -np.linspace(0, 1, 24)).astype("f4"))

    def run(*parts):
        """The queries, and the cache with keys and values, of tokens that come in parts."""
        cache = Cache(put, np.random.default_rng(5), [tokens], kv_heads, dim, 64, dtype)
        queries = []
        for part in parts:
            positions = put(ints(range(tokens)[part]))
            q = kernels.append_kv(
                put(qkv[part], dtype),
                kernels.rope_angles(positions, inv_freq),
                positions,
                put(ints([0] * positions.shape[0])),
                cache.block_tables,
                *cache,
                num_heads=heads,
                q_norm=norm,
                k_norm=norm,
            )
            queries.append(q.numpy("float32"))
        return np.concatenate(queries), *(part.numpy("float32") for part in cache)

    together = run(slice(0, tokens))
    parts = run(*(slice(start, start + 100) for start in range(0, tokens, 100)))
    for whole, pieces in zip(together, parts, strict=True):
        np.testing.assert_array_equal(whole, pieces)


@pytest.mark.parametrize("clamped", [False, True])
def test_experts(put, normal, rng, dtype, clamped):
    x, weight = normal(9, 72, dtype=dtype), normal(5, 2 * 33, 72, dtype=dtype)
    experts, shares = rng.integers(0, 5, (9, 2)).astype(np.int32), normal(9, 2)
    bias = normal(5, 2 * 33) if clamped else None
    y = kernels.expert_linear(
        *(put(x, dtype), put(weight, dtype), put(experts)),
        bias=put(bias) if clamped else None,
        activation=kernels.ClampedSwiGLU(1.702, 7.0) if clamped else "silu",
        gated=True,
    )
    sums = np.einsum("rk,rnk->rn", x.repeat(2, 0).astype(np.float64), weight[experts.reshape(-1)])
    if clamped:
        sums += bias[experts.reshape(-1)]
    gate, other = sums[:, :33], sums[:, 33:]
    expected = clamped_swiglu(gate, other) if clamped else ACTIVATIONS["silu"](gate) * other
    assert_close(y.numpy("float32"), expected, dtype)
    total = kernels.combine_experts(y, put(shares)).numpy("float32")
    wanted = (y.numpy("float32").reshape(9, 2, 33) * shares[:, :, None]).sum(1)
    assert_close(total, wanted, dtype)


@pytest.mark.parametrize("place", PLACES[2:], indirect=True)
def test_types_that_do_not_go_together_are_refused(put, normal):
    x, weight = put(normal(2, 16), "bfloat16"), put(normal(8, 16), "float16")
    with pytest.raises(LaunchError, match=r"weight: expected bfloat16, the dtype of x"):
        kernels.linear(x, weight)
    with pytest.raises(LaunchError, match=r"weight: expected a 16-bit dtype"):
        kernels.linear(x, put(normal(8, 16)))
