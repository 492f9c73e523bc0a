//! One value for each device, made when it is first asked for.

use std::sync::OnceLock;

use super::{Device, Ordinal};

/// Holds one `T` for each device.
pub(crate) struct PerDevice<T> {
    cpu: OnceLock<T>,
    cuda: OnceLock<Box<[OnceLock<T>]>>,
}

impl<T> PerDevice<T> {
    pub(crate) const fn new() -> Self {
        PerDevice { cpu: OnceLock::new(), cuda: OnceLock::new() }
    }

    /// The value of `device`, made by `create` if it is the first time.
    pub(crate) fn get_or_init(&self, device: Device, create: impl FnOnce() -> T) -> &T {
        let value = match device {
            Device::Cpu => &self.cpu,
            Device::Cuda(ordinal) => {
                let gpus = self
                    .cuda
                    .get_or_init(|| (0..Ordinal::count()).map(|_| OnceLock::new()).collect());
                &gpus[ordinal.index() as usize]
            }
        };
        value.get_or_init(create)
    }
}
