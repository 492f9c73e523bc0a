//! Tensors as kernels index them, and the checks that make the indices safe.

use super::simd::Numbers;
use crate::dispatch::signature::{Access, ParamKind};
use crate::dispatch::{KernelArgs, LaunchError, TensorArg};
use crate::dtype::DType;

/// A tensor of `RANK` dimensions whose last one lies without gaps.
///
/// Indices are checked on every access, so what a kernel reaches lies within the tensor; that the
/// tensor's memory is there, and that no other launch uses it in a way that conflicts, is the
/// contract of whoever launches (see [`TensorArg`]).
pub(super) struct View<T, const RANK: usize> {
    data: *mut T,
    shape: [usize; RANK],
    strides: [usize; RANK],
}

impl<T, const RANK: usize> Clone for View<T, RANK> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, const RANK: usize> Copy for View<T, RANK> {}

// SAFETY: the chunks of a kernel write disjoint parts; see the type's description for the rest.
unsafe impl<T: Send, const RANK: usize> Send for View<T, RANK> {}
// SAFETY: as above.
unsafe impl<T: Sync, const RANK: usize> Sync for View<T, RANK> {}

impl<T: Copy, const RANK: usize> View<T, RANK> {
    /// `tensor`, whose dtype the kernel's signature says is `T` and which [`check_layout`] passed. Of
    /// a block-quantised one the elements are its blocks.
    ///
    /// # Panics
    /// If the rank isn't `RANK`.
    pub(super) fn of(tensor: &TensorArg) -> View<T, RANK> {
        debug_assert_eq!(tensor.dtype.block_bytes(), size_of::<T>());
        let dimensions = |values: &[usize]| values.try_into().expect("the signature's rank");
        let mut shape: [usize; RANK] = dimensions(&tensor.shape);
        let mut strides: [usize; RANK] = dimensions(&tensor.strides);
        let block = tensor.dtype.block_elements();
        if block > 1 {
            shape[RANK - 1] /= block;
            for stride in &mut strides[..RANK - 1] {
                *stride /= block;
            }
        }
        View { data: tensor.data.cast(), shape, strides }
    }

    /// The length of dimension `axis`.
    #[inline(always)]
    pub(super) fn length(&self, axis: usize) -> usize {
        self.shape[axis]
    }

    /// The address of the element at `index`.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "iterators aren't always inlined")]
    pub(super) fn at(&self, index: [usize; RANK]) -> *mut T {
        let mut offset = 0;
        for axis in 0..RANK {
            let (i, length) = (index[axis], self.shape[axis]);
            assert!(i < length, "index {i} in a dimension of length {length}");
            offset += i * self.strides[axis];
        }
        // SAFETY: every index is below its dimension's length, so the element is in the tensor.
        unsafe { self.data.add(offset) }
    }

    /// The element at `index`.
    #[inline(always)]
    pub(super) fn get(&self, index: [usize; RANK]) -> T {
        // SAFETY: in bounds by `at`, aligned by `check_layout`.
        unsafe { self.at(index).read() }
    }

    /// Sets the element at `index`.
    #[inline(always)]
    pub(super) fn set(&self, index: [usize; RANK], value: T) {
        // SAFETY: as above.
        unsafe { self.at(index).write(value) }
    }
}

impl<T: Copy> View<T, 2> {
    /// A matrix over scratch: `rows` rows of `columns` numbers.
    pub(super) fn over(data: &mut [T], rows: usize, columns: usize) -> View<T, 2> {
        assert!(rows * columns <= data.len());
        View { data: data.as_mut_ptr(), shape: [rows, columns], strides: [columns, 1] }
    }

    /// Rows `first` to `first + count` as a matrix of their own.
    pub(super) fn rows(&self, first: usize, count: usize) -> View<T, 2> {
        assert!(first + count <= self.shape[0], "rows {first} + {count} of {}", self.shape[0]);
        // SAFETY: the first row is in the tensor, or there are none and nothing is ever reached.
        let data = unsafe { self.data.add(first * self.strides[0]) };
        View { data, shape: [count, self.shape[1]], strides: self.strides }
    }

