import numpy as np
import pytest
from pygpukit import kernels
from pygpukit.core import LaunchError
from pygpukit.kernels import Norm
from reference import PAGE, Cache, attend, ints, rotate


def fill(put, cache, k, v, sequence):
    """Append positions 0 ... of a sequence."""
    length, kv_heads, head_dim = k.shape
    qkv = np.concatenate([np.zeros((length, kv_heads, head_dim), np.float32), k, v], axis=1)
    kernels.append_kv(
        put(qkv.reshape(length, -1)),
        None,
        put(ints(range(length))),
        put(ints([sequence] * length)),
        cache.block_tables,
        *cache,
        num_heads=kv_heads,
    )


def test_rope_angles(put):
    positions, inv_freq = ints([0, 1, 77, 8191]), (500_000.0 ** -np.linspace(0, 1, 16)).astype("f4")
    angles = kernels.rope_angles(put(positions), put(inv_freq), scale=1.25).numpy()
    products = (positions[:, None].astype(np.float32) * inv_freq).astype(np.float64)
    np.testing.assert_allclose(angles[:, 0], 1.25 * np.cos(products), atol=5e-7)
    np.testing.assert_allclose(angles[:, 1], 1.25 * np.sin(products), atol=5e-7)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary", [32, 16])
@pytest.mark.parametrize("normed", [False, True])
def test_keys_and_values_reach_their_pages(put, rng, normal, interleaved, rotary, normed):
    heads, kv_heads, dim, tokens = 6, 2, 32, 19
    cache = Cache(put, rng, [5, 40], kv_heads, dim)
    positions, qkv = ints(range(9, 9 + tokens)), normal(tokens, (heads + 2 * kv_heads) * dim)
    inv_freq = (10_000.0 ** -np.linspace(0, 1, rotary // 2)).astype("f4")
    gamma = normal(dim)
    norm = Norm("rms", put(gamma), None, 1e-6) if normed else None
    q = kernels.append_kv(
        put(qkv),
        kernels.rope_angles(put(positions), put(inv_freq)),
        put(positions),
        put(ints([1] * tokens)),
        cache.block_tables,
        *cache,
        num_heads=heads,
        interleaved=interleaved,
        q_norm=norm,
        k_norm=norm,
    ).numpy()
    parts = qkv.reshape(tokens, -1, dim).astype(np.float64)
    rotated = parts[:, : heads + kv_heads]
    if normed:
        rotated = rotated / np.sqrt((rotated**2).mean(-1, keepdims=True) + 1e-6) * gamma
    rotated = rotate(rotated, positions, inv_freq, interleaved)
    np.testing.assert_allclose(q, rotated[:, :heads], atol=2e-5)
    tables, keys, values = cache.block_tables.numpy(), cache.keys.numpy(), cache.values.numpy()
    for t, p in enumerate(positions):
        page, slot = tables[1, p // PAGE], p % PAGE
        np.testing.assert_allclose(keys[page, :, slot], rotated[t, heads:], atol=2e-5)
        np.testing.assert_array_equal(values[page, :, slot], parts[t, heads + kv_heads :])
    assert np.isfinite(keys).all(axis=(1, 3)).sum() == tokens  # and nowhere else


def test_a_position_without_a_page_writes_nothing(put, rng, normal):
    cache = Cache(put, rng, [16], 1, 8)
    kernels.append_kv(
        *(put(normal(2, 24)), None, put(ints([16, -1])), put(ints([0, 0])), cache.block_tables),
        *cache,
        num_heads=1,
    )
    assert np.isnan(cache.keys.numpy()).all()


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(9, 3, 64), (4, 4, 32), (8, 1, 80)])
@pytest.mark.parametrize(
    ("window", "soft_cap", "sunk"),
    [(0, 0.0, False), (7, 0.0, True), (0, 5.0, False), (0, 0.0, True)],
)
def test_prompts_and_steps_of_several_sequences(
    put, rng, normal, heads, kv_heads, dim, window, soft_cap, sunk
):
    lengths = [1, 16, 70, 33]
    cache = Cache(put, rng, lengths, kv_heads, dim)
    kv = [(normal(n, kv_heads, dim), normal(n, kv_heads, dim)) for n in lengths]
    for row, (k, v) in enumerate(kv):
        fill(put, cache, k, v, row)
    # All of the third sequence's prompt, and one step of each of the others.
    tokens = [(2, p) for p in range(70)] + [(0, 0), (1, 15), (3, 32), (3, 8)]
    sequences, positions = (ints(column) for column in zip(*tokens, strict=True))
    q = normal(len(tokens), heads, dim)
    options = {"scale": dim**-0.5, "window": window, "soft_cap": soft_cap}
    sinks = 3 * normal(heads) if sunk else None
    given = {**options, "sinks": put(sinks) if sunk else None}
    out = kernels.attention(
        *(put(q), *cache, cache.block_tables, put(positions), put(sequences)), **given
    ).numpy()
    for row, (k, v) in enumerate(kv):
        mine = sequences == row
        expected = attend(q[mine], k, v, positions[mine], **options, sinks=sinks)
        np.testing.assert_allclose(out[mine], expected, rtol=1e-4, atol=2e-5)
    # The bits of a token don't depend on the tokens beside it.
    for t in (0, 37, 69, 72):
        alone = kernels.attention(
            put(q[t : t + 1]),
            *(*cache, cache.block_tables, put(positions[t : t + 1]), put(sequences[t : t + 1])),
            **given,
        )
        np.testing.assert_array_equal(alone.numpy()[0], out[t])


def test_sinks_far_from_the_scores(put, rng, normal):
    cache = Cache(put, rng, [20], 1, 16)
    k, v = normal(20, 1, 16), normal(20, 1, 16)
    fill(put, cache, k, v, 0)
    q, sinks = normal(1, 4, 16), np.array([-1e4, 30, 1e4, 0], np.float32)
    args = (cache.block_tables, put(ints([19])), put(ints([0])))
    out = kernels.attention(put(q), *cache, *args, scale=1.0, sinks=put(sinks)).numpy()
    expected = attend(q, k, v, ints([19]), 1.0)
    np.testing.assert_allclose(out[0, :16], expected[0, :16], rtol=1e-4, atol=1e-5)
    assert (np.abs(out[0, 16:32]) < 1e-8).all()
    assert not out[0, 32:48].any()
    # A sequence that isn't there shows, sinks or not.
    args = (cache.block_tables, put(ints([40])), put(ints([0])))
    out = kernels.attention(put(q), *cache, *args, scale=1.0, sinks=put(sinks)).numpy()
    assert np.isnan(out).all()


def test_there_is_a_sink_for_each_head(put, rng, normal):
    cache = Cache(put, rng, [16], 1, 8)
    args = (cache.block_tables, put(ints([0])), put(ints([0])))
    with pytest.raises(LaunchError, match=r"attention, argument sinks: .*\[2\]"):
        kernels.attention(put(normal(1, 2, 8)), *cache, *args, scale=1.0, sinks=put(normal(3)))


def test_large_scores_do_not_overflow(put, rng, normal):
    cache = Cache(put, rng, [20], 1, 16)
    k, v = 300 * normal(20, 1, 16), normal(20, 1, 16)
    fill(put, cache, k, v, 0)
    q = 300 * normal(1, 2, 16)
    args = (cache.block_tables, put(ints([19])), put(ints([0])))
    out = kernels.attention(put(q), *cache, *args, scale=1.0).numpy()
    np.testing.assert_allclose(out, attend(q, k, v, ints([19]), 1.0), rtol=1e-3, atol=1e-4)


def test_head_counts_must_fit(put, rng, normal):
    cache = Cache(put, rng, [16], 2, 8)
    args = (cache.block_tables, put(ints([0])), put(ints([0])))
    with pytest.raises(LaunchError, match=r"attention"):
        kernels.attention(put(normal(1, 3, 8)), *cache, *args, scale=1.0)
    with pytest.raises(LaunchError, match=r"append_kv.*qkv"):
        kernels.append_kv(
            *(put(normal(1, 41)), None, put(ints([0])), put(ints([0])), cache.block_tables),
            *cache,
            num_heads=1,
        )
