//! `SchedulerConfig`, `Scheduler`, `StepPlan`, `StepRow`, `SchedulerStats`.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use slotmap::{Key, KeyData};

use super::errors::refused;
use crate::scheduler::{
    Chosen, ConfigError, End, Micros, ModelId, OutcomeError, Refusal, Request, RequestId, Row,
    Scheduler, SchedulerConfig, Share, Stats, StepPlan, TenantId, Token,
};

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PySchedulerConfig>()?;
    module.add_class::<PyScheduler>()?;
    module.add_class::<PyStepPlan>()?;
    module.add_class::<PyStepRow>()?;
    module.add_class::<PySchedulerStats>()
}

impl From<ConfigError> for PyErr {
    fn from(error: ConfigError) -> PyErr {
        PyValueError::new_err(error.to_string())
    }
}

impl From<OutcomeError> for PyErr {
    fn from(error: OutcomeError) -> PyErr {
        PyValueError::new_err(error.to_string())
    }
}

impl From<Refusal> for PyErr {
    fn from(refusal: Refusal) -> PyErr {
        Python::attach(|py| refused(py, &refusal).unwrap_or_else(|failure| failure))
    }
}

/// A request as a number.
fn number(request: RequestId) -> u64 {
    request.data().as_ffi()
}

fn request_id(number: u64) -> RequestId {
    KeyData::from_ffi(number).into()
}

/// What bounds a scheduler.
///
/// Args:
///     pages: Pages of the cache: the quota.
///     page_size: Positions in a page.
///     step_tokens: Tokens that one step computes at most, of prompts and decoding requests.
///     max_running: Requests that run at once, at most `step_tokens`.
///     max_waiting: Requests that wait at once; more are refused.
///     max_length: Tokens of a request at most, prompt and output together: the model's context.
///     reserved_pages: Pages that stay free when a request is admitted beside others, for those to
///         grow into; by default a 64th of all.
///     cached_pages: Pages that are kept at most for others that begin alike while nobody uses
///         them; by default any number.
///     priority_boost: How many microseconds of waiting one level of priority is worth.
///     max_overtakes: Requests that may be admitted before one that was first but didn't fit.
///
/// Raises:
///     ValueError: The bounds allow no work at all.
#[pyclass(name = "SchedulerConfig", module = "pygpukit.core", frozen, eq)]
#[derive(PartialEq)]
pub(super) struct PySchedulerConfig(pub(super) SchedulerConfig);

#[pymethods]
impl PySchedulerConfig {
    #[new]
    #[pyo3(signature = (*, pages, page_size, step_tokens=512, max_running=256, max_waiting=1048576,
        max_length=2147483647, reserved_pages=None, cached_pages=None, priority_boost=600000000,
        max_overtakes=32))]
    #[expect(clippy::too_many_arguments, reason = "keywords")]
    fn new(
        pages: u32,
        page_size: u32,
        step_tokens: u32,
        max_running: u32,
        max_waiting: u32,
        max_length: u32,
        reserved_pages: Option<u32>,
        cached_pages: Option<u32>,
        priority_boost: Micros,
        max_overtakes: u32,
    ) -> PyResult<Self> {
        let default = SchedulerConfig::new(pages, page_size);
        let config = SchedulerConfig {
            step_tokens,
            max_running,
            max_waiting,
            max_length,
            reserved_pages: reserved_pages.unwrap_or(default.reserved_pages),
            cached_pages: cached_pages.unwrap_or(default.cached_pages),
            priority_boost,
            max_overtakes,
            ..default
        };
        config.check()?;
        Ok(PySchedulerConfig(config))
    }

    /// Pages of the cache.
    #[getter]
    fn pages(&self) -> u32 {
        self.0.pages
    }

    /// Positions in a page.
    #[getter]
    fn page_size(&self) -> u32 {
        self.0.page_size
    }

    /// Tokens that one step computes at most.
    #[getter]
    fn step_tokens(&self) -> u32 {
        self.0.step_tokens
    }

    /// Requests that run at once.
    #[getter]
    fn max_running(&self) -> u32 {
        self.0.max_running
    }

    /// Requests that wait at once.
    #[getter]
    fn max_waiting(&self) -> u32 {
        self.0.max_waiting
    }

    /// Tokens of a request at most: the context, or what all pages hold and one more.
    #[getter]
    fn capacity(&self) -> u32 {
        self.0.capacity()
    }

    fn __repr__(&self) -> String {
        let SchedulerConfig { pages, page_size, step_tokens, max_running, max_waiting, .. } =
            self.0;
        format!(
            "SchedulerConfig(pages={pages}, page_size={page_size}, step_tokens={step_tokens}, \
             max_running={max_running}, max_waiting={max_waiting})"
        )
    }
}