    /// The address of row `row`, which has `length(1)` elements.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> *mut T {
        assert!(row < self.shape[0], "row {row} of {}", self.shape[0]);
        // SAFETY: the row is in the tensor.
        unsafe { self.data.add(row * self.strides[0]) }
    }

    /// Row `row` as a slice.
    ///
    /// # Safety
    /// Nobody writes to the row while the slice lives.
    #[inline(always)]
    pub(super) unsafe fn slice(&self, row: usize) -> &[T] {
        // SAFETY: the row lies in the tensor without gaps; the rest is the caller's contract.
        unsafe { std::slice::from_raw_parts(self.row(row), self.shape[1]) }
    }

    /// Elements from one row to the next.
    #[inline(always)]
    pub(super) fn row_stride(&self) -> usize {
        self.strides[0]
    }
}

/// A [`View`] of activations (or weights), whose type is known at run time only.
#[derive(Clone, Copy)]
pub(super) struct FloatView<const RANK: usize> {
    /// With strides in bytes, also that of the last dimension.
    bytes: View<u8, RANK>,
    dtype: DType,
}

impl<const RANK: usize> FloatView<RANK> {
    /// `tensor`, of a floating-point dtype, which [`check_layout`] passed.
    ///
    /// # Panics
    /// If the rank isn't `RANK`.
    pub(super) fn of(tensor: &TensorArg) -> FloatView<RANK> {
        let size = tensor.dtype.block_bytes();
        let dimensions = |values: &[usize]| values.try_into().expect("the signature's rank");
        let strides: [usize; RANK] = dimensions(&tensor.strides);
        let mut strides = strides.map(|stride| stride * size);
        strides[RANK - 1] = size;
        let bytes = View { data: tensor.data, shape: dimensions(&tensor.shape), strides };
        FloatView { bytes, dtype: tensor.dtype }
    }

    /// The type of the elements.
    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    /// The length of dimension `axis`.
    #[inline(always)]
    pub(super) fn length(&self, axis: usize) -> usize {
        self.bytes.length(axis)
    }

    /// The elements from `index` on to the end of the last dimension.
    #[inline(always)]
    pub(super) fn at(&self, index: [usize; RANK]) -> Numbers {
        Numbers::new(self.bytes.at(index), self.dtype)
    }
}

impl FloatView<2> {
    /// A matrix over scratch, with room for float32: `rows` rows of `columns` numbers.
    pub(super) fn over(
        data: &mut [f32],
        rows: usize,
        columns: usize,
        dtype: DType,
    ) -> FloatView<2> {
        assert!(rows * columns <= data.len());
        let size = dtype.block_bytes();
        let bytes = View {
            data: data.as_mut_ptr().cast(),
            shape: [rows, columns],
            strides: [columns * size, size],
        };
        FloatView { bytes, dtype }
    }

    /// Rows `first` to `first + count` as a matrix of their own.
    pub(super) fn rows(&self, first: usize, count: usize) -> FloatView<2> {
        FloatView { bytes: self.bytes.rows(first, count), dtype: self.dtype }
    }

    /// Row `row`, which has `length(1)` elements.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> Numbers {
        Numbers::new(self.bytes.row(row), self.dtype)
    }

    /// Copies row `from` to row `to` of `target`, which is as wide and of the same type.
    pub(super) fn copy_row(&self, from: usize, target: &FloatView<2>, to: usize) {
        assert!(self.length(1) == target.length(1) && self.dtype == target.dtype);
        let bytes = self.length(1) * self.dtype.block_bytes();
        // SAFETY: both rows have so many bytes; nobody else writes to either.
        unsafe { std::ptr::copy(self.bytes.row(from), target.bytes.row(to), bytes) };
    }

    /// Marks row `row` as the result of an index that there is nothing at.
    pub(super) fn fill_nan(&self, row: usize) {
        // SAFETY: the row has `length(1)` numbers.
        unsafe { self.row(row).fill_nan(self.length(1)) };
    }
}

