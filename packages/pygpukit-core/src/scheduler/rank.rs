//! The order of requests that doesn't change while they wait.

use super::request::Micros;

/// A request's place in the order: the lesser goes first. No two are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// When it arrived, put forward by its priority.
    time: i128,
    /// How many were submitted before it.
    number: u64,
}

impl Rank {
    /// The rank of the `number`-th request, arrived at `now`.
    pub fn new(now: Micros, priority: i32, boost: Micros, number: u64) -> Rank {
        Rank { time: i128::from(now) - i128::from(priority) * i128::from(boost), number }
    }
}
