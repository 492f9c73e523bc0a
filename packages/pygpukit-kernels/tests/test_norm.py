import numpy as np
import pytest
from pygpukit import kernels
from pygpukit.core import LaunchError


def layer(x, eps):
    centered = x - x.mean(axis=1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(axis=1, keepdims=True) + eps)


def rms(x, eps):
    return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps)


# Of the last two a GPU's blocks take several rows each.
SHAPES = [(1, 1), (3, 5), (2, 576), (70, 130), (3500, 136), (3400, 77)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_norms_are_those_of_float64(put, normal, shape, dtype):
    x, residual = normal(*shape), normal(*shape)
    gamma, beta = normal(shape[1], dtype=dtype), normal(shape[1], dtype=dtype)
    h = x.astype(np.float64) + residual

    y, total = kernels.rms_norm(put(x), put(gamma, dtype), 1e-6, residual=put(residual), offset=1.0)
    np.testing.assert_allclose(y.numpy(), rms(h, 1e-6) * (gamma + 1.0), rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(total.numpy(), x + residual)

    y, total = kernels.layer_norm(
        put(x), put(gamma, dtype), put(beta, dtype), 1e-5, residual=put(residual)
    )
    expected = layer(h, 1e-5) * gamma + beta
    np.testing.assert_allclose(y.numpy(), expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(total.numpy(), x + residual)


def test_weights_are_optional(put, normal):
    x = normal(4, 33)
    np.testing.assert_allclose(
        kernels.rms_norm(put(x), None, 1e-6).numpy(), rms(x.astype(np.float64), 1e-6), rtol=1e-5
    )
    expected = layer(x.astype(np.float64), 1e-6)
    actual = kernels.layer_norm(put(x), None, None, 1e-6).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_the_variance_does_not_cancel_far_from_zero(put, normal):
    x = normal(2, 256) + 10_000
    expected = layer(x.astype(np.float64), 1e-5)
    actual = kernels.layer_norm(put(x), None, None, 1e-5).numpy()
    np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("rows", [9, 3500])
def test_in_place_and_alone(put, normal, rows):
    array, gamma = normal(rows, 64), put(normal(64))
    expected = kernels.rms_norm(put(array), gamma, 1e-6).numpy()
    x = put(array)
    assert kernels.rms_norm(x, gamma, 1e-6, out=x) is x
    np.testing.assert_array_equal(x.numpy(), expected)
    alone = kernels.rms_norm(put(array[4:5]), gamma, 1e-6).numpy()
    np.testing.assert_array_equal(alone[0], expected[4])


def test_shapes_that_do_not_fit_are_refused_by_name(put):
    x = put(np.ones((2, 8), np.float32))
    with pytest.raises(LaunchError, match=r"rms_norm.*\bweight\b"):
        kernels.rms_norm(x, put(np.ones(7, np.float32)), 1e-6)
    with pytest.raises(LaunchError, match=r"layer_norm.*\bresidual\b"):
        kernels.layer_norm(x, None, None, 1e-6, residual=put(np.ones((3, 8), np.float32)))
