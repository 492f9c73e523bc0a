import importlib.metadata
import inspect

import numpy as np
import pytest
from pygpukit import kernels


def test_only_core_is_needed():
    version = importlib.metadata.version("pygpukit-kernels")
    assert importlib.metadata.requires("pygpukit-kernels") == [f"pygpukit-core=={version}"]
    assert importlib.metadata.version("pygpukit-core") == version


def test_every_kernel_has_its_operation(device):
    operations = {name for name in kernels.__all__ if inspect.isfunction(getattr(kernels, name))}
    assert set(device.controller.kernels) == operations


@pytest.mark.parametrize("name", kernels.__all__)
def test_everything_is_documented(name):
    assert getattr(kernels, name).__doc__


def test_a_captured_step_replays_to_the_same_bits(device, put, normal):
    weight, gamma = put(normal(64, 64)), put(normal(64))
    x = put(normal(1, 64))

    def step():
        h = kernels.rms_norm(x, gamma, 1e-6)
        return kernels.linear(h, weight, activation="silu", residual=x, out=x)

    before = x.numpy()
    step()
    step()
    eager = x.numpy()
    x.copy_(before)
    launches = device.controller.stats().launches
    with device.controller.capture() as graph:
        step()
    np.testing.assert_array_equal(x.numpy(), before)  # nothing has run
    assert [node.kernel for node in graph.nodes()] == ["rms_norm", "linear"]
    graph.replay(times=2)
    np.testing.assert_array_equal(x.numpy(), eager)
    assert device.controller.stats().launches == launches + 4
