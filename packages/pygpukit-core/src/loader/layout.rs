//! How the elements of a view are found in the file: a short chain of lazy steps.
//!
//! Steps count in elements, so that a conversion can slip beneath the steps that only move elements
//! about: it always sits on the stored bytes, where it reads them in order.

use std::ops::Range;
use std::sync::Arc;

use super::file::WeightFile;
use crate::convert::{self, CHUNK, MXFP4_BLOCK};
use crate::dtype::DType;

/// One step, with those beneath it.
#[derive(Clone, Debug)]
pub(crate) enum Layout {
    /// The elements as they lie in the file.
    Stored { file: Arc<WeightFile>, dtype: DType, range: Range<usize> },
    /// The elements of `inner` as another type.
    Cast { inner: Arc<Layout>, to: DType },
    /// The rows of `inner`, each `row` elements long, in the order that `indices` gives.
    Rows { inner: Arc<Layout>, row: usize, indices: Arc<[usize]> },
    /// `inner`, a matrix of `rows` × `columns`, transposed.
    Transposed { inner: Arc<Layout>, rows: usize, columns: usize },
    /// The elements of `inner`, each times the scale of its block, as float32.
    Scaled { inner: Arc<Layout>, scales: Arc<BlockScales> },
    /// The elements of blocks of MXFP4, as float32: `pairs` has two in each byte.
    Mxfp4 { pairs: Arc<Layout>, exponents: Arc<[u8]> },
    /// The elements of `inner` from `start` on.
    Window { inner: Arc<Layout>, start: usize },
}

/// A scale for each block of a matrix.
#[derive(Debug)]
pub(crate) struct BlockScales {
    /// Row by row.
    pub(crate) values: Vec<f32>,
    /// Of the matrix.
    pub(crate) columns: usize,
    /// Rows and columns of a block; those at the edges may be cut.
    pub(crate) block: [usize; 2],
}

impl BlockScales {
    /// Multiplies the elements from `start` on.
    fn apply(&self, start: usize, elements: &mut [f32]) {
        let blocks = self.columns.div_ceil(self.block[1]);
        for (index, element) in elements.iter_mut().enumerate() {
            let (row, column) = ((start + index) / self.columns, (start + index) % self.columns);
            *element *= self.values[row / self.block[0] * blocks + column / self.block[1]];
        }
    }
}

impl Layout {
    /// The type of the elements.
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Layout::Stored { dtype, .. } => *dtype,
            Layout::Cast { to, .. } => *to,
            Layout::Scaled { .. } | Layout::Mxfp4 { .. } => DType::F32,
            Layout::Rows { inner, .. }
            | Layout::Transposed { inner, .. }
            | Layout::Window { inner, .. } => inner.dtype(),
        }
    }

    /// The stored bytes beneath.
    pub(crate) fn stored(&self) -> (&Arc<WeightFile>, Range<usize>) {
        match self {
            Layout::Stored { file, range, .. } => (file, range.clone()),
            Layout::Cast { inner, .. }
            | Layout::Scaled { inner, .. }
            | Layout::Mxfp4 { pairs: inner, .. }
            | Layout::Rows { inner, .. }
            | Layout::Transposed { inner, .. }
            | Layout::Window { inner, .. } => inner.stored(),
        }
    }

    /// Reads start at multiples of this many elements, and end there or at the end.
    pub(crate) fn granularity(&self) -> usize {
        match self {
            Layout::Stored { dtype, .. } => dtype.block_elements(),
            Layout::Mxfp4 { .. } => MXFP4_BLOCK,
            Layout::Cast { inner, .. }
            | Layout::Scaled { inner, .. }
            | Layout::Rows { inner, .. }
            | Layout::Window { inner, .. } => inner.granularity(),
            Layout::Transposed { .. } => 1,
        }
    }

    /// The same elements as type `to`.
    pub(crate) fn cast(self: &Arc<Layout>, to: DType) -> Arc<Layout> {
        if self.dtype() == to {
            return Arc::clone(self);
        }
        Arc::new(match &**self {
            Layout::Stored { .. }
            | Layout::Cast { .. }
            | Layout::Scaled { .. }
            | Layout::Mxfp4 { .. } => Layout::Cast { inner: Arc::clone(self), to },
            Layout::Rows { inner, row, indices } => {
                Layout::Rows { inner: inner.cast(to), row: *row, indices: Arc::clone(indices) }
            }
            Layout::Transposed { inner, rows, columns } => {
                Layout::Transposed { inner: inner.cast(to), rows: *rows, columns: *columns }
            }
            Layout::Window { inner, start } => {
                Layout::Window { inner: inner.cast(to), start: *start }
            }
        })
    }

    /// The `len` elements from `start` on, both multiples of the granularity.
    pub(crate) fn window(self: &Arc<Layout>, start: usize, len: usize) -> Arc<Layout> {
        Arc::new(match &**self {
            Layout::Stored { file, dtype, range } => {
                let bytes = |elements| {
                    dtype.nbytes(elements).expect("windows lie within the tensor, at whole blocks")
                };
                let start = range.start + bytes(start);
                Layout::Stored {
                    file: Arc::clone(file),
                    dtype: *dtype,
                    range: start..start + bytes(len),
                }
            }
            Layout::Cast { inner, to } => Layout::Cast { inner: inner.window(start, len), to: *to },
            Layout::Rows { inner, row, indices }
                if start.is_multiple_of(*row) && len.is_multiple_of(*row) =>
            {
                let indices = indices[start / row..(start + len) / row].into();
                Layout::Rows { inner: Arc::clone(inner), row: *row, indices }
            }
            Layout::Window { inner, start: offset } => {
                Layout::Window { inner: Arc::clone(inner), start: offset + start }
            }
            Layout::Rows { .. }
            | Layout::Transposed { .. }
            | Layout::Scaled { .. }
            | Layout::Mxfp4 { .. } => Layout::Window { inner: Arc::clone(self), start },
        })
    }

    /// Writes the elements from `start` on, as many as `out` holds.
    pub(crate) fn read(&self, start: usize, out: &mut [u8]) {
        match self {
            Layout::Stored { file, dtype, range } => {
                let offset = start / dtype.block_elements() * dtype.block_bytes();
                out.copy_from_slice(&file.bytes()[range.clone()][offset..offset + out.len()]);
            }
            Layout::Cast { inner, to } => read_cast(inner, *to, start, out),
            Layout::Scaled { inner, scales } => read_scaled(inner, scales, start, out),
            Layout::Mxfp4 { pairs, exponents } => read_mxfp4(pairs, exponents, start, out),
            Layout::Rows { inner, row, indices } => read_rows(inner, *row, indices, start, out),
            Layout::Transposed { inner, rows, columns } => {
                super::transpose::read(inner, *rows, *columns, start, out);
            }
            Layout::Window { inner, start: offset } => inner.read(offset + start, out),
        }
    }
}

