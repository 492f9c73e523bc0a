import math

import numpy as np
import pytest
from pygpukit import kernels
from pygpukit.core import LaunchError


def ints(*values):
    return np.array(values, np.int32)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_embedding(put, normal, dtype):
    table, places = normal(11, 37, dtype=dtype), normal(9, 37, dtype=dtype)
    ids, positions = ints(3, 0, 10, 3), ints(0, 1, 8, 3)
    rows = kernels.embedding(put(ids), put(table, dtype))
    np.testing.assert_array_equal(rows.numpy(), table[ids])
    rows = kernels.embedding(
        put(ids),
        put(table, dtype),
        scale=3.0,
        positions=put(positions),
        position_weight=put(places, dtype),
    )
    np.testing.assert_allclose(rows.numpy(), 3 * table[ids] + places[positions], rtol=1e-6)


def test_rows_outside_the_table_are_nan_and_the_others_right(put, normal):
    table, places = normal(5, 8), normal(3, 8)
    rows = kernels.embedding(put(ints(4, 5, -1, 0)), put(table)).numpy()
    assert np.isnan(rows[1:3]).all()
    np.testing.assert_array_equal(rows[[0, 3]], table[[4, 0]])
    rows = kernels.embedding(
        put(ints(4, 4)), put(table), positions=put(ints(3, 2)), position_weight=put(places)
    ).numpy()
    assert np.isnan(rows[0]).all()
    np.testing.assert_allclose(rows[1], table[4] + places[2], rtol=1e-6)
    rows = kernels.gather_rows(put(table), put(ints(5, -1, 1))).numpy()
    assert np.isnan(rows[:2]).all()
    np.testing.assert_array_equal(rows[2], table[1])


def test_positions_need_their_table(put, normal):
    ids, table = put(ints(0)), put(normal(2, 4))
    with pytest.raises(LaunchError, match=r"embedding.*position_weight"):
        kernels.embedding(ids, table, positions=ids)


def test_gather_into_a_slice(put, normal):
    x, out = normal(7, 19), put(np.zeros((4, 19), np.float32))
    kernels.gather_rows(put(x), put(ints(6, 2)), out=out[1:3])
    np.testing.assert_array_equal(out.numpy()[1:3], x[[6, 2]])
    assert not out.numpy()[[0, 3]].any()


def test_add(put, normal):
    x, y = normal(5, 33), normal(5, 33)
    np.testing.assert_allclose(
        kernels.add(put(x), put(y), scale=0.25).numpy(), x + 0.25 * y, rtol=1e-6, atol=1e-6
    )
    out = put(x)
    assert kernels.add(out, put(y), out=out) is out
    np.testing.assert_array_equal(out.numpy(), x + y)


def test_soft_cap(put, normal):
    x = 40 * normal(3, 50)
    expected = 30 * np.tanh(x.astype(np.float64) / 30)
    np.testing.assert_allclose(kernels.soft_cap(put(x), 30.0).numpy(), expected, rtol=1e-5)
    with pytest.raises(LaunchError, match=r"soft_cap.*\bcap\b.*positive"):
        kernels.soft_cap(put(x), 0.0)


def test_activations_alone_and_at_the_ends(put):
    x = np.array([[-np.inf, -200, -20, -6, -1, -0.0, 0.0, 1e-8, 0.5, 6, 20, 200, np.inf]], "f4")
    phi = np.array([[0.5 * math.erfc(-v / math.sqrt(2)) for v in x[0].tolist()]])
    with np.errstate(invalid="ignore", over="ignore"):
        expected = {
            "silu": x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64))),
            "gelu": x * phi,
            "relu": np.maximum(x, 0),
            "tanh": np.tanh(x.astype(np.float64)),
            "sigmoid": 1 / (1 + np.exp(-x.astype(np.float64))),
        }
    finite = slice(1, 12)
    for name, values in expected.items():
        y = kernels.activation(put(x), name).numpy()[0]
        np.testing.assert_allclose(y[finite], values[0, finite], rtol=2e-6, atol=1e-6, err_msg=name)
    for name in ("tanh", "sigmoid", "relu"):
        y = kernels.activation(put(x), name).numpy()[0]
        np.testing.assert_allclose(y[[0, -1]], expected[name][0, [0, -1]], rtol=2e-7, err_msg=name)
