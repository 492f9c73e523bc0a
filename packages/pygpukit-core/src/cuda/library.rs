//! The images and entry points that a GPU has loaded.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::CString;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::images::{self, Image};
use crate::device::cuda::{Function, Module};
use crate::device::{Device, DeviceError, Ordinal, PerDevice};

/// What one GPU has loaded. Nothing is unloaded.
pub(super) struct Library {
    ordinal: Ordinal,
    modules: Mutex<HashMap<&'static str, Loaded>>,
    functions: RwLock<HashMap<(&'static str, &'static str), Arc<Function>>>,
}

struct Loaded {
    module: Module,
    path: PathBuf,
}

static LIBRARIES: PerDevice<Library> = PerDevice::new();

/// The images that the GPU has loaded so far: their names, and the files that they were loaded from.
pub fn loaded_images(ordinal: Ordinal) -> Vec<(&'static str, PathBuf)> {
    let modules = Library::of(ordinal).modules.lock().unwrap_or_else(PoisonError::into_inner);
    let mut images: Vec<_> =
        modules.iter().map(|(&source, loaded)| (source, loaded.path.clone())).collect();
    images.sort_unstable();
    images
}

impl Library {
    pub(super) fn of(ordinal: Ordinal) -> &'static Self {
        LIBRARIES.get_or_init(Device::Cuda(ordinal), || Library {
            ordinal,
            modules: Mutex::default(),
            functions: RwLock::default(),
        })
    }

    /// The entry point `function` of the image `source`, loaded if need be.
    ///
    /// # Errors
    /// [`DeviceError::NoKernels`].
    pub(super) fn function(
        &self,
        source: &'static str,
        function: &'static str,
    ) -> Result<Arc<Function>, DeviceError> {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = functions.get(&(source, function)) {
            return Ok(Arc::clone(known));
        }
        drop(functions);
        let loaded = Arc::new(self.load_function(source, function)?);
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(functions.entry((source, function)).or_insert(loaded)))
    }

    fn load_function(
        &self,
        source: &'static str,
        function: &'static str,
    ) -> Result<Function, DeviceError> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = match modules.entry(source) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(self.load(source)?),
        };
        let name = CString::new(function).expect("names of entry points hold no NUL");
        let found = self.ordinal.cuda().function(&loaded.module, &name);
        found.map_err(|reason| {
            self.no_kernels(format!("{} has no {function}: {reason}", loaded.path.display()))
        })
    }

    /// Loads the best image of `source` that the driver accepts.
    fn load(&self, source: &str) -> Result<Loaded, DeviceError> {
        let cuda = self.ordinal.cuda();
        let images = images::find(source, cuda.limits().capability)
            .map_err(|reason| self.no_kernels(format!("{}: {reason}", cuda.describe())))?;
        let mut refusals = Vec::new();
        for Image { path, .. } in images {
            let image = fs::read(&path).map_err(|error| error.to_string());
            match image.and_then(|image| cuda.load_module(image)) {
                Ok(module) => return Ok(Loaded { module, path }),
                Err(reason) => refusals.push(format!("{}: {reason}", path.display())),
            }
        }
        Err(self.no_kernels(refusals.join("; ")))
    }

    fn no_kernels(&self, reason: String) -> DeviceError {
        DeviceError::NoKernels { index: self.ordinal.index(), reason }
    }
}
