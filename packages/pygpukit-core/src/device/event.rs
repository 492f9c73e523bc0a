//! Completion of work that runs beside the calling thread.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;

/// Why asynchronous work failed: one cause, told to everyone who waits for the work.
#[derive(Clone, Debug)]
pub struct Failure(Arc<Error>);

impl Failure {
    /// The failure because of `error`.
    pub fn new(error: Error) -> Self {
        Failure(Arc::new(error))
    }

    /// What happened.
    pub fn cause(&self) -> &Error {
        &self.0
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// The end of asynchronous work: something to wait for. Clones are the same event.
#[derive(Clone, Debug, Default)]
pub struct Event(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// Set after `progress`, so that asking whether the work is done takes no lock.
    done: AtomicBool,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// All of the work is in the device's hands.
    begun: bool,
    outcome: Option<Result<(), Failure>>,
}

impl Event {
    /// An event of work that is still to be done.
    pub fn new() -> Self {
        Event::default()
    }

    /// Marks the work as all in the device's hands: what the device is given from here on can be
    /// ordered after it.
    pub fn begin(&self) {
        self.progress().begun = true;
        self.0.changed.notify_all();
    }

    /// Marks the work as done; only the first call counts.
    pub fn complete(&self, outcome: Result<(), Failure>) {
        self.progress().outcome.get_or_insert(outcome);
        self.0.done.store(true, Ordering::Release);
        self.0.changed.notify_all();
    }

    /// Whether the work has ended, well or badly.
    pub fn is_complete(&self) -> bool {
        self.0.done.load(Ordering::Acquire)
    }

    /// How the work ended, if it has.
    pub fn outcome_now(&self) -> Option<Result<(), Failure>> {
        if self.is_complete() { self.progress().outcome.clone() } else { None }
    }

    /// Waits for the end of the work.
    ///
    /// # Errors
    /// The failure of the work; every wait for it reports it.
    pub fn wait(&self) -> Result<(), Failure> {
        let progress = self.wait_until(|progress| progress.outcome.is_some());
        progress.outcome.clone().unwrap_or(Ok(()))
    }

    /// Waits until the work is all in the device's hands, or has ended.
    ///
    /// # Errors
    /// The failure of the work, if it has failed by then.
    pub fn wait_begun(&self) -> Result<(), Failure> {
        let progress = self.wait_until(|progress| progress.begun || progress.outcome.is_some());
        progress.outcome.clone().unwrap_or(Ok(()))
    }

    /// Waits for the end of the work for `timeout` at most; `None` when it hasn't ended by then.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<(), Failure>> {
        let deadline = Instant::now() + timeout;
        let mut progress = self.progress();
        while progress.outcome.is_none() {
            let left = deadline.checked_duration_since(Instant::now())?;
            progress = self
                .0
                .changed
                .wait_timeout(progress, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        progress.outcome.clone()
    }

    fn wait_until(&self, reached: impl Fn(&Progress) -> bool) -> MutexGuard<'_, Progress> {
        let waiting = |progress: &mut Progress| !reached(progress);
        let progress = self.0.changed.wait_while(self.progress(), waiting);
        progress.unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceError;

    #[test]
    fn waiters_of_all_threads_see_the_one_outcome() {
        let event = Event::new();
        assert!(!event.is_complete());
        assert!(event.wait_timeout(Duration::from_millis(1)).is_none());
        std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..4).map(|_| scope.spawn(|| event.wait())).collect();
            let error = DeviceError::Unknown { name: "x".to_owned() };
            event.complete(Err(Failure::new(error.into())));
            event.complete(Ok(()));
            for waiter in waiters {
                let failure = waiter.join().unwrap().unwrap_err();
                assert!(failure.to_string().contains("unknown device"));
            }
        });
        assert!(event.is_complete());
        assert!(event.wait_timeout(Duration::ZERO).unwrap().is_err());
    }

    #[test]
    fn begun_work_has_not_ended() {
        let event = Event::new();
        event.begin();
        assert!(event.wait_begun().is_ok() && !event.is_complete());
        let error = DeviceError::Unknown { name: "x".to_owned() };
        event.complete(Err(Failure::new(error.into())));
        assert!(event.wait_begun().is_err() && event.wait().is_err());
    }
}
