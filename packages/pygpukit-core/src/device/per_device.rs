//! One value for each device, made when it is first asked for.

use std::sync::OnceLock;

use super::Device;

/// Holds one `T` for each device.
pub(crate) struct PerDevice<T> {
    cpu: OnceLock<T>,
}

impl<T> PerDevice<T> {
    pub(crate) const fn new() -> Self {
        PerDevice { cpu: OnceLock::new() }
    }

    /// The value of `device`, made by `create` if it is the first time.
    pub(crate) fn get_or_init(&self, device: Device, create: impl FnOnce() -> T) -> &T {
        match device {
            Device::Cpu => self.cpu.get_or_init(create),
        }
    }
}
