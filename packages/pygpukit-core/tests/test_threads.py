"""Python threads and signals: native work lets both through."""

from __future__ import annotations

import _thread
import os
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from pygpukit.core import Graph, KernelDispatchController, Tensor
from weight_files import entry, safetensors_file


@pytest.fixture
def counter() -> Tensor:
    return Tensor.zeros((1, 1), "float32")


@pytest.fixture
def graph(controller: KernelDispatchController, counter: Tensor) -> Graph:
    """Adds 1 to `counter`."""
    one = Tensor.from_numpy([[1.0]], "float32")
    with controller.capture() as graph:
        controller.launch("add", (counter, one, counter, 1))
    return graph


def test_python_runs_while_a_graph_is_replayed(controller: KernelDispatchController):
    x = Tensor.from_numpy(np.ones((1, 1 << 20), np.float32))
    with controller.capture() as graph:
        for _ in range(200):
            controller.launch("add", (x, x, x, 0.5))
    began, seen = threading.Event(), []

    def replay() -> None:
        began.set()
        graph.replay()
        seen.append(monotonic())

    thread = threading.Thread(target=replay)
    thread.start()
    began.wait()
    ticks = []
    while not seen:
        ticks.append(monotonic())
    thread.join()
    # Were the lock kept, this thread would not have run between the start and the end.
    pauses = np.diff(ticks)
    assert len(ticks) > 100
    assert pauses.max() < (ticks[-1] - ticks[0]) / 2


def test_threads_launch_and_replay_at_once(controller, graph: Graph, counter: Tensor):
    """Replays of one graph take turns, so that none is lost; launches on other tensors go on."""
    totals = [Tensor.zeros((1, 8), "float32") for _ in range(4)]

    def work(total: Tensor) -> None:
        one = Tensor.from_numpy(np.ones((1, 8), np.float32))
        for _ in range(500):
            graph.replay()
            controller.launch("add", (total, one, total, 1))

    threads = [threading.Thread(target=work, args=(total,)) for total in totals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.item() == 2000
    assert all((total.numpy() == 500).all() for total in totals)


def test_ctrl_c_stops_a_long_replay(graph: Graph, counter: Tensor):
    timer = threading.Timer(0.1, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        graph.replay(1 << 40)
    timer.join()
    rounds = counter.item()
    assert rounds > 0
    graph.replay()
    assert counter.item() in (rounds + 1, rounds)  # float32 stops counting at 2**24


def test_uploads_from_many_threads(load, rng: np.random.Generator):
    values = rng.integers(0, 256, (64, 4096), np.uint8)
    header = {"x": entry("U8", values.shape, 0, values.nbytes)}
    view = load(safetensors_file(header, values.tobytes()))["x"]
    target = Tensor.zeros(values.shape, "uint8")

    def upload(first: int) -> None:
        for row in range(first, 64, 4):
            target[row : row + 1].copy_(view[row : row + 1])

    threads = [threading.Thread(target=upload, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(target.numpy(), values)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_threads_of_its_own(tmp_path: Path):
    """As servers have them that load a model and then fork their workers."""
    path = tmp_path / "model.safetensors"
    values = np.ones((512, 8192), np.float32)
    header = {"x": entry("F32", values.shape, 0, values.nbytes)}
    path.write_bytes(safetensors_file(header, values.tobytes()))
    code = f"""
import os, signal
from pygpukit.core import Device, Tensor, load_tensors

view = load_tensors({str(path)!r})["x"]
add = lambda x: Device("cpu").controller.launch("add", (x, x, x, 1))
add(Tensor.from_safetensor(view))
child = os.fork()
signal.alarm(30)
x = Tensor.from_safetensor(view)
add(x)
assert (x.numpy() == 2).all()
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-I", "-W", "ignore", "-c", code], check=True, timeout=60)