/// Decides which tokens of which requests run in the next step of a model: continuous batching.
///
/// It touches no device and no clock: the same calls always give the same decisions. Every running
/// request whose next token is due decodes; the rest of the step's budget goes to prompts, in
/// chunks, and to waiting requests: by turns between tenants, for each by priority and age. Keys
/// and values lie in pages; when they run out, the running request of the last rank is computed
/// again later. Requests that begin alike share pages.
///
/// Steps run, and are completed, in the order of their plans; plans may be made before earlier
/// steps are completed. Threads may share a scheduler.
///
/// Args:
///     config: Its bounds.
#[pyclass(name = "Scheduler", module = "pygpukit.core", frozen)]
pub(super) struct PyScheduler(Owner);

/// Where a scheduler is.
enum Owner {
    Alone(Box<Mutex<Scheduler>>),
    Share(Arc<Mutex<Share>>, ModelId),
}

impl PyScheduler {
    /// The scheduler of a model of a share.
    pub(super) fn of(share: &Arc<Mutex<Share>>, model: ModelId) -> Self {
        PyScheduler(Owner::Share(Arc::clone(share), model))
    }

    fn with<R>(&self, work: impl FnOnce(&mut Scheduler) -> R) -> R {
        match &self.0 {
            Owner::Alone(scheduler) => work(&mut lock(scheduler)),
            Owner::Share(share, model) => work(lock(share).scheduler_mut(*model)),
        }
    }
}

/// What a mutex guards, whatever became of a thread that had it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[pymethods]
impl PyScheduler {
    #[new]
    fn new(config: &PySchedulerConfig) -> PyResult<Self> {
        let scheduler = Mutex::new(Scheduler::new(config.0)?);
        Ok(PyScheduler(Owner::Alone(Box::new(scheduler))))
    }

    /// Its bounds.
    #[getter]
    fn config(&self) -> PySchedulerConfig {
        self.with(|scheduler| PySchedulerConfig(*scheduler.config()))
    }

