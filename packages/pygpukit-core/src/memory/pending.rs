//! Writes to a storage that are still under way.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::device::{Event, Failure};

/// The byte ranges of a storage that copies are filling, each with the event of its end.
///
/// A range whose copy failed stays, so that everyone who needs those bytes learns of it, until other
/// bytes take their place.
#[derive(Debug, Default)]
pub(super) struct PendingWrites {
    /// Whether there are any: most of the time there are none, and a launch asks for each tensor.
    any: AtomicBool,
    writes: Mutex<Vec<(Range<usize>, Event)>>,
}

impl PendingWrites {
    /// Records that `range` is written until `event`. The caller has waited for `range` before, so
    /// what is left of earlier writes inside it has failed and no longer matters.
    pub(super) fn add(&self, range: Range<usize>, event: Event) {
        let mut writes = self.writes();
        writes.retain(|(earlier, _)| !contains(&range, earlier));
        writes.push((range, event));
        self.any.store(true, Ordering::Release);
    }

    /// Forgets failed writes inside `range`, which has been overwritten.
    pub(super) fn overwritten(&self, range: &Range<usize>) {
        if self.any() {
            let mut writes = self.writes();
            writes.retain(|(earlier, _)| !contains(range, earlier));
            self.any.store(!writes.is_empty(), Ordering::Release);
        }
    }

    /// The events of the unfinished and failed writes that overlap `range`.
    pub(super) fn overlapping(&self, range: &Range<usize>) -> Vec<Event> {
        if !self.any() {
            return Vec::new();
        }
        let mut writes = self.writes();
        writes.retain(|(_, event)| !matches!(event.outcome_now(), Some(Ok(()))));
        self.any.store(!writes.is_empty(), Ordering::Release);
        let overlaps = |other: &Range<usize>| other.start < range.end && range.start < other.end;
        writes.iter().filter(|(other, _)| overlaps(other)).map(|(_, event)| event.clone()).collect()
    }

    /// Waits for the writes that overlap `range`.
    pub(super) fn wait(&self, range: &Range<usize>) -> Result<(), Failure> {
        self.overlapping(range).iter().try_for_each(Event::wait)
    }

    fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    fn writes(&self) -> MutexGuard<'_, Vec<(Range<usize>, Event)>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn contains(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}
