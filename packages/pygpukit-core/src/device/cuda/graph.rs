//! Launches as one graph, which the driver runs with one call.

use cudarc::driver::result::{graph, stream};
use cudarc::driver::sys::{self, CUgraphInstantiate_flags, CUstreamCaptureMode};

use super::context::Context;
use super::stream::Stream;
use crate::error::Result;

/// A graph, ready to run.
pub(super) struct ExecutableGraph {
    context: &'static Context,
    raw: sys::CUgraphExec,
}

// SAFETY: any thread may use the graph, one at a time: launching takes it mutably.
unsafe impl Send for ExecutableGraph {}
// SAFETY: nothing can be done with a shared reference.
unsafe impl Sync for ExecutableGraph {}

impl ExecutableGraph {
    /// Makes a graph, to be run on `target`, of what `record` queues on the stream that it is given: one
    /// of its own, so that nobody else's work can get into it.
    ///
    /// # Errors
    /// What `record` returns and what the driver refuses.
    pub(super) fn capture(
        target: &Stream,
        record: impl FnOnce(&Stream) -> Result<()>,
    ) -> Result<Self> {
        let context = target.context();
        let explain = |error| context.explain("capturing a graph", error);
        let _bound = context.bind().map_err(explain)?;
        let captured = Stream::new(context).map_err(explain)?;
        // What other threads do meanwhile doesn't matter to the capture.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is live, here and below.
        unsafe { stream::begin_capture(captured.raw(), mode) }.map_err(explain)?;
        let recorded = record(&captured);
        // SAFETY: as above.
        let nodes = unsafe { stream::end_capture(captured.raw()) };
        recorded?;
        let nodes = nodes.map_err(explain)?;
        // SAFETY: the graph was made above, is used once and destroyed once.
        let executable = unsafe {
            let executable = graph::instantiate(nodes, CUgraphInstantiate_flags(0));
            // The executable graph is a copy.
            let _ = graph::destroy(nodes);
            executable
        };
        let executable = ExecutableGraph { context, raw: executable.map_err(explain)? };
        // SAFETY: both are live. Done now, it doesn't hold up the first replay.
        unsafe { graph::upload(executable.raw, target.raw()) }.map_err(explain)?;
        Ok(executable)
    }

    /// Queues the whole graph on `stream`.
    ///
    /// # Safety
    /// What holds for the launches in it, each time: see [`Stream::launch`].
    pub(super) unsafe fn launch(&mut self, stream: &Stream) -> Result<()> {
        let launched = self.context.bind().and_then(|_bound| {
            // SAFETY: both are live; the caller vouches for the launches.
            unsafe { graph::launch(self.raw, stream.raw()) }
        });
        launched.map_err(|error| self.context.explain("replaying a graph", error))
    }
}

impl Drop for ExecutableGraph {
    fn drop(&mut self) {
        // SAFETY: made in `capture`, destroyed once; the driver lets a run under way end first. An error
        // would be one of earlier work, told elsewhere.
        let _ = self.context.call(|| unsafe { sys::cuGraphExecDestroy(self.raw) });
    }
}
