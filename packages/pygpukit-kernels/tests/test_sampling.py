import numpy as np
import pytest
from pygpukit import kernels
from pygpukit.core import LaunchError

SETTINGS = {
    "temperature": (1.0, np.float32),
    "top_k": (0, np.int32),
    "top_p": (1.0, np.float32),
    "min_p": (0.0, np.float32),
}


def draw(put, logits, *, rows=1, positions=None, seeds=None, **settings):
    """Sample `rows` copies of one row of logits, each at a position of its own."""
    positions = np.arange(rows) if positions is None else positions
    columns = [
        put(np.full(rows, settings.get(name, default), dtype))
        for name, (default, dtype) in SETTINGS.items()
    ]
    return kernels.sample(
        put(np.tile(np.asarray(logits, np.float32), (rows, 1))),
        put(np.asarray(positions, np.int32)),
        *columns,
        put(np.zeros(rows, np.int64) if seeds is None else np.asarray(seeds, np.int64)),
    ).numpy()


def softmax(logits, temperature=1.0):
    x = np.asarray(logits, np.float64) / temperature
    x = np.exp(x - x.max())
    return x / x.sum()


def filtered(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """The distribution that is left, in float64."""
    p = softmax(logits, temperature)
    if top_k:
        p = np.where(p >= np.sort(p)[-min(top_k, len(p))], p, 0)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    before = np.cumsum(p[order]) - p[order]
    p[order[before >= top_p]] = 0
    p[p < min_p * p.max()] = 0
    return p / p.sum()


def uniform(seed, position):
    """The random number of a draw: Philox 4x32-10."""
    counter, key, mask = [position, 0, 0, 0], [seed % 2**32, seed // 2**32 % 2**32], 2**32 - 1
    for _ in range(10):
        first, second = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        a, b = (second >> 32) ^ counter[1] ^ key[0], (first >> 32) ^ counter[3] ^ key[1]
        counter = [a, second & mask, b, first & mask]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return ((counter[0] << 32 | counter[1]) >> 11) / 2**53


def test_argmax(put, normal):
    logits = normal(5, 49_152)
    np.testing.assert_array_equal(kernels.argmax(put(logits)).numpy(), logits.argmax(axis=1))


def test_argmax_takes_the_first_of_equals_and_refuses_unsound_rows(put):
    logits = np.zeros((6, 100), np.float32)
    logits[0, [7, 93]] = 2
    logits[1, 99] = np.nan
    logits[2, 0] = np.inf
    logits[3] = -np.inf
    logits[4, :50] = -np.inf
    logits[5] = np.nan
    np.testing.assert_array_equal(kernels.argmax(put(logits)).numpy(), [7, -1, -1, -1, 50, -1])


@pytest.mark.large
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 3.0, "top_k": 4},
        {"top_p": 0.6},
        {"min_p": 0.2},
        {"temperature": 1.5, "top_k": 6, "top_p": 0.8, "min_p": 0.1},
        {"top_k": 100},
    ],
    ids=str,
)
def test_draws_follow_the_filtered_distribution(put, normal, settings):
    logits, rows = 2 * normal(12), 20_000
    counts = np.bincount(draw(put, logits, rows=rows, **settings), minlength=12)
    expected = filtered(logits, **settings) * rows
    assert not counts[expected == 0].any()
    possible = expected > 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_square < possible.sum() + 6 * np.sqrt(2 * possible.sum())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.5, "top_k": 2},
        {"top_k": 50, "top_p": 0.95},
        {"temperature": 2.0, "top_k": 200, "top_p": 0.8, "min_p": 0.01},
        {"temperature": 2.0, "top_k": 400, "top_p": 0.99},
        {"top_k": 900},
        {"top_k": 3000, "top_p": 0.9},
        {"top_p": 0.3},
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 3.0, "top_p": 0.95},
        {"min_p": 0.1},
        {"min_p": 1e-4},
    ],
    ids=str,
)
def test_which_token_is_drawn(put, normal, settings, tied):
    rows, logits = 40, 3 * normal(20_001)
    if tied:
        logits = np.round(4 * logits) / 4
    sums = np.cumsum(filtered(logits, **settings))
    numbers = [uniform(seed, 7 + seed) for seed in range(rows)]
    expected = np.searchsorted(sums, np.array(numbers) * sums[-1], side="right")
    positions, seeds = np.arange(rows) + 7, np.arange(rows)
    drawn = draw(put, logits, rows=rows, positions=positions, seeds=seeds, **settings)
    np.testing.assert_array_equal(drawn, expected)


