//! `KernelDispatchController`, `Graph`, `GraphNode`, `DispatchStats`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt, PyList, PyTuple, PyType};

use super::device::PyDevice;
use super::memory::PyMemoryPool;
use super::tensor::PyTensor;
use crate::cuda;
use crate::device::Device;
use crate::dispatch::{
    ArgValue, Argument, DispatchStats, Graph, KernelDispatchController, Launch, LaunchError,
};
use crate::memory::MemoryPool;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyKernelDispatchController>()?;
    module.add_class::<PyGraph>()?;
    module.add_class::<PyGraphNode>()?;
    module.add_class::<PyDispatchStats>()
}

/// The one way to run a kernel on a device: `device.controller`.
///
/// A launch is checked against the kernel's signature (how many arguments, of which kind, dtype and
/// number of dimensions) and by the kernel itself (how shapes fit together) before anything runs.
#[pyclass(name = "KernelDispatchController", module = "pygpukit.core", frozen)]
pub(super) struct PyKernelDispatchController(&'static KernelDispatchController);

impl PyKernelDispatchController {
    pub(super) fn of(device: Device) -> Self {
        PyKernelDispatchController(KernelDispatchController::default_of(device))
    }
}

#[pymethods]
impl PyKernelDispatchController {
    /// The device that it launches on.
    #[getter]
    fn device(&self) -> PyDevice {
        PyDevice(self.0.device())
    }

    /// The names of the kernels that there are, sorted.
    #[getter]
    fn kernels<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.0.kernels())
    }

    /// Runs a kernel; within a capture of this thread the launch is recorded instead.
    ///
    /// It comes after the copies that fill the tensors. On a GPU it is queued, behind what was launched
    /// before: host access to a tensor waits for it.
    ///
    /// Args:
    ///     name: One of `kernels`.
    ///     args: Tensors, numbers, and None for optional tensors, in the order of the signature.
    ///
    /// Raises:
    ///     LaunchError: The kernel isn't known or an argument doesn't fit; nothing has run.
    ///     KernelError: The kernel broke, or one launched before it on a GPU.
    ///     DeviceError: The GPU has no such kernel.
    ///     PygpukitError: What went wrong with a copy that was to fill one of the tensors.
    #[pyo3(signature = (name, args, /))]
    fn launch(&self, py: Python<'_>, name: &str, args: &Bound<'_, PyAny>) -> PyResult<()> {
        let arguments = arguments(name, args)?;
        Ok(py.detach(|| self.0.launch(name, arguments))?)
    }

    /// A graph that records this thread's launches, and runs none of them.
    ///
    /// Use it as `with controller.capture() as graph:`. Captures don't nest.
    ///
    /// Args:
    ///     arena: A pool of the device whose tensors are not kept for the graph: those that are gone
    ///         when the capture ends lend their memory to later ones. Graphs of one arena work in the
    ///         same memory, which goes back to the device only after the last of them; what a replay
    ///         leaves in its other tensors lasts until the next replay of any of these graphs.
    ///
    /// Raises:
    ///     ValueError: The arena is of another device.
    #[pyo3(signature = (arena=None))]
    fn capture(&self, arena: Option<&PyMemoryPool>) -> PyResult<PyGraph> {
        let arena = arena.map(|arena| Arc::clone(&arena.0));
        if let Some(other) = arena.as_ref().map(|arena| arena.device())
            && other != self.0.device()
        {
            let device = self.0.device();
            let message = format!("arena: expected a pool of {device}, found one of {other}");
            return Err(PyValueError::new_err(message));
        }
        Ok(PyGraph { controller: self.0, arena, graph: OnceLock::new() })
    }

    /// The files of compiled kernels that a GPU has loaded so far, by source.
    ///
    /// A `.cubin` is machine code; a `.ptx` was compiled by the driver.
    fn images(&self) -> BTreeMap<&'static str, PathBuf> {
        match self.0.device() {
            Device::Cpu => BTreeMap::new(),
            Device::Cuda(ordinal) => cuda::loaded_images(ordinal).into_iter().collect(),
        }
    }

    /// The counters, as of now.
    fn stats(&self) -> PyDispatchStats {
        PyDispatchStats(self.0.stats())
    }

    fn __repr__(&self) -> String {
        format!("<KernelDispatchController of {}>", self.0.device())
    }
}

