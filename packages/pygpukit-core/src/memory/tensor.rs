//! Tensors: typed, shaped views of pool memory.

use std::ops::Range;
use std::sync::Arc;

use super::error::TensorError;
use super::fetch::Fetch;
use super::layout::Layout;
use super::pool::MemoryPool;
use super::scalar::Scalar;
use super::storage::Storage;
use crate::device::{Arrived, Device, Download, Failure};
use crate::dtype::DType;
use crate::error::{Error, Result};

/// An array in device memory: dtype, shape and strides over a shared [`Storage`].
///
/// Clones, slices and reshapes are views of the same elements. The memory is freed with the last of
/// them. Host access waits for copies that are still filling the tensor.
#[derive(Clone, Debug)]
pub struct Tensor {
    storage: Arc<Storage>,
    dtype: DType,
    layout: Layout,
    /// Bytes from the start of the storage to the first element.
    offset: usize,
}

impl Tensor {
    /// A new contiguous tensor whose elements are whatever the memory held.
    ///
    /// # Errors
    /// [`TensorError`] for a shape that can't be, [`super::OutOfMemory`].
    pub fn empty(pool: &Arc<MemoryPool>, dtype: DType, shape: Vec<usize>) -> Result<Self> {
        let too_large = |shape| TensorError::TooLarge { dtype, shape };
        let Some(layout) = Layout::contiguous(shape.clone()) else {
            return Err(too_large(shape).into());
        };
        check_blocks(dtype, &layout, 0)?;
        let bytes = dtype.nbytes(layout.elements()).filter(|&bytes| isize::try_from(bytes).is_ok());
        let storage = Storage::new(pool, bytes.ok_or_else(|| too_large(shape))?)?;
        Ok(Tensor { storage: Arc::new(storage), dtype, layout, offset: 0 })
    }

