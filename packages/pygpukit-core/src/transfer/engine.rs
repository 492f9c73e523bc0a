//! The engine that runs every copy between host and device.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::error::TransferError;
use super::queue::{Queue, Upload};
use crate::device::{Device, Event, PIECE_BYTES, PerDevice};
use crate::error::Result;
use crate::loader::ByteSource;
use crate::memory::{Fetch, Tensor};

/// More threads than this don't make a copy faster: the memory is the limit.
const MAX_FILL_THREADS: usize = 12;

/// Copies between the host and one device.
///
/// Uploads from a [`ByteSource`] run beside the calling thread, any number at once: a bounded set of
/// fill threads takes pieces of all of them in turn. The tensor remembers the upload's event, and
/// launches and host access wait for it. Other copies are done when the call returns.
pub struct AsyncEngine {
    device: Device,
    max_threads: usize,
    workers: Mutex<Workers>,
    counters: Counters,
}

/// The fill threads and what they take their work from.
struct Workers {
    queue: Arc<Queue>,
    threads: usize,
    /// The process that the threads are of.
    process: u32,
}

/// Counters of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferStats {
    /// Bytes that were sent to the device, or are queued to be.
    pub bytes_uploaded: u64,
    /// Bytes that were fetched from the device.
    pub bytes_downloaded: u64,
    /// Copies of any kind.
    pub copies: u64,
}

#[derive(Default)]
struct Counters {
    bytes_uploaded: AtomicU64,
    bytes_downloaded: AtomicU64,
    copies: AtomicU64,
}

static DEFAULT_ENGINES: PerDevice<AsyncEngine> = PerDevice::new();

impl AsyncEngine {
    /// An engine with at most `max_threads` fill threads (at least one), which start when needed.
    pub fn new(device: Device, max_threads: usize) -> Self {
        AsyncEngine {
            device,
            max_threads: max_threads.max(1),
            workers: Mutex::new(Workers::none()),
            counters: Counters::default(),
        }
    }

    /// The engine that `device` uses unless told otherwise.
    pub fn default_of(device: Device) -> &'static Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        DEFAULT_ENGINES
            .get_or_init(device, || AsyncEngine::new(device, cores.min(MAX_FILL_THREADS)))
    }

    /// The device that it copies to and from.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The most fill threads there may be.
    pub fn max_threads(&self) -> usize {
        self.max_threads
    }

    /// Starts filling `target` from `source` and returns the event of the end. Uploads into the same
    /// elements that are still under way are waited for first.
    ///
    /// # Errors
    /// [`TransferError`] when the sizes differ or the target isn't contiguous; that the device can't be
    /// used any more. That the source can't be read shows when the event, or the tensor, is waited for.
    pub fn upload(&self, source: Arc<dyn ByteSource>, target: &Tensor) -> Result<Event> {
        let bytes = self.check_upload(&*source, target)?;
        self.counters.add(&self.counters.bytes_uploaded, bytes);
        if bytes == 0 {
            source.release();
            let event = Event::new();
            event.complete(Ok(()));
            return Ok(event);
        }
        let (range, storage) = (target.range(), Arc::clone(target.storage()));
        storage.wait_to_overwrite(&range);
        let fence = self.device.backend().fence()?;
        let piece = piece_bytes(source.granularity());
        let upload = Upload::new(source, Arc::clone(&storage), range.clone(), piece, fence);
        let event = upload.event().clone();
        storage.add_pending(range, event.clone());
        self.enqueue(upload);
        Ok(event)
    }

    /// Copies `bytes`, all elements in row-major order, into `target`.
    ///
    /// # Errors
    /// As [`Tensor::write`].
    pub fn write(&self, bytes: &[u8], target: &Tensor) -> Result<()> {
        target.write(bytes)?;
        self.counters.add(&self.counters.bytes_uploaded, bytes.len());
        Ok(())
    }

    /// Copies all elements of `source` in row-major order into `out`, waiting for them first.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    pub fn download(&self, source: &Tensor, out: &mut [u8]) -> Result<()> {
        source.read(out)?;
        self.counters.add(&self.counters.bytes_downloaded, out.len());
        Ok(())
    }

    /// Begins to copy all elements of `source` to the host, as [`Tensor::fetch`].
    ///
    /// # Errors
    /// As [`Tensor::fetch`].
    pub fn fetch(&self, source: &Tensor) -> Result<Fetch> {
        let fetch = source.fetch()?;
        self.counters.add(&self.counters.bytes_downloaded, source.nbytes());
        Ok(fetch)
    }

    /// Copies all elements of `source` into `target`, both on this device.
    ///
    /// # Errors
    /// As [`Tensor::copy_from`].
    pub fn copy(&self, source: &Tensor, target: &Tensor) -> Result<()> {
        target.copy_from(source)?;
        self.counters.copies.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The counters, as of now.
    pub fn stats(&self) -> TransferStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TransferStats {
            bytes_uploaded: load(&self.counters.bytes_uploaded),
            bytes_downloaded: load(&self.counters.bytes_downloaded),
            copies: load(&self.counters.copies),
        }
    }

    fn check_upload(&self, source: &dyn ByteSource, target: &Tensor) -> Result<usize> {
        let (expected, found) = (target.nbytes(), source.nbytes());
        if expected != found {
            return Err(TransferError::Size { target: target.describe(), expected, found }.into());
        }
        if !target.layout().is_contiguous() {
            return Err(TransferError::NotContiguous { target: target.describe() }.into());
        }
        Ok(expected)
    }

    /// Queues the upload and starts threads that it has use for. Where the system has none left, those
    /// that run do the work; if there are none, the calling thread does.
    fn enqueue(&self, upload: Upload) {
        let mut workers = self.workers();
        let wanted = workers.queue.push(upload);
        for _ in 0..wanted.min(self.max_threads - workers.threads) {
            let queue = Arc::clone(&workers.queue);
            let backend = self.device.backend();
            let thread = thread::Builder::new()
                .name(format!("fill {}", self.device))
                .spawn(move || queue.serve(&mut *backend.lane()));
            if thread.is_err() {
                break;
            }
            workers.threads += 1;
        }
        if workers.threads == 0 {
            let queue = Arc::clone(&workers.queue);
            drop(workers);
            queue.drain(&mut *self.device.backend().lane());
        }
    }

    /// The fill threads of this process: a forked child has none of its parent's.
    fn workers(&self) -> MutexGuard<'_, Workers> {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if workers.process != std::process::id() {
            // The parent's queue may have been in use when the process forked: it isn't touched.
            std::mem::forget(std::mem::replace(&mut *workers, Workers::none()));
        }
        workers
    }
}

impl Workers {
    fn none() -> Self {
        Workers { queue: Arc::default(), threads: 0, process: std::process::id() }
    }
}

impl Drop for AsyncEngine {
    /// The fill threads finish what is queued and end by themselves.
    fn drop(&mut self) {
        self.workers().queue.close();
    }
}

impl Counters {
    fn add(&self, bytes_counter: &AtomicU64, bytes: usize) {
        bytes_counter.fetch_add(bytes as u64, Ordering::Relaxed);
        self.copies.fetch_add(1, Ordering::Relaxed);
    }
}

/// The bytes of one piece: about [`PIECE_BYTES`], in whole multiples of `granularity`.
fn piece_bytes(granularity: usize) -> usize {
    let granularity = granularity.max(1);
    (PIECE_BYTES / granularity).max(1) * granularity
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