    /// Takes a request.
    ///
    /// Args:
    ///     prompt: Token ids, at least one.
    ///     max_new_tokens: Tokens to generate at most, at least one.
    ///     now: Microseconds since some moment.
    ///     tenant: Whose request it is: tenants are served alike.
    ///     priority: Among the requests of its tenant the higher goes first.
    ///     deadline: When nobody wants the rest any more, in microseconds.
    ///     variant: Pages are shared only within a variant of the model, whose keys and values of
    ///         the same tokens are alike.
    ///
    /// Returns:
    ///     The number of the request, never given to another.
    ///
    /// Raises:
    ///     QueueFullError: As many are waiting as may.
    ///     RequestRefusedError: It can never run, or nobody wants it any more.
    #[pyo3(signature = (prompt, max_new_tokens, *, now, tenant=0, priority=0, deadline=None,
        variant=0))]
    #[expect(clippy::too_many_arguments, reason = "keywords")]
    fn submit(
        &self,
        prompt: Vec<Token>,
        max_new_tokens: u32,
        now: Micros,
        tenant: TenantId,
        priority: i32,
        deadline: Option<Micros>,
        variant: u32,
    ) -> PyResult<u64> {
        let request = Request { prompt, max_new_tokens, tenant, priority, deadline, variant };
        Ok(number(self.with(|scheduler| scheduler.submit(request, now))?))
    }

    /// Ends a request, wherever it is. Returns whether it had not ended before.
    #[pyo3(signature = (request, /))]
    fn cancel(&self, request: u64) -> bool {
        self.with(|scheduler| scheduler.cancel(request_id(request)))
    }

    /// From now on serves `tenant` `weight` tokens where others, of weight 1, are served one.
    ///
    /// Raises:
    ///     ValueError: The weight is 0.
    fn set_weight(&self, tenant: TenantId, weight: u32) -> PyResult<()> {
        let weight = NonZeroU32::new(weight)
            .ok_or_else(|| PyValueError::new_err("weight: expected at least 1, found 0"))?;
        self.with(|scheduler| scheduler.set_weight(tenant, weight));
        Ok(())
    }

    /// From now on hands out the first `pages` pages only: the others have no memory yet.
    ///
    /// It is at least as many as have ever been handed out.
    /// Until all are there, requests may have to wait for ever.
    #[pyo3(signature = (pages, /))]
    fn provide(&self, pages: u32) {
        self.with(|scheduler| scheduler.provide(pages));
    }

    /// Chooses what runs in the next step.
    ///
    /// Args:
    ///     now: Microseconds since the same moment as in `submit`.
    fn schedule(&self, now: Micros) -> PyStepPlan {
        PyStepPlan(match &self.0 {
            Owner::Alone(scheduler) => lock(scheduler).schedule(now),
            Owner::Share(share, model) => lock(share).schedule_model(*model, now),
        })
    }

    /// Forgets everything: requests, steps under way, cached pages, weights and counters.
    ///
    /// All pages can be handed out again.
    fn clear(&self) {
        self.with(Scheduler::clear);
    }

    /// Takes what the oldest step under way has chosen, for each row that samples, in order.
    ///
    /// Args:
    ///     step: The step of the plan.
    ///     tokens: The ids.
    ///     stops: Whether each ends its request.
    ///
    /// Returns:
    ///     The requests that have ended, each with "stop" or "length".
    ///
    /// Raises:
    ///     ValueError: It is another step, or there are more or fewer tokens; nothing has changed.
    fn complete(
        &self,
        step: u64,
        tokens: Vec<Token>,
        stops: Vec<bool>,
    ) -> PyResult<Vec<(u64, &'static str)>> {
        let (ids, flags) = (tokens.len(), stops.len());
        if ids != flags {
            let message = format!("stops: expected as many as tokens, {ids}, found {flags}");
            return Err(PyValueError::new_err(message));
        }
        let chosen: Vec<_> =
            tokens.into_iter().zip(stops).map(|(token, stop)| Chosen { token, stop }).collect();
        let ended = self.with(|scheduler| scheduler.complete(step, &chosen))?;
        Ok(ended.into_iter().map(|(request, end)| (number(request), reason(end))).collect())
    }

    /// The pages of a request in the order of its positions; none while it waits.
    #[pyo3(signature = (request, /))]
    fn pages(&self, request: u64) -> Vec<u32> {
        self.with(|scheduler| scheduler.pages(request_id(request)).to_vec())
    }

    /// Whether requests have not ended or steps are under way.
    #[getter]
    fn busy(&self) -> bool {
        self.with(|scheduler| scheduler.is_busy())
    }

    /// What it holds and has done, as of now.
    fn stats(&self) -> PySchedulerStats {
        PySchedulerStats(self.with(|scheduler| scheduler.stats()))
    }

    fn __repr__(&self) -> String {
        let Stats { waiting, running, pages_in_use, .. } = self.with(|scheduler| scheduler.stats());
        format!("<Scheduler: waiting={waiting}, running={running}, pages_in_use={pages_in_use}>")
    }
}

fn reason(end: End) -> &'static str {
    match end {
        End::Stopped => "stop",
        End::Length => "length",
        End::Expired => "expired",
    }
}

/// What one step runs.
#[pyclass(name = "StepPlan", module = "pygpukit.core", frozen)]
pub(super) struct PyStepPlan(pub(super) StepPlan);

#[pymethods]
impl PyStepPlan {
    /// The number of the step, for `Scheduler.complete`.
    #[getter]
    fn step(&self) -> u64 {
        self.0.step
    }

    /// What is computed: at most one row for each request, those that decode first. If there are none,
    /// there is nothing to complete.
    #[getter]
    fn rows(&self) -> Vec<PyStepRow> {
        self.0.rows.iter().copied().map(PyStepRow).collect()
    }

    /// Whether the plan before had the same requests, and each row is one token.
    ///
    /// So the same program can run again.
    #[getter]
    fn repeats(&self) -> bool {
        self.0.repeats
    }

    /// The requests that a token is chosen for, in the order of their rows.
    #[getter]
    fn sampled(&self) -> Vec<u64> {
        self.0.sampled().map(number).collect()
    }