impl<T: Copy> View<T, 3> {
    /// The matrix at `index` of the first dimension.
    pub(super) fn matrix(&self, index: usize) -> View<T, 2> {
        let data =
            if self.shape[1] * self.shape[2] > 0 { self.at([index, 0, 0]) } else { self.data };
        let [_, rows, columns] = self.shape;
        View { data, shape: [rows, columns], strides: [self.strides[1], self.strides[2]] }
    }
}

/// Refuses tensors that the kernels' views can't index: gaps in the last dimension, misaligned
/// addresses, outputs whose elements overlap.
pub(super) fn check_layout(args: &KernelArgs<'_>) -> Result<(), LaunchError> {
    for (index, param) in args.signature().params.iter().enumerate() {
        if let ParamKind::Tensor { access, .. } = param.kind
            && let Some(tensor) = args.optional(index)
        {
            check_tensor(access, tensor).map_err(|reason| args.refuse(index, reason))?;
        }
    }
    Ok(())
}

fn check_tensor(access: Access, tensor: &TensorArg) -> Result<(), String> {
    // Blocks are read byte by byte.
    let size = if tensor.dtype.is_quantized() { 1 } else { tensor.dtype.block_bytes() };
    if !tensor.data.addr().is_multiple_of(size) {
        return Err(format!(
            "expected an address aligned to {size} bytes, found {:?}",
            tensor.data
        ));
    }
    let (shape, strides) = (&tensor.shape, &tensor.strides);
    if let (Some(&length), Some(&stride)) = (shape.last(), strides.last())
        && length > 1
        && stride != 1
    {
        return Err(format!(
            "expected a last dimension without gaps, found strides {strides:?} for shape {shape:?}"
        ));
    }
    if access != Access::In && elements_overlap(shape, strides) {
        return Err(format!(
            "expected elements that don't overlap, found strides {strides:?} for shape {shape:?}"
        ));
    }
    Ok(())
}

/// Whether an outer dimension's stride is smaller than what lies within one of its steps.
fn elements_overlap(shape: &[usize], strides: &[usize]) -> bool {
    let mut extent = 1;
    shape.iter().zip(strides).rev().any(|(&length, &stride)| {
        let overlap = length > 1 && stride < extent;
        extent += length.saturating_sub(1) * stride;
        overlap
    })
}

/// Refuses those of the tensors at `indices` whose dtype isn't that of the first; absent ones pass.
pub(super) fn expect_same_dtype(
    args: &KernelArgs<'_>,
    indices: &[usize],
) -> Result<(), LaunchError> {
    let mut tensors =
        indices.iter().filter_map(|&index| Some((index, args.optional(index)?.dtype)));
    let Some((first, expected)) = tensors.next() else { return Ok(()) };
    match tensors.find(|&(_, dtype)| dtype != expected) {
        Some((index, found)) => {
            let first = args.signature().params[first].name;
            Err(args
                .refuse(index, format!("expected {expected}, the dtype of {first}, found {found}")))
        }
        None => Ok(()),
    }
}

/// Refuses the tensor at `index` unless its shape is `expected`; an absent one passes.
pub(super) fn expect_shape(
    args: &KernelArgs<'_>,
    index: usize,
    expected: &[usize],
) -> Result<(), LaunchError> {
    match args.optional(index) {
        Some(tensor) if tensor.shape != expected => {
            Err(args
                .refuse(index, format!("expected shape {expected:?}, found {:?}", tensor.shape)))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_is_found() {
        assert!(!elements_overlap(&[2, 3], &[3, 1]));
        assert!(!elements_overlap(&[2, 3], &[100, 1]));
        assert!(!elements_overlap(&[1, 3], &[0, 1]));
        assert!(!elements_overlap(&[0, 3], &[3, 1]));
        assert!(elements_overlap(&[2, 3], &[2, 1]));
        assert!(elements_overlap(&[2, 3], &[0, 1]));
        assert!(elements_overlap(&[2, 2, 2], &[3, 2, 1]));
    }
}
