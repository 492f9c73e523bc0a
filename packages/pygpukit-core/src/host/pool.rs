//! The threads that host kernels run on.
//!
//! One pool serves the process. [`ThreadPool::run`] splits a kernel into numbered chunks; the caller
//! and the workers each claim the next unclaimed one until none is left. Which thread computes a
//! chunk is chance, so a kernel whose chunks write disjoint results has the same bits on any number
//! of threads.
//!
//! A worker spins for a moment after each job, because the next launch of a decoding step follows
//! within microseconds, then sleeps. The caller waits only for workers that have joined the job: one
//! that the operating system doesn't let run delays nobody.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::topology;

/// How long an idle worker looks for the next job before it sleeps.
const SPIN: Duration = Duration::from_micros(60);
/// Looks between two offers of the processor to other threads.
const LOOKS_PER_YIELD: u32 = 64;

/// What keeps a thread busy for longer than it takes to hand it a chunk, in simple row kernels.
const ELEMENTS_PER_CHUNK: usize = 8192;

/// A word that has a cache line of its own, so that threads polling it disturb nothing else.
#[repr(align(128))]
struct Line<T>(T);

/// What the workers run: chunk numbers in, results through captured pointers.
type Body<'a> = &'a (dyn Fn(usize) + Sync);

#[derive(Clone, Copy)]
struct Job {
    body: Body<'static>,
    chunks: usize,
}

/// A persistent set of threads; see the module's description.
pub struct ThreadPool {
    /// Of the current job: its number, whether it is open to workers, how many are at it.
    state: Line<AtomicU64>,
    next_chunk: Line<AtomicUsize>,
    job: UnsafeCell<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    submission: Mutex<()>,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    threads: usize,
}

// SAFETY: `job` is written only by the holder of `submission` while the state is closed with no
// worker at it, and read only by workers that have joined an open state.
unsafe impl Sync for ThreadPool {}

/// The fields of [`ThreadPool::state`]: workers in the low half, open flag, job number.
mod state {
    pub(super) const WORKER: u64 = 1;
    pub(super) const WORKERS: u64 = 0xffff;
    pub(super) const OPEN: u64 = 1 << 16;
    pub(super) const NEXT_JOB: u64 = 1 << 17;

    pub(super) fn job(state: u64) -> u64 {
        state / NEXT_JOB
    }
}

static GLOBAL: AtomicPtr<ThreadPool> = AtomicPtr::new(std::ptr::null_mut());

