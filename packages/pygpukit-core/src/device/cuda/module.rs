//! Compiled kernels, loaded onto a GPU.

use std::ffi::CStr;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::result::{DriverError, function, module};
use cudarc::driver::sys::{self, CUfunction_attribute, CUjit_option};

use super::context::{Context, text};

/// Shared memory that a block may have without asking for more, what its kernel declares included.
const SHARED_BYTES_UNASKED: u32 = 48 << 10;

/// Blocks of a cluster that every GPU with clusters runs.
const PORTABLE_CLUSTER: u32 = 8;

/// What the driver's compiler says goes into this many bytes.
const LOG_BYTES: usize = 8 << 10;

/// A loaded image; it stays loaded until the process ends.
pub(crate) struct Module {
    context: &'static Context,
    raw: sys::CUmodule,
}

/// An entry point of a module.
pub(crate) struct Function {
    context: &'static Context,
    raw: sys::CUfunction,
    /// The dynamic shared memory that it may have.
    shared_bytes: AtomicU32,
    /// The largest cluster that it may be launched in.
    cluster: AtomicU32,
}

// SAFETY: the driver lets every thread use a module.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}
// SAFETY: the driver lets every thread use a function.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Module {
    /// Loads a cubin or PTX, of which the driver compiles the latter.
    ///
    /// # Errors
    /// What the driver, and its compiler, say.
    pub(super) fn load(context: &'static Context, mut image: Vec<u8>) -> Result<Self, String> {
        // The driver reads text up to a NUL.
        image.push(0);
        let mut log = vec![0_u8; LOG_BYTES];
        let mut options = [
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values = [log.as_mut_ptr().cast(), ptr::without_provenance_mut(LOG_BYTES)];
        let mut raw = ptr::null_mut();
        let loaded = context.call(|| {
            // SAFETY: the image ends with a NUL, and says itself how long it is where it is a cubin;
            // there are two options with a value each, the second being the size of the first.
            unsafe {
                sys::cuModuleLoadDataEx(
                    &mut raw,
                    image.as_ptr().cast(),
                    options.len() as u32,
                    options.as_mut_ptr(),
                    values.as_mut_ptr(),
                )
            }
        });
        match loaded {
            Ok(()) => Ok(Module { context, raw }),
            Err(error) => Err(with_log(text(error), &log)),
        }
    }

    /// The entry point `name`.
    pub(super) fn function(&self, name: &CStr) -> Result<Function, DriverError> {
        let _bound = self.context.bind()?;
        // SAFETY: the module is loaded.
        let raw = unsafe { module::get_function(self.raw, name.to_owned()) }?;
        let declared = CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        // SAFETY: the function belongs to a loaded module.
        let declared = unsafe { function::get_function_attribute(raw, declared) }?;
        let shared_bytes = AtomicU32::new(SHARED_BYTES_UNASKED.saturating_sub(declared as u32));
        let cluster = AtomicU32::new(PORTABLE_CLUSTER);
        Ok(Function { context: self.context, raw, shared_bytes, cluster })
    }
}

impl Function {
    pub(super) fn raw(&self) -> sys::CUfunction {
        self.raw
    }

    /// Allows launches with that much dynamic shared memory, in clusters of that many blocks.
    pub(super) fn allow(&self, shared_bytes: u32, cluster: u32) -> Result<(), DriverError> {
        if shared_bytes > self.shared_bytes.load(Ordering::Relaxed) {
            self.set(
                CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                shared_bytes,
            )?;
            self.shared_bytes.fetch_max(shared_bytes, Ordering::Relaxed);
        }
        if cluster > self.cluster.load(Ordering::Relaxed) {
            let allowed = CUfunction_attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
            self.set(allowed, 1)?;
            self.cluster.fetch_max(cluster, Ordering::Relaxed);
        }
        Ok(())
    }

    fn set(&self, attribute: CUfunction_attribute, value: u32) -> Result<(), DriverError> {
        let _bound = self.context.bind()?;
        // SAFETY: the function belongs to a loaded module.
        unsafe { function::set_function_attribute(self.raw, attribute, value as i32) }
    }
}

/// The driver's message, with what its compiler had to say.
fn with_log(message: String, log: &[u8]) -> String {
    let log = CStr::from_bytes_until_nul(log).map_or("".into(), CStr::to_string_lossy);
    match log.trim() {
        "" => message,
        log => format!("{message}: {log}"),
    }
}
