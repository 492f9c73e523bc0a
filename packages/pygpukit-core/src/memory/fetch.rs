//! Elements on their way to the host.

use super::scalar::Scalar;
use crate::device::Download;
use crate::dtype::DType;
use crate::error::Result;

/// The elements that a tensor had at a moment of its device's queue, on their way to the host: from
/// [`super::Tensor::fetch`].
pub struct Fetch {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) content: Box<dyn Download>,
}

impl Fetch {
    /// Their dtype.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape of the tensor.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Waits for the elements, in row-major order; `None` for block-quantised types.
    ///
    /// # Errors
    /// That the device can't be used any more, perhaps because of a kernel that ran before.
    pub fn scalars(self) -> Result<Option<Vec<Scalar>>> {
        let bytes = self.content.wait()?;
        let elements = bytes.chunks_exact(self.dtype.block_bytes());
        Ok(elements.map(|element| Scalar::read(self.dtype, element)).collect())
    }
}