fn read_cast(inner: &Layout, to: DType, start: usize, out: &mut [u8]) {
    let from = inner.dtype();
    // The widest type takes eight bytes for each element.
    let mut buffer = [0u8; CHUNK * 8];
    for (index, piece) in out.chunks_mut(CHUNK * to.block_bytes()).enumerate() {
        let elements = piece.len() / to.block_bytes();
        let input = &mut buffer[..elements / from.block_elements() * from.block_bytes()];
        inner.read(start + index * CHUNK, input);
        convert::convert_chunk(from, to, input, piece);
    }
}

fn read_scaled(inner: &Layout, scales: &BlockScales, start: usize, out: &mut [u8]) {
    let mut buffer = [0f32; CHUNK];
    for (index, piece) in out.chunks_mut(CHUNK * size_of::<f32>()).enumerate() {
        let start = start + index * CHUNK;
        read_cast(inner, DType::F32, start, piece);
        let values = &mut buffer[..piece.len() / size_of::<f32>()];
        for (value, &bytes) in values.iter_mut().zip(piece.as_chunks().0) {
            *value = f32::from_le_bytes(bytes);
        }
        scales.apply(start, values);
        for (bytes, value) in piece.as_chunks_mut().0.iter_mut().zip(values) {
            *bytes = value.to_le_bytes();
        }
    }
}

fn read_mxfp4(pairs: &Layout, exponents: &[u8], start: usize, out: &mut [u8]) {
    let mut bytes = [0u8; CHUNK / 2];
    let mut buffer = [0f32; CHUNK];
    for (index, piece) in out.chunks_mut(CHUNK * size_of::<f32>()).enumerate() {
        let start = start + index * CHUNK;
        let values = &mut buffer[..piece.len() / size_of::<f32>()];
        let bytes = &mut bytes[..values.len() / 2];
        pairs.read(start / 2, bytes);
        convert::decode_pairs(bytes, &exponents[start / MXFP4_BLOCK..], values);
        for (bytes, value) in piece.as_chunks_mut().0.iter_mut().zip(values) {
            *bytes = value.to_le_bytes();
        }
    }
}

fn read_rows(inner: &Layout, row: usize, indices: &[usize], start: usize, out: &mut [u8]) {
    let dtype = inner.dtype();
    let (block, block_bytes) = (dtype.block_elements(), dtype.block_bytes());
    let (mut position, mut rest) = (start, out);
    while !rest.is_empty() {
        let within = position % row;
        let elements = (row - within).min(rest.len() / block_bytes * block);
        let (piece, remaining) = rest.split_at_mut(elements / block * block_bytes);
        inner.read(indices[position / row] * row + within, piece);
        position += elements;
        rest = remaining;
    }
}