    /// The rows whose requests have new pages: index, request, first new page's index.
    #[getter]
    fn grown(&self) -> Vec<(usize, u64, u32)> {
        let rows = self.0.rows.iter().enumerate();
        rows.filter(|(_, row)| row.new_pages > 0)
            .map(|(index, row)| (index, number(row.request), row.first_new_page))
            .collect()
    }

    /// How many tokens the rows compute.
    #[getter]
    fn tokens(&self) -> u32 {
        self.0.tokens()
    }

    /// The requests that have begun to run, and how many of their positions were cached.
    #[getter]
    fn admitted(&self) -> Vec<(u64, u32)> {
        self.0
            .admitted
            .iter()
            .map(|admission| (number(admission.request), admission.cached))
            .collect()
    }

    /// The requests that had to give up their pages; they wait again.
    #[getter]
    fn preempted(&self) -> Vec<u64> {
        self.0.preempted.iter().copied().map(number).collect()
    }

    /// The requests that have ended because their deadline has passed.
    #[getter]
    fn expired(&self) -> Vec<u64> {
        self.0.expired.iter().copied().map(number).collect()
    }

    fn __repr__(&self) -> String {
        let StepPlan { step, rows, .. } = &self.0;
        format!("<StepPlan {step}: {} tokens of {} requests>", self.0.tokens(), rows.len())
    }
}

/// Consecutive positions of one request that a step computes.
#[pyclass(name = "StepRow", module = "pygpukit.core", frozen)]
pub(super) struct PyStepRow(Row);

#[pymethods]
impl PyStepRow {
    /// Whose.
    #[getter]
    fn request(&self) -> u64 {
        number(self.0.request)
    }

    /// The first position.
    #[getter]
    fn start(&self) -> u32 {
        self.0.start
    }

    /// How many, at least one.
    #[getter]
    fn count(&self) -> u32 {
        self.0.count
    }

    /// Whether the token behind the last position is chosen.
    #[getter]
    fn samples(&self) -> bool {
        self.0.samples
    }

    /// From which index on the request's pages differ from when it last had a row.
    #[getter]
    fn first_new_page(&self) -> u32 {
        self.0.first_new_page
    }

    /// How many pages that are.
    #[getter]
    fn new_pages(&self) -> u32 {
        self.0.new_pages
    }

    fn __repr__(&self) -> String {
        let Row { start, count, samples, first_new_page, .. } = self.0;
        let (request, samples) = (self.request(), if samples { "True" } else { "False" });
        format!(
            "StepRow(request={request}, start={start}, count={count}, samples={samples}, \
             first_new_page={first_new_page})"
        )
    }
}

/// What a scheduler holds and has done.
#[pyclass(name = "SchedulerStats", module = "pygpukit.core", frozen, eq)]
#[derive(PartialEq)]
pub(super) struct PySchedulerStats(Stats);

#[pymethods]
impl PySchedulerStats {
    /// Requests that wait.
    #[getter]
    fn waiting(&self) -> u32 {
        self.0.waiting
    }

    /// Requests with pages.
    #[getter]
    fn running(&self) -> u32 {
        self.0.running
    }

    /// Requests that have not ended.
    #[getter]
    fn requests(&self) -> u32 {
        self.0.requests
    }

    /// Pages that requests use.
    #[getter]
    fn pages_in_use(&self) -> u32 {
        self.0.pages_in_use
    }

    /// Pages that nobody uses but that are kept for requests that begin alike.
    #[getter]
    fn pages_cached(&self) -> u32 {
        self.0.pages_cached
    }

    /// Times that a request had to give up its pages.
    #[getter]
    fn preemptions(&self) -> u64 {
        self.0.preemptions
    }

    /// Tokens that plans have computed.
    #[getter]
    fn computed_tokens(&self) -> u64 {
        self.0.computed_tokens
    }

    /// Tokens that were found in the cache instead.
    #[getter]
    fn cached_tokens(&self) -> u64 {
        self.0.cached_tokens
    }

    fn __repr__(&self) -> String {
        let Stats { waiting, running, requests, pages_in_use, pages_cached, preemptions, .. } =
            self.0;
        format!(
            "SchedulerStats(waiting={waiting}, running={running}, requests={requests}, \
             pages_in_use={pages_in_use}, pages_cached={pages_cached}, preemptions={preemptions}, \
             computed_tokens={}, cached_tokens={})",
            self.0.computed_tokens, self.0.cached_tokens
        )
    }
}
