//! Tensors out of weight files.

use std::sync::Arc;

use super::engine::AsyncEngine;
use crate::device::Event;
use crate::error::Result;
use crate::loader::TensorView;
use crate::memory::{MemoryPool, Tensor, TensorError};

impl Tensor {
    /// A new tensor of `pool` with the dtype, shape and elements of `view`, which are being read when
    /// this returns: whoever needs them waits for the tensor.
    ///
    /// # Errors
    /// [`crate::loader::LoadError`] when the file's type can't be read; what [`Tensor::empty`] and
    /// [`AsyncEngine::upload`] refuse.
    pub fn from_safetensor(view: &TensorView, pool: &Arc<MemoryPool>) -> Result<Tensor> {
        let tensor = Tensor::empty(pool, view.dtype()?, view.shape().to_vec())?;
        AsyncEngine::default_of(pool.device()).upload(view.source(), &tensor)?;
        Ok(tensor)
    }
}

impl AsyncEngine {
    /// Starts filling `target` with the elements of `view`, converted to its dtype, and returns the
    /// event of the end.
    ///
    /// # Errors
    /// [`TensorError::Mismatch`] when the shapes differ, [`crate::loader::LoadError`] when the view
    /// can't be converted, and what [`AsyncEngine::upload`] refuses.
    pub fn upload_view(&self, view: &TensorView, target: &Tensor) -> Result<Event> {
        if view.shape() != target.shape() {
            return Err(TensorError::Mismatch {
                expected: target.describe(),
                found: format!("tensor {:?} of shape {:?}", view.name(), view.shape()),
            }
            .into());
        }
        self.upload(view.cast(target.dtype())?.source(), target)
    }
}
