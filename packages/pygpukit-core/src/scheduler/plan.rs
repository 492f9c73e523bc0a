//! What one step runs, and what comes of it.

use super::request::{RequestId, Token};

/// Consecutive positions of one request that a step computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Whose.
    pub request: RequestId,
    /// The first position.
    pub start: u32,
    /// How many, at least one.
    pub count: u32,
    /// Whether the token behind the last position is chosen.
    pub samples: bool,
    /// From which index on the request's page table differs from when it last had a row.
    pub first_new_page: u32,
    /// How many pages that are.
    pub new_pages: u32,
}

/// A request that begins to run, for the first time or again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Which.
    pub request: RequestId,
    /// How many of its first positions are in the cache already.
    pub cached: u32,
}

/// What one step runs. Without rows there is nothing to run, and nothing to complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepPlan {
    /// The number of the step, for [`Scheduler::complete`](super::Scheduler::complete).
    pub step: u64,
    /// What is computed: at most one row for each request, decoding ones first.
    pub rows: Vec<Row>,
    /// Whether the plan before had the same requests, and now each has one row of one token that samples:
    /// so a program that does that can run again.
    pub repeats: bool,
    /// The requests that have begun to run.
    pub admitted: Vec<Admission>,
    /// The requests that had to give up their pages; they wait again.
    pub preempted: Vec<RequestId>,
    /// The requests that have ended because their deadline has passed.
    pub expired: Vec<RequestId>,
}

impl StepPlan {
    /// Whether there is neither anything to run nor anything to tell.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.expired.is_empty()
    }

    /// Tokens that the step computes.
    pub fn tokens(&self) -> u32 {
        self.rows.iter().map(|row| row.count).sum()
    }

    /// The requests of the rows that sample, in order.
    pub fn sampled(&self) -> impl Iterator<Item = RequestId> {
        self.rows.iter().filter(|row| row.samples).map(|row| row.request)
    }
}

/// The token that was chosen behind a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its id.
    pub token: Token,
    /// Whether it ends the request.
    pub stop: bool,
}

/// An outcome that doesn't belong to the oldest step under way.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum OutcomeError {
    /// Steps are completed in the order of their plans.
    #[error("step {found} can't be completed: expected {}", expected_step(*expected))]
    Step {
        /// The oldest step under way.
        expected: Option<u64>,
        /// The step that was given.
        found: u64,
    },
    /// Each row that samples has one token.
    #[error("step {step} chose {expected} tokens, found {found}")]
    Count {
        /// The step.
        step: u64,
        /// Rows that sample.
        expected: usize,
        /// Tokens that were given.
        found: usize,
    },
}

fn expected_step(step: Option<u64>) -> String {
    step.map_or("a plan with rows first".to_owned(), |step| format!("step {step}"))
}
