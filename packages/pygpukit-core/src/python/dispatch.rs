//! `KernelDispatchController`, `Graph`, `GraphNode`, `DispatchStats`.

use std::sync::OnceLock;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt, PyList, PyTuple, PyType};

use super::device::PyDevice;
use super::tensor::PyTensor;
use crate::device::Device;
use crate::dispatch::{
    ArgValue, Argument, DispatchStats, Graph, KernelDispatchController, Launch, LaunchError,
};

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyKernelDispatchController>()?;
    module.add_class::<PyGraph>()?;
    module.add_class::<PyGraphNode>()?;
    module.add_class::<PyDispatchStats>()
}

/// The launches on one device; `device.controller` is the one there is for a device.
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

    /// Runs a kernel on `args`: tensors, numbers, and None for optional tensors, in the order of its
    /// signature. Waits first for the copies that fill the tensors. Within a capture of this thread
    /// the launch is checked and recorded but not run.
    ///
    /// Raises LaunchError before anything runs, KernelError when the kernel breaks.
    #[pyo3(signature = (name, args, /))]
    fn launch(&self, py: Python<'_>, name: &str, args: &Bound<'_, PyAny>) -> PyResult<()> {
        let arguments = arguments(args)?;
        Ok(py.detach(|| self.0.launch(name, arguments))?)
    }

    /// A graph that records the launches of a `with` block: `with controller.capture() as graph:`.
    fn capture(&self) -> PyGraph {
        PyGraph { controller: self.0, graph: OnceLock::new() }
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
fn arguments(args: &Bound<'_, PyAny>) -> PyResult<Vec<Argument>> {
    if let Ok(args) = args.cast::<PyTuple>() {
        args.iter_borrowed().enumerate().map(|(index, arg)| argument(index, &arg)).collect()
    } else if let Ok(args) = args.cast::<PyList>() {
        args.iter().enumerate().map(|(index, arg)| argument(index, &arg)).collect()
    } else {
        args.try_iter()?.enumerate().map(|(index, arg)| argument(index, &arg?)).collect()
    }
}

fn argument(index: usize, arg: &Bound<'_, PyAny>) -> PyResult<Argument> {
    if let Ok(tensor) = arg.cast::<PyTensor>() {
        return Ok(Argument::Tensor(tensor.get().0.clone()));
    }
    if arg.is_none() {
        return Ok(Argument::None);
    }
    if let Ok(value) = arg.cast::<PyFloat>() {
        return Ok(Argument::Float(value.extract()?));
    }
    if let Ok(value) = arg.cast::<PyInt>() {
        return Ok(Argument::Int(value.extract()?));
    }
    // NumPy's scalars, for example.
    if let Ok(value) = arg.extract() {
        return Ok(Argument::Int(value));
    }
    arg.extract().map(Argument::Float).map_err(|_| {
        let found = arg.get_type().fully_qualified_name().map_or("?".to_owned(), |n| n.to_string());
        PyTypeError::new_err(format!(
            "argument {index} of a launch: expected a Tensor, a number or None, found {found}"
        ))
    })
}

/// Launches that were captured in a `with` block, to be run again and again.
///
/// The graph keeps its tensors alive and in place; a replay sees what was written into them since.
/// After an exception in the block there is no graph, and `replay` raises LaunchError.
#[pyclass(name = "Graph", module = "pygpukit.core", frozen)]
pub(super) struct PyGraph {
    controller: &'static KernelDispatchController,
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
        graph.controller.begin_capture()?;
        Ok(slf)
    }

    fn __exit__(
        &self,
        exception: Option<&Bound<'_, PyType>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        if exception.is_some() {
            self.controller.discard_capture();
        } else {
            // Only `__enter__` lets a capture end here, and only once.
            let _ = self.graph.set(self.controller.end_capture()?);
        }
        Ok(false)
    }

    /// Runs the launches in order, `times` times. Ctrl-C stops it between two rounds.
    ///
    /// Raises KernelError when a kernel breaks; the launches after it haven't run then.
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

    /// The launches, in order.
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

/// One launch of a graph.
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

    /// The arguments by parameter name: numbers, None, or dtype and shape of a tensor.
    #[getter]
    fn arguments(&self, py: Python<'_>) -> Py<PyDict> {
        self.arguments.clone_ref(py)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("<GraphNode {} {}>", self.kernel, self.arguments.bind(py))
    }
}

/// Counters of a controller.
#[pyclass(name = "DispatchStats", module = "pygpukit.core", frozen)]
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

    /// How often each kernel ran, by name.
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
