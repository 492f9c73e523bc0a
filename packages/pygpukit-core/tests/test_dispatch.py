"""Launches: checks, counters, graphs."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from pygpukit.core import (
    Device,
    DispatchStats,
    Graph,
    KernelDispatchController,
    LaunchError,
    MemoryPool,
    Tensor,
)


def vector(*values: float) -> Tensor:
    """A float32 tensor of shape (1, n)."""
    return Tensor.from_numpy([values], "float32")


@pytest.fixture
def counted(controller: KernelDispatchController):
    """Launches and replays since this was called last."""
    last = controller.stats()

    def counted() -> tuple[int, int]:
        nonlocal last
        before, last = last, controller.stats()
        return last.launches - before.launches, last.replays - before.replays

    return counted


def test_a_launch_runs_and_is_counted(controller: KernelDispatchController, counted):
    x, y, out = vector(1, 2), vector(10, 20), vector(0, 0)
    added = controller.stats().kernels.get("add", 0)
    controller.launch("add", (x, y, out, 0.5))
    assert out.tolist() == [[6, 12]]
    # Any iterable; whole numbers and NumPy's are numbers too.
    for args in ([x, y, out, 2], iter((x, y, out, np.float32(2))), (x, y, out, np.int64(2))):
        out.copy_([[0, 0]])
        controller.launch("add", args)
        assert out.tolist() == [[21, 42]]
    assert counted() == (4, 0)
    assert controller.stats().kernels["add"] == added + 4


def test_the_controller_says_what_it_has(controller: KernelDispatchController):
    assert controller.device == Device("cpu")
    assert list(controller.kernels) == sorted(controller.kernels)
    assert "linear" in controller.kernels
    stats = controller.stats()
    assert isinstance(stats, DispatchStats)
    assert set(stats.kernels) <= set(controller.kernels)
    assert sum(stats.kernels.values()) == stats.launches
    assert stats == controller.stats()
    assert repr(controller) == "<KernelDispatchController of cpu>"


@pytest.mark.parametrize(
    ("name", "args", "error", "message"),
    [
        (
            "ad",
            (),
            LaunchError,
            'unknown kernel "ad" on device cpu; known kernels: activation, add',
        ),
        ("add", (), LaunchError, "kernel add takes 4 arguments, got 0"),
        ("add", "xyoN", LaunchError, "kernel add, argument scale: expected a number, found None"),
        ("add", "Nyo1", LaunchError, "kernel add, argument x: expected a tensor, found None"),
        ("add", "1yo1", LaunchError, "argument x: expected a tensor, found the whole number 1"),
        ("add", "iyo1", LaunchError, "argument x: expected dtype float32 or bfloat16, found int32"),
        ("add", "fyo1", LaunchError, r"argument x: expected 2 dimensions, found shape \[2\]"),
        ("add", "wyo1", LaunchError, r"kernel add, argument y: .*shape"),
        ("add", "syo1", TypeError, "kernel add, argument 0: expected a Tensor, a number or None"),
        ("add", "xyoL", OverflowError, "kernel add, argument 3: .* doesn't fit in 64 bits"),
        ("gather_rows", "xNo", LaunchError, "argument rows: expected a tensor, found None"),
    ],
)
def test_a_bad_launch_names_kernel_and_argument(controller, counted, name, args, error, message):
    values = {
        "x": vector(1, 2),
        "y": vector(1, 2),
        "o": vector(5, 5),
        "w": vector(1, 2, 3),
        "i": Tensor.zeros((1, 2), "int32"),
        "f": Tensor.zeros(2, "float32"),
        "s": "text",
        "N": None,
        "1": 1,
        "L": 1 << 64,
    }
    with pytest.raises(error, match=message):
        controller.launch(name, [values[arg] for arg in args])
    assert values["o"].tolist() == [[5, 5]]
    assert counted() == (0, 0)


def fibonacci(controller: KernelDispatchController) -> tuple[Graph, Tensor, Tensor]:
    """A graph of a += b, b += a, and its tensors."""
    a, b = vector(0), vector(1)
    with controller.capture() as graph:
        controller.launch("add", (a, b, a, 1))
        controller.launch("add", (b, a, b, 1))
    return graph, a, b


def test_a_graph_runs_what_was_captured(controller: KernelDispatchController, counted):
    graph, a, b = fibonacci(controller)
    assert (a.item(), b.item()) == (0, 1)
    assert counted() == (0, 0)
    graph.replay()
    assert (a.item(), b.item()) == (1, 2)
    graph.replay(times=3)
    assert (a.item(), b.item()) == (21, 34)
    assert counted() == (8, 4)
    graph.replay(0)
    assert counted() == (0, 0)
    # A replay sees what was written since.
    a.copy_([[100]])
    graph.replay()
    assert (a.item(), b.item()) == (134, 168)


def test_a_replay_is_what_the_launches_are(controller: KernelDispatchController, rng):
    x = rng.standard_normal((5, 32), np.float32)
    gamma = Tensor.from_numpy(rng.standard_normal(32, np.float32))

    def step(h: Tensor, out: Tensor) -> None:
        controller.launch("rms_norm", (h, None, gamma, None, None, out, 1e-6, 0.0))
        controller.launch("add", (out, h, h, 0.25))

    eager, replayed = (Tensor.from_numpy(x) for _ in range(2))
    for _ in range(3):
        step(eager, Tensor.zeros(x.shape, "float32"))
    with controller.capture() as graph:
        step(replayed, Tensor.zeros(x.shape, "float32"))
    graph.replay(3)
    assert replayed.numpy().tobytes() == eager.numpy().tobytes() != x.tobytes()


def test_a_graph_describes_its_launches(controller: KernelDispatchController):
    graph, _, _ = fibonacci(controller)
    first, second = graph.nodes()
    assert (first.kernel, second.kernel, len(graph), bool(graph)) == ("add", "add", 2, True)
    tensor = ("float32", (1, 1))
    assert first.arguments == {"x": tensor, "y": tensor, "out": tensor, "scale": 1}
    assert repr(graph) == "<Graph of 2 launches on cpu>"
    assert repr(first).startswith("<GraphNode add {'x': ('float32', (1, 1))")


def test_a_graph_keeps_its_tensors(controller: KernelDispatchController, pool: MemoryPool):
    x = Tensor.from_numpy([[3.0]], "float32", pool=pool)
    out = vector(0)
    with controller.capture() as graph:
        controller.launch("add", (x, x, out, 1))
    del x
    assert pool.stats().live_blocks == 1
    graph.replay()
    assert out.item() == 6
    del graph
    assert pool.stats().live_blocks == 0


def test_a_capture_that_fails_leaves_nothing_behind(controller: KernelDispatchController, counted):
    x = vector(1)
    graph = controller.capture()
    for use in (graph.replay, graph.nodes, lambda: len(graph)):
        with pytest.raises(LaunchError, match="`with` block hasn't ended, or it failed"):
            use()

    def launch_and_fail() -> None:
        controller.launch("add", (x, x, x, 1))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), graph:
        launch_and_fail()
    assert not graph
    assert repr(graph) == "<Graph on cpu, not captured>"
    with pytest.raises(LaunchError, match="hasn't ended, or it failed"):
        graph.replay()
    with pytest.raises(LaunchError, match="takes 4 arguments"), controller.capture():
        controller.launch("add", ())
    controller.launch("add", (x, x, x, 1))
    assert x.item() == 2
    assert counted() == (1, 0)


def test_captures_do_not_nest_and_are_made_once(controller: KernelDispatchController):
    x = vector(1)
    with controller.capture() as graph:
        with (
            pytest.raises(LaunchError, match="capturing a graph already"),
            controller.capture(),
        ):
            pytest.fail("the inner capture began")
        controller.launch("add", (x, x, x, 1))
    assert len(graph) == 1
    with pytest.raises(LaunchError, match="has been captured already"), graph:
        pytest.fail("the graph was captured twice")
    with controller.capture() as empty:
        pass
    assert (len(empty), bool(empty)) == (0, True)
    empty.replay()


def test_other_threads_run_while_one_captures(controller: KernelDispatchController):
    x, y = vector(1), vector(1)
    with controller.capture() as graph:
        thread = threading.Thread(target=controller.launch, args=("add", (y, y, y, 1)))
        thread.start()
        thread.join()
        controller.launch("add", (x, x, x, 1))
    assert (x.item(), y.item(), len(graph)) == (1, 2, 1)
