//! Traffic replayed through a scheduler without a device: how long requests would take.

use hdrhistogram::Histogram;
use slotmap::SecondaryMap;

use super::config::{ConfigError, SchedulerConfig};
use super::plan::{Chosen, StepPlan};
use super::request::{Micros, Refusal, Request, RequestId, TenantId, Token};
use super::state::Scheduler;

/// Prefixes that requests share begin with such tokens; no other token is one.
const SHARED: Token = 1 << 31;

/// One request of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// When it comes; never before the one before it.
    pub at: Micros,
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Tokens of the output.
    pub output: u32,
    /// How many tokens of the prompt are the same for all of its group.
    pub shared: u32,
    /// Its group.
    pub group: u32,
    /// Whose it is.
    pub tenant: TenantId,
    /// Of its tenant's requests the higher goes first.
    pub priority: i32,
}

/// How long a step takes: a line fitted to measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepCost {
    /// Microseconds of any step: mostly the reading of all weights.
    pub step: f64,
    /// Microseconds for each token that is computed.
    pub token: f64,
    /// Microseconds for each cached position that a row's attention reads.
    pub position: f64,
}

impl StepCost {
    fn of(&self, plan: &StepPlan) -> f64 {
        let positions: u64 = plan.rows.iter().map(|row| u64::from(row.start + row.count)).sum();
        self.step + self.token * f64::from(plan.tokens()) + self.position * positions as f64
    }
}

/// What became of a trace.
#[derive(Clone, Debug)]
pub struct Report {
    /// Requests that got all their tokens.
    pub finished: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Steps that ran.
    pub steps: u64,
    /// When the last of them ended.
    pub end: Micros,
    /// Microseconds of steps: the rest of the time there was nothing to do.
    pub busy: Micros,
    /// Times that a request had to give up its pages.
    pub preemptions: u64,
    /// Tokens that were computed.
    pub computed_tokens: u64,
    /// Tokens that were found in the cache instead.
    pub cached_tokens: u64,
    /// From arrival to the first token.
    pub first_token: Latencies,
    /// From one token of a request to its next.
    pub between_tokens: Latencies,
    /// From arrival to the last token.
    pub whole: Latencies,
}

/// Many durations, in microseconds, to three digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    fn new() -> Latencies {
        Latencies(Histogram::new(3).expect("three digits can be kept"))
    }

    fn record(&mut self, duration: Micros) {
        self.0.record(duration).expect("the histogram grows");
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Their mean; 0 if there are none.
    pub fn mean(&self) -> f64 {
        self.0.mean()
    }

    /// The least duration that `percent` per cent don't exceed; 0 if there are none.
    pub fn percentile(&self, percent: f64) -> Micros {
        self.0.value_at_percentile(percent)
    }
}

/// Why a trace can't be replayed.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
pub enum SimulationError {
    /// The bounds allow no work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Times must be finite and not negative, and every step must take some.
    #[error("cost.{field}: expected a finite number of {least}, found {found}")]
    Cost {
        /// The field of [`StepCost`].
        field: &'static str,
        /// The least that it may be.
        least: &'static str,
        /// What it is.
        found: f64,
    },
    /// Requests come in the order of time.
    #[error(
        "arrival {index} is at {at} µs, before the one before it, at {before} µs; sort the trace"
    )]
    Order {
        /// Which.
        index: u32,
        /// When it comes.
        at: Micros,
        /// When the one before it came.
        before: Micros,
    },
}

/// Replays a trace.
///
/// # Errors
/// The trace isn't in order, or the configuration or the cost makes no sense.
pub fn simulate(
    config: SchedulerConfig,
    cost: StepCost,
    arrivals: impl IntoIterator<Item = Arrival>,
) -> Result<Report, SimulationError> {
    for (field, found, least) in [
        ("step", cost.step, "more than 0"),
        ("token", cost.token, "at least 0"),
        ("position", cost.position, "at least 0"),
    ] {
        if !(found.is_finite() && found >= 0.0 && (field != "step" || found > 0.0)) {
            return Err(SimulationError::Cost { field, least, found });
        }
    }
    let mut simulation = Simulation::new(config)?;
    let mut arrivals = arrivals.into_iter().peekable();
    loop {
        if !simulation.scheduler.is_busy() {
            let Some(next) = arrivals.peek() else { break };
            simulation.now = simulation.now.max(next.at as f64);
        }
        while let Some(arrival) = arrivals.next_if(|arrival| arrival.at as f64 <= simulation.now) {
            simulation.arrive(arrival)?;
        }
        simulation.step(&cost);
    }
    Ok(simulation.report())
}