    /// A new contiguous tensor of zeros.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    pub fn zeros(pool: &Arc<MemoryPool>, dtype: DType, shape: Vec<usize>) -> Result<Self> {
        let tensor = Tensor::empty(pool, dtype, shape)?;
        tensor.storage.zero()?;
        Ok(tensor)
    }

    /// A view of `storage` whose first element lies `offset` bytes from its start.
    ///
    /// # Errors
    /// [`TensorError`] when the elements leave the storage or cut a quantised block.
    pub fn from_storage(
        storage: Arc<Storage>,
        dtype: DType,
        layout: Layout,
        offset: usize,
    ) -> Result<Self> {
        check_blocks(dtype, &layout, 0)?;
        let end = dtype.nbytes(layout.extent()).and_then(|bytes| bytes.checked_add(offset));
        if end.is_none_or(|end| end > storage.bytes()) {
            return Err(mismatch(
                format!("elements within {} bytes", storage.bytes()),
                format!("{dtype} elements of shape {:?} at byte {offset}", layout.shape()),
            ));
        }
        Ok(Tensor { storage, dtype, layout, offset })
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Elements in each dimension.
    pub fn shape(&self) -> &[usize] {
        self.layout.shape()
    }

    /// Shape and strides.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Bytes of all elements, gaps between them not counted.
    pub fn nbytes(&self) -> usize {
        self.bytes_of(self.layout.elements())
    }

    /// The device that it lives on.
    pub fn device(&self) -> Device {
        self.storage.device()
    }

    /// The pool that it came from and that results computed from it go to.
    pub fn pool(&self) -> &Arc<MemoryPool> {
        self.storage.pool()
    }

    /// The memory behind it.
    pub fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    /// The address of the first element, on its device.
    pub fn address(&self) -> *mut u8 {
        self.storage.address(self.offset)
    }

    /// The bytes of the storage from its first element to its last.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.bytes_of(self.layout.extent())
    }

    /// Elements `start`, `start + step`, … before `stop` of dimension `dim`, as a view.
    ///
    /// # Errors
    /// [`TensorError`] for what the shape or the dtype doesn't allow.
    pub fn slice(
        &self,
        dim: usize,
        start: usize,
        stop: usize,
        step: usize,
    ) -> Result<Self, TensorError> {
        let (layout, elements) = self.layout.slice(dim, start, stop, step)?;
        self.view(layout, elements)
    }

    /// The part with index `index` in dimension `dim`, which goes away, as a view.
    ///
    /// # Errors
    /// [`TensorError`] for what the shape or the dtype doesn't allow.
    pub fn select(&self, dim: usize, index: usize) -> Result<Self, TensorError> {
        let (layout, elements) = self.layout.select(dim, index)?;
        self.view(layout, elements)
    }

    /// The same elements in another shape, as a view.
    ///
    /// # Errors
    /// [`TensorError`]; elements that aren't contiguous are never copied silently.
    pub fn reshape(&self, shape: Vec<usize>) -> Result<Self, TensorError> {
        self.view(self.layout.reshape(shape)?, 0)
    }

    /// Whether no copy into the tensor is under way.
    pub fn is_ready(&self) -> bool {
        self.storage.is_ready(&self.range())
    }

    /// Waits for the copies that fill the tensor.
    ///
    /// # Errors
    /// The failure of such a copy, until the elements are overwritten.
    pub fn wait(&self) -> Result<(), Failure> {
        self.storage.wait(&self.range())
    }

    /// Copies all elements to the host in row-major order, waiting for them first.
    ///
    /// # Errors
    /// The failure of the copy that was to fill the tensor; a size other than [`Tensor::nbytes`].
    pub fn read(&self, out: &mut [u8]) -> Result<()> {
        self.check_size(out.len())?;
        self.wait()?;
        let (run, starts) = self.runs();
        for (start, piece) in starts.zip(out.chunks_exact_mut(run)) {
            self.storage.read(start, piece)?;
        }
        Ok(())
    }

    /// Replaces all elements by `bytes`, in row-major order.
    ///
    /// # Errors
    /// A size other than [`Tensor::nbytes`].
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        self.check_size(bytes.len())?;
        self.storage.wait_to_overwrite(&self.range());
        let (run, starts) = self.runs();
        for (start, piece) in starts.zip(bytes.chunks_exact(run)) {
            self.storage.write(start, piece)?;
        }
        Ok(())
    }

    /// Replaces all elements by those of `source`, a tensor of the same device, dtype and shape that
    /// may overlap it only if both are contiguous.
    ///
    /// # Errors
    /// [`TensorError::Mismatch`]; the failure of the copy that was to fill `source`.
    pub fn copy_from(&self, source: &Tensor) -> Result<()> {
        if self.describe() != source.describe() {
            return Err(mismatch(self.describe(), source.describe()));
        }
        source.wait()?;
        self.storage.wait_to_overwrite(&self.range());
        let (own_run, own_starts) = self.runs();
        let (run, starts) = source.runs();
        let piece = own_run.min(run);
        let split = |run: usize, start: usize| (start..start + run).step_by(piece);
        let pairs = own_starts
            .flat_map(|start| split(own_run, start))
            .zip(starts.flat_map(|start| split(run, start)));
        for (target, from) in pairs {
            self.storage.copy_from(target, &source.storage, from, piece)?;
        }
        Ok(())
    }

    /// All elements as numbers in row-major order, or `None` for a block-quantised dtype.
    ///
    /// # Errors
    /// The failure of the copy that was to fill the tensor.
    pub fn scalars(&self) -> Result<Option<Vec<Scalar>>> {
        self.fetch()?.scalars()
    }

    /// Begins to copy all elements to the host, as they are once everything queued so far is done: what
    /// is queued later, though it writes them, doesn't wait for the host to take them.
    ///
    /// # Errors
    /// The failure of the copy that was to fill the tensor.
    pub fn fetch(&self) -> Result<Fetch> {
        let content: Box<dyn Download> = if self.layout.is_contiguous() {
            self.wait()?;
            self.storage.fetch(self.range().start, self.nbytes())?
        } else {
            let mut bytes = vec![0; self.nbytes()];
            self.read(&mut bytes)?;
            Box::new(Arrived(bytes))
        };
        Ok(Fetch { dtype: self.dtype, shape: self.shape().to_vec(), content })
    }

    /// Storage and layout, given away.
    pub fn into_parts(self) -> (Arc<Storage>, Layout) {
        (self.storage, self.layout)
    }

    /// Dtype, shape and device in words, for an error message.
    pub fn describe(&self) -> String {
        format!("a {} tensor of shape {:?} on {}", self.dtype, self.shape(), self.device())
    }

    /// Where the contiguous runs start in the storage, and how long each is, in bytes.
    fn runs(&self) -> (usize, impl Iterator<Item = usize>) {
        let (elements, starts) = self.layout.runs();
        let starts = starts.map(|start| self.offset + self.bytes_of(start));
        // Without elements there are no runs, but a length that divides anything is still needed.
        (self.bytes_of(elements).max(1), starts)
    }

    fn view(&self, layout: Layout, elements: usize) -> Result<Self, TensorError> {
        check_blocks(self.dtype, &layout, elements)?;
        let offset = if layout.elements() == 0 { 0 } else { self.bytes_of(elements) };
        let storage = Arc::clone(&self.storage);
        Ok(Tensor { storage, dtype: self.dtype, layout, offset: self.offset + offset })
    }

    fn bytes_of(&self, elements: usize) -> usize {
        self.dtype.nbytes(elements).expect("every view was checked to be made of whole blocks")
    }

    fn check_size(&self, bytes: usize) -> Result<()> {
        if bytes == self.nbytes() {
            return Ok(());
        }
        let expected = format!("{} bytes for {}", self.nbytes(), self.describe());
        Err(mismatch(expected, format!("{bytes} bytes")))
    }
}

fn mismatch(expected: String, found: String) -> Error {
    TensorError::Mismatch { expected, found }.into()
}

/// Checks that a view of a block-quantised tensor consists of whole blocks.
fn check_blocks(dtype: DType, layout: &Layout, offset: usize) -> Result<(), TensorError> {
    if !dtype.is_quantized() {
        return Ok(());
    }
    let whole = |elements: usize| elements.is_multiple_of(dtype.block_elements());
    let strides = layout.strides();
    let fits = match (layout.shape().last(), strides.last()) {
        (Some(&length), Some(1)) => {
            whole(length) && whole(offset) && strides[..strides.len() - 1].iter().all(|&s| whole(s))
        }
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let found = format!("shape {:?}, strides {strides:?}, offset {offset}", layout.shape());
    Err(TensorError::PartialBlock { dtype, found })
}

#[cfg(test)]
#[path = "tensor_tests.rs"]
mod tests;