def test_a_draw_depends_on_seed_and_position_only(put, normal):
    logits = normal(1000)
    together = draw(put, logits, rows=8, positions=range(8), seeds=[3] * 8)
    for position in (0, 5):
        alone = draw(put, logits, positions=[position], seeds=[3])
        assert alone[0] == together[position]
    assert len(set(together.tolist())) > 1
    other = draw(put, logits, rows=8, positions=range(8), seeds=[-(2**62)] * 8)
    assert (other != together).any()


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.0}], ids=str)
def test_greedy_settings_take_the_first_of_the_best(put, settings):
    logits = np.array([0, 3, 1, 3, 2], np.float32)
    assert (draw(put, logits, rows=50, **settings) == 1).all()


def test_unsound_rows_draw_nothing(put):
    for bad in (np.nan, np.inf):
        assert draw(put, [0.0, bad, 1.0])[0] == -1
    assert draw(put, [-np.inf, -np.inf])[0] == -1
    assert draw(put, [-np.inf, 5.0, -np.inf])[0] == 1


def test_penalties(put, normal):
    logits = normal(2, 20)
    history = np.array([[3, 3, 5, 3, 7, 9, 0, 0], [1, 2, 2, 2, 19, 19, 19, 4]], np.int32)
    positions, prompt_lengths = np.array([5, 6], np.int32), np.array([2, 3], np.int32)
    penalties = np.array([[1.5, 0.25, 0.125], [0.75, -0.5, 0.5]], np.float32)
    expected = logits.astype(np.float64)
    for row in range(2):
        tokens = history[row, : positions[row] + 1]
        for token in set(tokens.tolist()):
            value, (repetition, presence, frequency) = expected[row, token], penalties[row]
            value = value / repetition if value > 0 else value * repetition
            generated = (tokens[prompt_lengths[row] :] == token).sum()
            expected[row, token] = value - presence * (generated > 0) - frequency * generated
    tensor = put(logits)
    kernels.penalize(tensor, *(put(x) for x in (history, positions, prompt_lengths, penalties)))
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6, atol=1e-6)


def test_log_probabilities(put, normal):
    logits = 3 * normal(3, 5000)
    ids = np.array([4999, 0, 17], np.int32)
    values, indices = (x.numpy() for x in kernels.top_logprobs(put(logits), put(ids), 4))
    expected = np.log([softmax(row) for row in logits])
    np.testing.assert_array_equal(indices[:, 0], ids)
    np.testing.assert_array_equal(indices[:, 1:], np.argsort(-logits, axis=1)[:, :4])
    np.testing.assert_allclose(values, np.take_along_axis(expected, indices, 1), rtol=2e-6)
    with pytest.raises(LaunchError, match="top_logprobs"):
        kernels.top_logprobs(put(logits[:, :3]), put(ids), 4)


def test_advance(put):
    ids, token_ids = put(np.array([8, 9], np.int32)), put(np.zeros(2, np.int32))
    positions, history = put(np.array([1, 3], np.int32)), put(np.zeros((2, 4), np.int32))
    kernels.advance(ids, token_ids, positions, history)
    np.testing.assert_array_equal(token_ids.numpy(), [8, 9])
    np.testing.assert_array_equal(positions.numpy(), [2, 4])
    np.testing.assert_array_equal(history.numpy(), [[0, 0, 8, 0], [0, 0, 0, 0]])
