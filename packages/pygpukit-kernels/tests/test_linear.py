import numpy as np
import pytest
from pygpukit import kernels
from pygpukit.core import LaunchError, Tensor
from pygpukit.kernels import Norm
from reference import ACTIVATIONS

DTYPES = ["float32", "float16", "bfloat16"]
SHAPES = [(1, 1, 1), (1, 576, 96), (2, 64, 30), (3, 33, 7), (17, 100, 65), (70, 257, 33)]


def assert_close(actual, expected, magnitude):
    """Within what float32 activations, split in two bfloat16 halves, can lose of the summands."""
    error = np.abs(actual.astype(np.float64) - expected)
    bound = 2.0**-16 * magnitude + 1e-6
    assert (error <= bound).all(), f"{(error / bound).max()} times the bound"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_those_of_float64(put, normal, shape, dtype):
    tokens, inputs, outputs = shape
    x, weight = normal(tokens, inputs), normal(outputs, inputs, dtype=dtype)
    y = kernels.linear(put(x), put(weight, dtype)).numpy()
    assert y.shape == (tokens, outputs)
    assert y.dtype == np.float32
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    assert_close(y, x @ weight.T, np.abs(x) @ np.abs(weight).T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("tokens", [1, 21])
def test_everything_fused(put, normal, activation, gated, dtype, tokens):
    inputs, outputs = 96, 37
    rows = outputs * (2 if gated else 1)
    x, weight = normal(tokens, inputs), normal(rows, inputs, dtype=dtype) / 8
    bias, residual = normal(rows), normal(tokens, outputs)
    gamma, beta = normal(inputs), normal(inputs)
    y = kernels.linear(
        put(x),
        put(weight, dtype),
        put(bias),
        norm=Norm("layer", put(gamma), put(beta), 1e-5),
        activation=activation,
        gated=gated,
        residual=put(residual),
        scale=0.5,
    ).numpy()
    x = x.astype(np.float64)
    centered = x - x.mean(axis=1, keepdims=True)
    x = centered / np.sqrt((centered**2).mean(axis=1, keepdims=True) + 1e-5) * gamma + beta
    sums = x @ weight.T.astype(np.float64) + bias
    act = ACTIVATIONS[activation]
    expected = act(sums[:, :outputs]) * sums[:, outputs:] if gated else act(sums)
    np.testing.assert_allclose(y, residual + 0.5 * expected, rtol=2e-4, atol=5e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gated", [False, True])
def test_a_row_does_not_depend_on_the_rows_beside_it(put, normal, dtype, gated):
    x, weight = put(normal(37, 130)), put(normal(94, 130, dtype=dtype), dtype)
    gamma = put(normal(130))
    norm = Norm("rms", gamma, None, 1e-6)
    together = kernels.linear(x, weight, norm=norm, activation="silu", gated=gated).numpy()
    for start, stop in [(0, 1), (5, 6), (3, 5), (10, 27), (36, 37)]:
        part = kernels.linear(x[start:stop], weight, norm=norm, activation="silu", gated=gated)
        np.testing.assert_array_equal(part.numpy(), together[start:stop])


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_a_fused_norm_is_the_norm(put, normal, kind):
    x, weight, gamma = put(normal(5, 64)), put(normal(16, 64)), put(normal(64))
    normed = (
        kernels.rms_norm(x, gamma, 1e-6, offset=1.0)
        if kind == "rms"
        else kernels.layer_norm(x, gamma, None, 1e-6)
    )
    norm = Norm(kind, gamma, None, 1e-6, offset=1.0 if kind == "rms" else 0.0)
    expected = kernels.linear(normed, weight).numpy()
    np.testing.assert_array_equal(kernels.linear(x, weight, norm=norm).numpy(), expected)


def test_rows_may_be_strided(put, normal):
    wide, weight = put(normal(6, 100)), put(normal(40, 64))
    expected = kernels.linear(put(wide.numpy()[1:5, 10:60]), put(weight.numpy()[:, 3:53])).numpy()
    actual = kernels.linear(wide[1:5].narrow(1, 10, 50), weight.narrow(1, 3, 50))
    np.testing.assert_array_equal(actual.numpy(), expected)


def test_out_may_be_the_residual(put, normal):
    x, weight, residual = put(normal(3, 32)), put(normal(8, 32)), put(normal(3, 8))
    expected = kernels.linear(x, weight, residual=residual).numpy()
    assert kernels.linear(x, weight, residual=residual, out=residual) is residual
    np.testing.assert_array_equal(residual.numpy(), expected)


def test_no_tokens(put, normal):
    assert kernels.linear(put(normal(0, 8)), put(normal(4, 8))).shape == (0, 4)


def test_nan_and_infinity_stay_in_their_row(put, normal):
    x, weight = normal(3, 40), put(normal(9, 40, dtype="bfloat16"), "bfloat16")
    x[1, 7] = np.nan
    y = kernels.linear(put(x), weight).numpy()
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[[0, 2]]).all()
    x[1, 7] = np.inf
    assert not np.isfinite(kernels.linear(put(x), weight).numpy()[1]).any()


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"weight": (16, 31)}, "weight"),
        ({"bias": (15,)}, "bias"),
        ({"residual": (2, 16)}, "residual"),
        ({"out": (3, 15)}, "out"),
        ({"gamma": (31,)}, "norm_weight"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_by_name(put, change, argument):
    shapes = {"weight": (16, 32), "bias": (16,), "residual": (3, 16), "out": (3, 16)}
    shapes |= {"gamma": (32,), **change}
    tensors = {name: put(np.ones(shape, np.float32)) for name, shape in shapes.items()}
    norm = Norm("rms", tensors.pop("gamma"), None, 1e-6)
    with pytest.raises(LaunchError, match=rf"linear.*\b{argument}\b"):
        kernels.linear(put(np.ones((3, 32), np.float32)), norm=norm, **tensors)


def test_wrong_dtypes_are_refused_by_name(put):
    x = put(np.ones((1, 4), np.float32))
    with pytest.raises(LaunchError, match=r"linear.*weight.*int32"):
        kernels.linear(x, put(np.ones((2, 4), np.int32)))


def test_unknown_names_are_refused(put):
    x, weight = put(np.ones((1, 4), np.float32)), put(np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match=r"activation: expected one of .*silu.*, found 'swish'"):
        kernels.linear(x, weight, activation="swish")
    with pytest.raises(ValueError, match=r"Norm.kind: expected 'rms' or 'layer', found 'batch'"):
        kernels.linear(x, weight, norm=Norm("batch", None, None, 1e-6))


def test_results_come_from_the_pool_of_the_input(device, normal):
    from pygpukit.core import MemoryPool

    pool = MemoryPool(device, quota=1 << 20)
    x = Tensor.from_numpy(normal(2, 8), pool=pool)
    before = pool.stats().in_use
    y = kernels.linear(x, Tensor.from_numpy(normal(4, 8), device=device))
    assert pool.stats().in_use > before
    del y
    assert pool.stats().in_use == before
