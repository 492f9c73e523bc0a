//! `SchedulerShare`.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::scheduler::{PyScheduler, PySchedulerConfig, PyStepPlan, lock};
use crate::scheduler::{Micros, ModelId, Share, ShareError};

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PySchedulerShare>()
}

impl From<ShareError> for PyErr {
    fn from(error: ShareError) -> PyErr {
        PyValueError::new_err(error.to_string())
    }
}

/// The schedulers of several models on one device.
///
/// The quotas of all caches together never exceed the device's. Steps go by turns: next is the
/// model that has computed the fewest tokens for its weight, among those with something to run.
///
/// Args:
///     bytes: What the caches may take together.
#[pyclass(name = "SchedulerShare", module = "pygpukit.core", frozen)]
pub(super) struct PySchedulerShare(Arc<Mutex<Share>>);

#[pymethods]
impl PySchedulerShare {
    #[new]
    #[pyo3(signature = (bytes, /))]
    fn new(bytes: u64) -> Self {
        PySchedulerShare(Arc::new(Mutex::new(Share::new(bytes))))
    }

    /// Adds a model.
    ///
    /// Args:
    ///     config: The bounds of its scheduler.
    ///     page_bytes: Bytes of a page: keys and values of all layers.
    ///     weight: How many tokens it computes where one of weight 1 computes one.
    ///
    /// Returns:
    ///     Its scheduler. Steps are planned by the share, or by the scheduler of the model whose `turn`
    ///     it is.
    ///
    /// Raises:
    ///     ValueError: Its pages don't fit beside the others', or the weight is 0.
    #[pyo3(signature = (config, page_bytes, *, weight=1))]
    fn add(
        &self,
        config: &PySchedulerConfig,
        page_bytes: u64,
        weight: u32,
    ) -> PyResult<PyScheduler> {
        let weight = NonZeroU32::new(weight)
            .ok_or_else(|| PyValueError::new_err("weight: expected at least 1, found 0"))?;
        let model = lock(&self.0).add(config.0, page_bytes, weight)?;
        Ok(PyScheduler::of(&self.0, model))
    }

    /// The next step and whose it is: the number of the model, in the order of adding.
    ///
    /// Returns:
    ///     None if no model has anything to run or to tell.
    fn schedule(&self, now: Micros) -> Option<(ModelId, PyStepPlan)> {
        lock(&self.0).schedule(now).map(|(model, plan)| (model, PyStepPlan(plan)))
    }

    /// Whose turn it is to plan a step: the number of the model, in the order of adding.
    ///
    /// Returns:
    ///     None if no model has requests or steps under way.
    fn turn(&self) -> Option<ModelId> {
        lock(&self.0).turn()
    }
}