/// The arguments of a launch, from a tuple, a list or any other iterable.
fn arguments(kernel: &str, args: &Bound<'_, PyAny>) -> PyResult<Vec<Argument>> {
    let argument = |(index, arg): (usize, Bound<'_, PyAny>)| argument(kernel, index, &arg);
    if let Ok(args) = args.cast::<PyTuple>() {
        args.iter().enumerate().map(argument).collect()
    } else if let Ok(args) = args.cast::<PyList>() {
        args.iter().enumerate().map(argument).collect()
    } else {
        args.try_iter()?.enumerate().map(|(index, arg)| argument((index, arg?))).collect()
    }
}

fn argument(kernel: &str, index: usize, arg: &Bound<'_, PyAny>) -> PyResult<Argument> {
    if let Ok(tensor) = arg.cast::<PyTensor>() {
        return Ok(Argument::Tensor(tensor.get().0.clone()));
    }
    if arg.is_none() {
        return Ok(Argument::None);
    }
    if let Ok(value) = arg.cast::<PyFloat>() {
        return Ok(Argument::Float(value.extract()?));
    }
    // NumPy's scalars are numbers too.
    if let Ok(value) = arg.extract() {
        return Ok(Argument::Int(value));
    }
    if arg.is_instance_of::<PyInt>() {
        return Err(PyOverflowError::new_err(format!(
            "kernel {kernel}, argument {index}: {arg} doesn't fit in 64 bits"
        )));
    }
    arg.extract().map(Argument::Float).map_err(|_| {
        PyTypeError::new_err(format!(
            "kernel {kernel}, argument {index}: expected a Tensor, a number or None, found {}",
            arg.get_type()
        ))
    })
}

/// Launches that were captured in a `with` block, to be run again and again.
///
/// The graph keeps its tensors alive and in place; a replay sees what was written into them since.
/// Threads that replay the same graph take turns. Before the end of the block, and after an
/// exception in it, there is no graph: it is false, and its methods raise LaunchError.
#[pyclass(name = "Graph", module = "pygpukit.core", frozen)]
pub(super) struct PyGraph {
    controller: &'static KernelDispatchController,
    arena: Option<Arc<MemoryPool>>,
    graph: OnceLock<Graph>,
}

impl PyGraph {
    fn graph(&self) -> PyResult<&Graph> {
        let missing = LaunchError::Capture("the graph's `with` block hasn't ended, or it failed");
        self.graph.get().ok_or_else(|| missing.into())
    }
}

#[pymethods]
impl PyGraph {
    fn __enter__(slf: Py<Self>) -> PyResult<Py<Self>> {
        let graph = slf.get();
        if graph.graph.get().is_some() {
            return Err(LaunchError::Capture("the graph has been captured already").into());
        }
        graph.controller.begin_capture(graph.arena.as_ref())?;
        Ok(slf)
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        exception: Option<&Bound<'_, PyType>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        if exception.is_some() {
            self.controller.discard_capture();
        } else {
            // Only `__enter__` lets a capture end here, and only once.
            let _ = self.graph.set(py.detach(|| self.controller.end_capture())?);
        }
        Ok(false)
    }

    /// Runs the launches in order, with no Python in between.
    ///
    /// They come after the copies that fill the tensors. On a GPU they are queued as one.
    ///
    /// Args:
    ///     times: How often to run all of them. Ctrl-C interrupts it between two rounds.
    ///
    /// Raises:
    ///     KernelError: A kernel broke, the launches after it not having run; or, on a GPU, one
    ///         launched before.
    #[pyo3(signature = (times=1))]
    fn replay(&self, py: Python<'_>, times: usize) -> PyResult<()> {
        let graph = self.graph()?;
        for round in 0..times {
            if round > 0 {
                py.check_signals()?;
            }
            py.detach(|| graph.replay())?;
        }
        Ok(())
    }

    /// The launches, in order, as they were captured.
    fn nodes(&self, py: Python<'_>) -> PyResult<Vec<PyGraphNode>> {
        self.graph()?.launches().iter().map(|launch| PyGraphNode::new(py, launch)).collect()
    }

    fn __len__(&self) -> PyResult<usize> {
        Ok(self.graph()?.launches().len())
    }

    fn __bool__(&self) -> bool {
        self.graph.get().is_some()
    }

    fn __repr__(&self) -> String {
        let device = self.controller.device();
        match self.graph.get() {
            Some(graph) => format!("<Graph of {} launches on {device}>", graph.launches().len()),
            None => format!("<Graph on {device}, not captured>"),
        }
    }
}

/// One launch of a graph, as a description.
#[pyclass(name = "GraphNode", module = "pygpukit.core", frozen)]
pub(super) struct PyGraphNode {
    kernel: &'static str,
    arguments: Py<PyDict>,
}

impl PyGraphNode {
    fn new(py: Python<'_>, launch: &Launch) -> PyResult<Self> {
        let arguments = PyDict::new(py);
        for (name, value) in launch.arguments() {
            match value {
                ArgValue::Tensor(tensor) => {
                    let shape = PyTuple::new(py, &tensor.shape)?;
                    arguments.set_item(name, (tensor.dtype.name(), shape))?;
                }
                ArgValue::Int(value) => arguments.set_item(name, value)?,
                ArgValue::Float(value) => arguments.set_item(name, value)?,
                ArgValue::None => arguments.set_item(name, py.None())?,
            }
        }
        Ok(PyGraphNode { kernel: launch.kernel(), arguments: arguments.unbind() })
    }
}

#[pymethods]
impl PyGraphNode {
    /// The kernel's name.
    #[getter]
    fn kernel(&self) -> &'static str {
        self.kernel
    }

    /// The arguments by parameter name: a number, None, or (dtype, shape) of a tensor.
    #[getter]
    fn arguments(&self, py: Python<'_>) -> Py<PyDict> {
        self.arguments.clone_ref(py)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("<GraphNode {} {}>", self.kernel, self.arguments.bind(py))
    }
}

/// Counters of a controller since the start of the process.
#[pyclass(name = "DispatchStats", module = "pygpukit.core", frozen, eq)]
#[derive(PartialEq)]
pub(super) struct PyDispatchStats(DispatchStats);

#[pymethods]
impl PyDispatchStats {
    /// Kernels run, those of replays included.
    #[getter]
    fn launches(&self) -> u64 {
        self.0.launches
    }

    /// Graphs replayed.
    #[getter]
    fn replays(&self) -> u64 {
        self.0.replays
    }

    /// How often each kernel ran, by name, for those that did.
    #[getter]
    fn kernels<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let kernels = PyDict::new(py);
        for (name, runs) in &self.0.kernels {
            kernels.set_item(name, runs)?;
        }
        Ok(kernels)
    }

    fn __repr__(&self) -> String {
        let DispatchStats { launches, replays, .. } = self.0;
        format!("DispatchStats(launches={launches}, replays={replays})")
    }
}
