//! `simulate`, `SimulationReport`, `Latencies`.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::scheduler::PySchedulerConfig;
use crate::scheduler::simulate::{
    Arrival, Latencies, Report, SimulationError, StepCost, simulate as replay,
};
use crate::scheduler::{Micros, TenantId};

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PySimulationReport>()?;
    module.add_class::<PyLatencies>()?;
    module.add_function(wrap_pyfunction!(simulate, module)?)
}

impl From<SimulationError> for PyErr {
    fn from(error: SimulationError) -> PyErr {
        PyValueError::new_err(error.to_string())
    }
}

/// Replays traffic through a scheduler without a device.
///
/// Args:
///     config: The scheduler's bounds.
///     arrivals: For each request, in the order of time, (at, prompt, output, shared, group,
///         tenant, priority): when it comes in microseconds, tokens of its prompt and of its
///         output, how many tokens of the prompt are the same for all of its group, the group, and
///         whose it is.
///     step: Microseconds that any step takes.
///     token: Microseconds for each token that it computes.
///     position: Microseconds for each cached position that its attention reads.
///
/// Raises:
///     ValueError: The arrivals aren't in order, or a time makes no sense.
#[pyfunction]
#[pyo3(signature = (config, arrivals, *, step, token=0.0, position=0.0))]
fn simulate(
    py: Python<'_>,
    config: &PySchedulerConfig,
    arrivals: Vec<(Micros, u32, u32, u32, u32, TenantId, i32)>,
    step: f64,
    token: f64,
    position: f64,
) -> PyResult<PySimulationReport> {
    let arrivals =
        arrivals.into_iter().map(|(at, prompt, output, shared, group, tenant, priority)| Arrival {
            at,
            prompt,
            output,
            shared,
            group,
            tenant,
            priority,
        });
    let cost = StepCost { step, token, position };
    Ok(PySimulationReport(py.detach(|| replay(config.0, cost, arrivals))?))
}

/// What became of simulated traffic; times are microseconds.
#[pyclass(name = "SimulationReport", module = "pygpukit.core", frozen)]
pub(super) struct PySimulationReport(Report);

#[pymethods]
impl PySimulationReport {
    /// Requests that got all their tokens.
    #[getter]
    fn finished(&self) -> u64 {
        self.0.finished
    }

    /// Requests that were refused.
    #[getter]
    fn refused(&self) -> u64 {
        self.0.refused
    }

    /// Steps that ran.
    #[getter]
    fn steps(&self) -> u64 {
        self.0.steps
    }

    /// When the last of them ended.
    #[getter]
    fn end(&self) -> Micros {
        self.0.end
    }

    /// How long steps ran; the rest of the time there was nothing to do.
    #[getter]
    fn busy(&self) -> Micros {
        self.0.busy
    }

    /// Times that a request had to give up its pages.
    #[getter]
    fn preemptions(&self) -> u64 {
        self.0.preemptions
    }

    /// Tokens that were computed.
    #[getter]
    fn computed_tokens(&self) -> u64 {
        self.0.computed_tokens
    }

    /// Tokens that were found in the cache instead.
    #[getter]
    fn cached_tokens(&self) -> u64 {
        self.0.cached_tokens
    }

    /// From arrival to the first token.
    #[getter]
    fn first_token(&self) -> PyLatencies {
        PyLatencies(self.0.first_token.clone())
    }

    /// From one token of a request to its next.
    #[getter]
    fn between_tokens(&self) -> PyLatencies {
        PyLatencies(self.0.between_tokens.clone())
    }

    /// From arrival to the last token.
    #[getter]
    fn whole(&self) -> PyLatencies {
        PyLatencies(self.0.whole.clone())
    }
}

/// Many durations, in microseconds, to three digits.
#[pyclass(name = "Latencies", module = "pygpukit.core", frozen)]
pub(super) struct PyLatencies(Latencies);

#[pymethods]
impl PyLatencies {
    /// Their mean; 0.0 if there are none.
    #[getter]
    fn mean(&self) -> f64 {
        self.0.mean()
    }

    /// The least duration that `percent` per cent don't exceed; 0 if there are none.
    ///
    /// Raises:
    ///     ValueError: `percent` isn't from 0 to 100.
    #[pyo3(signature = (percent, /))]
    fn percentile(&self, percent: f64) -> PyResult<Micros> {
        if !(0.0..=100.0).contains(&percent) {
            let message = format!("percent: expected a number from 0 to 100, found {percent}");
            return Err(PyValueError::new_err(message));
        }
        Ok(self.0.percentile(percent))
    }

    fn __len__(&self) -> usize {
        self.0.count() as usize
    }
}
