//! What a launch costs the host and the GPU, one by one and from a graph, and how to launch a kernel of
//! one's own. `cargo run --release --no-default-features --example launch_latency`

use std::error::Error;
use std::time::{Duration, Instant};

use pygpukit_core::cuda::{CudaKernel, CudaLaunch, Parameters, register_images};
use pygpukit_core::device::{Device, Ordinal};
use pygpukit_core::dispatch::{Argument, Kernel, KernelDispatchController, Param, Signature};
use pygpukit_core::dtype::DType;
use pygpukit_core::memory::{MemoryPool, Tensor};

const LAUNCHES: u32 = 1000;
const ROUNDS: usize = 20;

/// `y[0] += 1`, once what was launched before has ended.
const PTX: &str = r"
.version 8.0
.target sm_90
.address_size 64
.visible .entry latency_increment(.param .u64 y)
{
    .reg .b32 %n; .reg .b64 %y;
    griddepcontrol.launch_dependents;
    ld.param.u64 %y, [y];
    griddepcontrol.wait;
    ld.volatile.global.u32 %n, [%y]; add.u32 %n, %n, 1; st.volatile.global.u32 [%y], %n;
    ret;
}
";

static INCREMENT: CudaKernel = CudaKernel {
    signature: &Signature {
        name: "increment",
        params: &[Param::inout("y", &[DType::I32], 1), Param::int("overlap")],
    },
    check: |_| Ok(()),
    plan: |args, plan| {
        plan.launch(CudaLaunch {
            source: "latency",
            function: "latency_increment",
            grid: [1, 1, 1],
            block: [1, 1, 1],
            cluster: [1, 1, 1],
            shared_bytes: 0,
            overlap: args.int(1) != 0,
            reads_early: Vec::new(),
            holds_back: false,
            delivers: None,
            parameters: Parameters::new().pointer(args.tensor(0).data),
        });
    },
};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("latency.compute_90.ptx"), PTX)?;
    register_images(folder.path())?;
    let ordinal = Ordinal::first()?;
    let device = Device::Cuda(ordinal);
    println!("{:?}", device.backend().info());
    let controller = KernelDispatchController::new(device, [Kernel::Cuda(ordinal, &INCREMENT)]);
    let y = Tensor::zeros(MemoryPool::default_of(device), DType::I32, vec![1])?;
    for overlap in [0, 1] {
        let launch = || {
            let arguments = vec![(&y).into(), Argument::Int(overlap)];
            (0..LAUNCHES).try_for_each(|_| controller.launch("increment", arguments.clone()))
        };
        let name = if overlap == 1 { "overlapping" } else { "in turn" };
        report(&format!("launches, {name}"), LAUNCHES, &y, launch)?;
        let graph = controller.capture(launch)?;
        report(&format!("of a graph, {name}"), LAUNCHES, &y, || graph.replay())?;
        let single = controller.capture(|| {
            controller.launch("increment", vec![(&y).into(), Argument::Int(overlap)])
        })?;
        report(&format!("graphs of one, {name}"), LAUNCHES, &y, || {
            (0..LAUNCHES).try_for_each(|_| single.replay())
        })?;
    }
    report("reading one number", 1, &y, || Ok(()))
}

/// Prints the median time of a launch: until it is queued, and until it has run.
fn report(
    what: &str,
    launches: u32,
    y: &Tensor,
    work: impl Fn() -> pygpukit_core::Result<()>,
) -> Result<(), Box<dyn Error>> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        work()?;
        let queued = start.elapsed();
        y.read(&mut [0; 4])?;
        times.push((queued, start.elapsed()));
    }
    let median = |time: fn(&(Duration, Duration)) -> Duration| {
        let mut times: Vec<_> = times.iter().map(time).collect();
        times.sort_unstable();
        times[ROUNDS / 2].as_secs_f64() * 1e6 / f64::from(launches)
    };
    let (queued, run) = (median(|times| times.0), median(|times| times.1));
    println!("{what:32} queued in {queued:7.2} µs, run in {run:7.2} µs");
    Ok(())
}
