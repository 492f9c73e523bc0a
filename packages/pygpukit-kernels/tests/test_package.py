import hashlib
import importlib.metadata
import inspect
import json
from pathlib import Path

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


@pytest.fixture
def images() -> Path:
    folder = Path(kernels.__file__).parent / "_cuda"
    if not folder.is_dir():
        pytest.skip("this wheel was built where there is no CUDA compiler")
    return folder


def test_the_manifest_is_that_of_the_compiled_kernels(images):
    manifest = json.loads((images / "manifest.json").read_text("utf-8"))
    assert manifest["tools"]["nvrtc"]
    hashes = {image["file"]: image["sha256"] for image in manifest["images"]}
    files = {file.name: file.read_bytes() for file in images.iterdir()}
    del files["manifest.json"]
    assert hashes == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


@pytest.mark.parametrize("target", ["compute_80", "compute_90", "compute_90a"])
def test_every_source_is_there_for_every_supported_gpu(images, target):
    sources = {file.name.split(".")[0] for file in images.glob("*.ptx")}
    assert {"linear_gemv", "linear_wgmma"} < sources
    # Those written for Hopper alone have others beside them.
    hopper = target == "compute_90a"
    own = ("_wgmma", "_tma", "_persistent")
    for source in {name for name in sources if name.endswith(own) == hopper}:
        text = (images / f"{source}.{target}.ptx").read_text()
        assert f".target {target.replace('compute', 'sm')}" in text
        assert f".visible .entry {source}" in text


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
