//! Which kernels may be at fault when a GPU reports an error.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The kernels launched since the GPU was last known to be well.
///
/// A kernel's error shows only when something waits for it, and then without a name.
#[derive(Default)]
pub(super) struct Journal(Mutex<State>);

#[derive(Default)]
struct State {
    /// Each kernel once, with the time of its last launch.
    launches: Vec<(&'static str, u64)>,
    now: u64,
}

/// A moment in the journal.
pub(super) struct Mark(u64);

impl Journal {
    /// Notes a launch.
    pub(super) fn note(&self, kernel: &'static str) {
        let mut state = self.state();
        state.now += 1;
        let now = state.now;
        match state.launches.iter_mut().find(|(name, _)| *name == kernel) {
            Some((_, time)) => *time = now,
            None => state.launches.push((kernel, now)),
        }
    }

    /// The moment between the launches so far and those to come.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.state().now)
    }

    /// Everything launched before `mark` has run well.
    pub(super) fn clear_until(&self, mark: &Mark) {
        self.state().launches.retain(|&(_, time)| time > mark.0);
    }

    /// The kernels that may have broken, in words.
    pub(super) fn suspects(&self) -> String {
        let state = self.state();
        let names: Vec<_> = state.launches.iter().map(|&(name, _)| name).collect();
        match names[..] {
            [] => "a kernel that this library didn't launch".to_owned(),
            [name] => format!("kernel {name}"),
            _ => format!(
                "one of the kernels {} (CUDA_LAUNCH_BLOCKING=1 in the environment tells which)",
                names.join(", ")
            ),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_launched_since_the_last_good_moment_is_suspected() {
        let journal = Journal::default();
        assert!(journal.suspects().contains("didn't launch"));
        journal.note("gemv");
        journal.note("norm");
        let mark = journal.mark();
        journal.note("gemv");
        assert!(journal.suspects().starts_with("one of the kernels gemv, norm "));
        journal.clear_until(&mark);
        assert_eq!(journal.suspects(), "kernel gemv");
        journal.clear_until(&journal.mark());
        assert!(journal.suspects().contains("didn't launch"));
    }
}