thread_local! {
    static INSIDE_JOB: Cell<bool> = const { Cell::new(false) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ThreadPool {
    /// The pool of this process, made at the first call.
    ///
    /// It has as many threads as there are physical cores that this process may run on, or as the
    /// environment variable `PYGPUKIT_NUM_THREADS` says. A forked child makes a pool of its own.
    pub fn global() -> &'static ThreadPool {
        let existing = GLOBAL.load(Ordering::Acquire);
        if !existing.is_null() {
            // SAFETY: what `GLOBAL` points to came from `Box::leak` and is never freed.
            return unsafe { &*existing };
        }
        static CREATION: Mutex<()> = Mutex::new(());
        let _guard = lock(&CREATION);
        if GLOBAL.load(Ordering::Acquire).is_null() {
            let pool = ThreadPool::new(topology::thread_count());
            GLOBAL.store(std::ptr::from_ref(pool).cast_mut(), Ordering::Release);
            forget_in_forked_children();
        }
        // SAFETY: as above.
        unsafe { &*GLOBAL.load(Ordering::Acquire) }
    }

    /// A pool of `threads` threads, the caller's included. Its threads live as long as the process.
    fn new(threads: usize) -> &'static ThreadPool {
        let threads = threads.clamp(1, state::WORKERS as usize);
        let pool: &'static ThreadPool = Box::leak(Box::new(ThreadPool {
            state: Line(AtomicU64::new(0)),
            next_chunk: Line(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            submission: Mutex::new(()),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            threads,
        }));
        for index in 1..threads {
            // A thread that can't be had isn't missed: whoever is there claims the chunks.
            let _ = std::thread::Builder::new()
                .name(format!("pygpukit-{index}"))
                .spawn(move || pool.work());
        }
        pool
    }

    /// Threads that take part in a job, the caller's included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `body(0)` … `body(chunks - 1)`, each once, spread over the threads, and returns when
    /// all have returned.
    ///
    /// A call from inside a job runs its chunks one after another. Callers on several threads take
    /// turns.
    ///
    /// # Panics
    /// If a chunk panics, after the others have ended.
    pub fn run(&self, chunks: usize, body: impl Fn(usize) + Sync) {
        if chunks <= 1 || self.threads == 1 || INSIDE_JOB.get() {
            (0..chunks).for_each(body);
            return;
        }
        let _turn = lock(&self.submission);
        // SAFETY: only the lifetime is changed. `run` returns, or unwinds, after `close` has seen
        // the last worker leave, so no worker uses the body after its real lifetime.
        let body = unsafe { std::mem::transmute::<Body<'_>, Body<'static>>(&body) };
        let job = Job { body, chunks };
        self.publish(job);
        let result = catch_unwind(AssertUnwindSafe(|| self.claim(job)));
        self.close();
        let from_worker = lock(&self.panic).take();
        if let Some(panic) = result.err().or(from_worker) {
            resume_unwind(panic);
        }
    }

    /// [`ThreadPool::run`] with a second argument: the chunk that the same thread computes next, if
    /// there is one, so that it can have the memory fetched early.
    pub(super) fn run_looking_ahead(
        &self,
        chunks: usize,
        body: impl Fn(usize, Option<usize>) + Sync,
    ) {
        let unclaimed = AtomicUsize::new(0);
        let claim = || Some(unclaimed.fetch_add(1, Ordering::Relaxed)).filter(|&c| c < chunks);
        self.run(self.threads.min(chunks), |_| {
            let mut next = claim();
            while let Some(chunk) = next {
                next = claim();
                body(chunk, next);
            }
        });
    }

    /// Calls `body` for each row of a matrix, several rows to a chunk where they are short.
    pub(super) fn run_rows(&self, rows: usize, columns: usize, body: impl Fn(usize) + Sync) {
        let group = (ELEMENTS_PER_CHUNK / columns.max(1)).max(1);
        self.run(rows.div_ceil(group), |chunk| {
            (chunk * group..rows.min((chunk + 1) * group)).for_each(&body);
        });
    }

    fn publish(&self, job: Job) {
        // SAFETY: this thread holds `submission`, and the last job was closed with nobody at it.
        unsafe { *self.job.get() = Some(job) };
        self.next_chunk.0.store(0, Ordering::Relaxed);
        let number = state::job(self.state.0.load(Ordering::Relaxed)) + 1;
        // Sequentially consistent, like the sleeper's count and its look at the state: one of the
        // two sides sees the other.
        self.state.0.store(number * state::NEXT_JOB + state::OPEN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.sleep));
            self.wake.notify_all();
        }
    }

    /// Lets no more workers join and waits for those that have.
    fn close(&self) {
        self.state.0.fetch_and(!state::OPEN, Ordering::AcqRel);
        let mut backoff = Backoff::default();
        while self.state.0.load(Ordering::Acquire) & state::WORKERS != 0 {
            backoff.pause();
        }
    }

    fn claim(&self, job: Job) {
        INSIDE_JOB.set(true);
        let reset = OnDrop(|| INSIDE_JOB.set(false));
        loop {
            let chunk = self.next_chunk.0.fetch_add(1, Ordering::Relaxed);
            if chunk >= job.chunks {
                break;
            }
            (job.body)(chunk);
        }
        drop(reset);
    }

    fn work(&self) -> ! {
        let mut seen = 0;
        loop {
            let state = self.wait_for_job_after(seen);
            seen = state::job(state);
            if self.join(seen) {
                // SAFETY: this worker has joined, so the job isn't replaced before it leaves.
                if let Some(job) = unsafe { *self.job.get() }
                    && let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.claim(job)))
                {
                    *lock(&self.panic) = Some(panic);
                }
                self.state.0.fetch_sub(state::WORKER, Ordering::Release);
            }
        }
    }

    /// Becomes one of the workers of `job`, unless it is over.
    fn join(&self, job: u64) -> bool {
        self.state
            .0
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
                let open = state & state::OPEN != 0 && state::job(state) == job;
                open.then_some(state + state::WORKER)
            })
            .is_ok()
    }

    /// Returns the state once its job isn't `seen` any more.
    fn wait_for_job_after(&self, seen: u64) -> u64 {
        let mut backoff = Backoff::default();
        let start = Instant::now();
        loop {
            let state = self.state.0.load(Ordering::Acquire);
            if state::job(state) != seen {
                return state;
            }
            if backoff.pause() && start.elapsed() > SPIN {
                self.sleep_while_job_is(seen);
            }
        }
    }

    fn sleep_while_job_is(&self, seen: u64) {
        let mut guard = lock(&self.sleep);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while state::job(self.state.0.load(Ordering::SeqCst)) == seen {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Polling that gives the processor to other threads now and then.
#[derive(Default)]
struct Backoff(u32);

impl Backoff {
    /// Waits a moment; true when it was time to offer the processor.
    fn pause(&mut self) -> bool {
        self.0 += 1;
        if self.0.is_multiple_of(LOOKS_PER_YIELD) {
            std::thread::yield_now();
            return true;
        }
        std::hint::spin_loop();
        false
    }
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A forked child has none of its parent's threads: it forgets the pool and makes a new one.
#[cfg(unix)]
fn forget_in_forked_children() {
    extern "C" fn forget() {
        GLOBAL.store(std::ptr::null_mut(), Ordering::Release);
    }
    static REGISTRATION: std::sync::Once = std::sync::Once::new();
    REGISTRATION.call_once(|| {
        // SAFETY: the handler only stores to an atomic, which is allowed in a forked child.
        unsafe { libc::pthread_atfork(None, None, Some(forget)) };
    });
}

#[cfg(not(unix))]
fn forget_in_forked_children() {}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn counts(pool: &ThreadPool, chunks: usize) -> Vec<u32> {
        let counts: Vec<AtomicU32> = (0..chunks).map(|_| AtomicU32::new(0)).collect();
        pool.run(chunks, |chunk| {
            counts[chunk].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicU32::into_inner).collect()
    }

    #[test]
    fn every_chunk_runs_once() {
        for threads in [1, 2, 5] {
            let pool = ThreadPool::new(threads);
            for chunks in [0, 1, 2, 7, 300] {
                assert_eq!(counts(pool, chunks), vec![1; chunks]);
            }
        }
    }

    #[test]
    fn every_chunk_but_the_first_ones_is_announced() {
        let pool = ThreadPool::new(3);
        for chunks in [0, 1, 2, 50] {
            let counts: Vec<_> = (0..chunks).map(|_| AtomicU32::new(0)).collect();
            pool.run_looking_ahead(chunks, |chunk, next| {
                counts[chunk].fetch_add(1, Ordering::Relaxed);
                if let Some(next) = next {
                    counts[next].fetch_add(10, Ordering::Relaxed);
                }
            });
            let counts: Vec<_> = counts.into_iter().map(AtomicU32::into_inner).collect();
            assert!(counts.iter().all(|count| [1, 11].contains(count)), "{counts:?}");
            assert!(counts.iter().filter(|&&count| count == 1).count() <= pool.threads());
        }
    }

    #[test]
    fn many_short_jobs_and_pauses() {
        let pool = ThreadPool::new(3);
        for round in 0..3000 {
            if round % 500 == 0 {
                std::thread::sleep(2 * SPIN);
            }
            assert_eq!(counts(pool, 3), [1, 1, 1]);
        }
    }

    #[test]
    fn callers_on_several_threads_take_turns() {
        let pool = ThreadPool::new(3);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..200).for_each(|_| assert_eq!(counts(pool, 5), [1; 5])));
            }
        });
    }

    #[test]
    fn a_job_may_start_another() {
        let pool = ThreadPool::new(2);
        let inner = AtomicU32::new(0);
        pool.run(4, |_| pool.run(3, |_| _ = inner.fetch_add(1, Ordering::Relaxed)));
        assert_eq!(inner.into_inner(), 12);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = ThreadPool::new(2);
        for bad in 0..8 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(8, |chunk| assert_ne!(chunk, bad, "chunk refused"));
            }));
            assert!(result.is_err());
        }
        assert_eq!(counts(pool, 6), [1; 6]);
    }

    #[cfg(unix)]
    #[test]
    fn a_forked_child_has_a_pool() {
        assert_eq!(counts(ThreadPool::global(), 16), [1; 16]);
        // SAFETY: the child only computes and leaves by `_exit`.
        match unsafe { libc::fork() } {
            0 => {
                let right = counts(ThreadPool::global(), 16) == [1; 16];
                // SAFETY: ends the child without running the parent's exit handlers.
                unsafe { libc::_exit(i32::from(!right)) }
            }
            child => {
                let mut status = -1;
                // SAFETY: waits for the child made above; `status` is writable.
                unsafe { libc::waitpid(child, &mut status, 0) };
                assert_eq!(status, 0);
            }
        }
    }
}
