//! Continuous batching as a pure state machine: which tokens of which requests run in the next step.
//!
//! A [`Scheduler`] knows token ids, page numbers and the time that it is told; it touches no device and
//! no clock, so the same calls always give the same decisions, and a [simulator](simulate) can run it
//! through a day of traffic in seconds. [`Share`] puts several models on one device.
//!
//! # One step
//! 1. [`Scheduler::submit`] takes a [`Request`], or refuses it at once with a [`Refusal`].
//! 2. [`Scheduler::schedule`] gives a [`StepPlan`]: for each [`Row`] the positions to compute, whether a
//!    token is chosen behind them, and from which page on its page table is new.
//! 3. The engine runs the plan, and [`Scheduler::complete`] takes what was chosen; what has ended is
//!    returned. Plans may be made before the outcomes of earlier ones are known: a row then feeds a token
//!    that only the device has seen. Steps must run, and be completed, in the order of their plans: a page
//!    that is freed may belong to another request in the very next plan.
//!
//! [`Scheduler::cancel`] ends a request at any point; outcomes that come for it later are ignored.
//!
//! # Who runs
//! - Every running request whose next token is due decodes. What is left of the step's budget of tokens
//!   goes to prompts, in chunks, and then to waiting requests, so prompts never hold up running streams
//!   (Sarathi-Serve: Agrawal et al. 2024, arXiv:2403.02310).
//! - Between tenants the one that has been served the fewest tokens for its weight is next; a tenant that
//!   was away catches up with the others, it doesn't collect credit (virtual token counters: Sheng et al.
//!   2024, arXiv:2401.00588). Tokens taken from the prefix cache or computed again aren't charged.
//! - Within a tenant the order is by [`Rank`]: the time of arrival, put forward by a fixed time for each
//!   level of priority. So whatever has waited long enough is first.
//! - A request for which there are no pages lets other tenants' requests overtake it, but only
//!   [`SchedulerConfig::max_overtakes`] of them; then nobody is admitted before it.
//!
//! # Pages
//! Keys and values lie in pages of [`SchedulerConfig::page_size`] positions (Kwon et al. 2023,
//! arXiv:2309.06180), numbered from 0 and never more than [`SchedulerConfig::pages`]. Low numbers are
//! taken first, so the cache behind them can grow as they do. A request is admitted when its known tokens
//! fit, then takes pages as it grows. When they run out, the running request of the last rank gives up its
//! pages, goes back to its tenant's queue and is computed again later; the request of the first rank
//! never has to, so there is always progress. A request of higher priority also takes the place of those of
//! its own tenant that it outranks.
//!
//! Full pages are kept for others that begin alike. A page is found by its tokens and by the page
//! before it, both compared, never by a hash alone; pages that nobody uses are dropped when others are
//! needed, the longest unused first, and a page never before those that continue it.
//!
//! # Why every request ends
//! Ranks never change, and new requests get later ones as time goes on. Take the unfinished request of the
//! first rank. Running, it is never preempted, and its limit ends it. Waiting, it is the first of its
//! tenant; that tenant isn't served meanwhile, but the others are, until its turn comes; then only so many
//! overtake it until the running ones have ended and left the pages that it needs, which exist, or it would
//! have been refused.

mod config;
mod pages;
mod plan;
mod prefix;
mod rank;
mod request;
mod requests;
mod share;
pub mod simulate;
mod state;
mod tenants;

pub use config::{ConfigError, SchedulerConfig};
pub use plan::{Admission, Chosen, OutcomeError, Row, StepPlan};
pub use rank::Rank;
pub use request::{End, Micros, Refusal, Request, RequestId, TenantId, Token};
pub use share::{ModelId, Share, ShareError};
pub use state::{Scheduler, Stats};

#[cfg(test)]
mod emulator;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