struct Simulation {
    scheduler: Scheduler,
    /// Microseconds.
    now: f64,
    busy: f64,
    arrived: u32,
    newest: Micros,
    active: SecondaryMap<RequestId, Active>,
    report: Report,
    chosen: Vec<Chosen>,
}

/// A request that hasn't ended.
struct Active {
    at: Micros,
    /// When its newest token came.
    newest: Option<Micros>,
}

impl Simulation {
    fn new(config: SchedulerConfig) -> Result<Simulation, ConfigError> {
        Ok(Simulation {
            scheduler: Scheduler::new(config)?,
            now: 0.0,
            busy: 0.0,
            arrived: 0,
            newest: 0,
            active: SecondaryMap::new(),
            report: Report {
                finished: 0,
                refused: 0,
                steps: 0,
                end: 0,
                busy: 0,
                preemptions: 0,
                computed_tokens: 0,
                cached_tokens: 0,
                first_token: Latencies::new(),
                between_tokens: Latencies::new(),
                whole: Latencies::new(),
            },
            chosen: Vec::new(),
        })
    }

    fn arrive(&mut self, arrival: Arrival) -> Result<(), SimulationError> {
        let (index, at, before) = (self.arrived, arrival.at, self.newest);
        if at < before {
            return Err(SimulationError::Order { index, at, before });
        }
        (self.arrived, self.newest) = (index + 1, at);
        let request = Request {
            prompt: prompt(&arrival, index),
            max_new_tokens: arrival.output,
            tenant: arrival.tenant,
            priority: arrival.priority,
            deadline: None,
            variant: 0,
        };
        match self.scheduler.submit(request, at) {
            Ok(id) => {
                self.active.insert(id, Active { at, newest: None });
            }
            Err(
                Refusal::EmptyPrompt
                | Refusal::NothingToGenerate
                | Refusal::TooLong { .. }
                | Refusal::QueueFull { .. }
                | Refusal::DeadlinePassed { .. },
            ) => self.report.refused += 1,
        }
        Ok(())
    }

    /// Plans a step and lets its time pass.
    fn step(&mut self, cost: &StepCost) {
        let plan = self.scheduler.schedule(self.now as Micros);
        if plan.rows.is_empty() {
            return; // everything that has arrived was refused
        }
        let duration = cost.of(&plan);
        self.now += duration;
        self.report.steps += 1;
        self.busy += duration;
        let now = self.now as Micros;
        self.chosen.clear();
        for request in plan.sampled() {
            self.chosen.push(Chosen { token: 0, stop: false });
            let active = &mut self.active[request];
            match active.newest.replace(now) {
                None => self.report.first_token.record(now - active.at),
                Some(before) => self.report.between_tokens.record(now - before),
            }
        }
        let ended =
            self.scheduler.complete(plan.step, &self.chosen).expect("the step planned last");
        for (request, _) in ended {
            let active = self.active.remove(request).expect("it had not ended");
            self.report.whole.record(now - active.at);
            self.report.finished += 1;
        }
    }

    fn report(mut self) -> Report {
        let stats = self.scheduler.stats();
        self.report.end = self.now as Micros;
        self.report.busy = self.busy as Micros;
        self.report.preemptions = stats.preemptions;
        self.report.computed_tokens = stats.computed_tokens;
        self.report.cached_tokens = stats.cached_tokens;
        self.report
    }
}

/// Tokens that are alike where the group's are, and nowhere else.
fn prompt(arrival: &Arrival, index: u32) -> Vec<Token> {
    let shared = arrival.shared.min(arrival.prompt) as usize;
    let mut tokens = vec![index & !SHARED; arrival.prompt as usize];
    tokens[..shared].fill(SHARED | arrival.group);
    tokens
}
