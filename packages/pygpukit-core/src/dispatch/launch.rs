//! One launch as a descriptor: what to run on what, checked, and able to run any number of times.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::args::{ArgValue, KernelArgs, TensorArg};
use super::error::{KernelError, LaunchError};
use super::kernel::Kernel;
use crate::cuda;
use crate::device::Device;
use crate::error::{Result, panic_message};
use crate::memory::{Storage, Tensor};

/// A value given to a launch.
#[derive(Clone, Debug)]
pub enum Argument {
    /// A tensor; the launch, or the graph that captured it, keeps its memory alive.
    Tensor(Tensor),
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// An optional tensor that is absent.
    None,
}

impl From<&Tensor> for Argument {
    fn from(tensor: &Tensor) -> Self {
        Argument::Tensor(tensor.clone())
    }
}

/// A kernel in a controller's table.
pub(super) struct Entry {
    pub(super) kernel: Kernel,
    /// How often it has run.
    pub(super) runs: AtomicU64,
}

/// Memory that a launch uses: a range of a storage, which stays alive.
pub(super) type Used = (Arc<Storage>, Range<usize>);

/// A checked launch.
pub struct Launch {
    pub(super) entry: Arc<Entry>,
    pub(super) values: Vec<ArgValue>,
    pub(super) memory: Vec<Used>,
}

impl Launch {
    pub(super) fn new(
        entry: &Arc<Entry>,
        device: Device,
        arguments: Vec<Argument>,
    ) -> Result<Self, LaunchError> {
        let mut values = Vec::with_capacity(arguments.len());
        let mut memory = Vec::with_capacity(arguments.len());
        let mut elsewhere = None;
        for (index, argument) in arguments.into_iter().enumerate() {
            values.push(match argument {
                Argument::Tensor(tensor) => {
                    if tensor.device() != device {
                        elsewhere.get_or_insert((index, tensor.device()));
                    }
                    let (value, used) = bind(tensor);
                    memory.push(used);
                    ArgValue::Tensor(value)
                }
                Argument::Int(value) => ArgValue::Int(value),
                Argument::Float(value) => ArgValue::Float(value),
                Argument::None => ArgValue::None,
            });
        }
        let args = KernelArgs::new(entry.kernel.signature(), &values)?;
        if let Some((index, other)) = elsewhere {
            return Err(args.refuse(index, format!("expected a tensor on {device}, found {other}")));
        }
        entry.kernel.check(&args)?;
        Ok(Launch { entry: Arc::clone(entry), values, memory })
    }

    /// The kernel's name.
    pub fn kernel(&self) -> &'static str {
        self.entry.kernel.signature().name
    }

    /// Each parameter's name and value.
    pub fn arguments(&self) -> impl Iterator<Item = (&'static str, &ArgValue)> {
        let params = self.entry.kernel.signature().params;
        params.iter().map(|param| param.name).zip(&self.values)
    }

    /// Orders the device's queue after the copies into the tensors.
    pub(super) fn order_after_copies(&self) -> Result<()> {
        self.memory.iter().try_for_each(|(storage, range)| storage.order_after_copies(range))
    }

    /// The arguments as the kernel takes them.
    pub(super) fn args(&self) -> KernelArgs<'_> {
        KernelArgs::checked(self.entry.kernel.signature(), &self.values)
    }

    /// Runs the kernel, or queues it. The queue has been ordered after copies.
    pub(super) fn run(&self) -> Result<()> {
        let args = self.args();
        let run = || match self.entry.kernel {
            Kernel::Host(kernel) => {
                (kernel.run)(&args);
                Ok(())
            }
            Kernel::Cuda(ordinal, kernel) => cuda::run(ordinal, kernel, &args),
        };
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            let message = panic_message(panic);
            Err(KernelError::Panicked { kernel: self.kernel(), message }.into())
        })
    }
}

/// Splits a tensor into what the kernel sees and the memory that must live as long.
fn bind(tensor: Tensor) -> (TensorArg, Used) {
    let (data, dtype, range) = (tensor.address(), tensor.dtype(), tensor.range());
    let (storage, layout) = tensor.into_parts();
    let (shape, strides) = layout.into_parts();
    (TensorArg { data, dtype, shape, strides }, (storage, range))
}
