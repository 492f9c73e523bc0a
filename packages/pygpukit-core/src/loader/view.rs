//! A tensor that lies in a weight file, and what can be done to it on its way out.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::error::LoadError;
use super::file::WeightFile;
use super::layout::{BlockScales, Layout};
use super::source::ByteSource;
use super::stored_type::StoredType;
use crate::convert::{self, MXFP4_BLOCK};
use crate::dtype::DType;
use crate::error::Result as CoreResult;

/// A tensor in a weight file: a name, a type, a shape and a byte range, nothing read yet.
///
/// Slices, conversions, transpositions and permutations are views too; they compose, and are carried
/// out only when the bytes are asked for. A view keeps its file open. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct TensorView {
    name: Arc<str>,
    shape: Vec<usize>,
    contents: Contents,
}

#[derive(Clone, Debug)]
enum Contents {
    /// Elements that can be read.
    Readable(Arc<Layout>),
    /// Elements of a type known by name and size only.
    Opaque { file: Arc<WeightFile>, dtype: StoredType, range: Range<usize> },
}

impl TensorView {
    /// The tensor at bytes `range` of `file`, which must be as long as type and shape make it.
    pub(crate) fn new(
        name: &str,
        dtype: StoredType,
        shape: Vec<usize>,
        file: Arc<WeightFile>,
        range: Range<usize>,
    ) -> TensorView {
        let contents = match dtype {
            StoredType::Known(dtype) => {
                Contents::Readable(Arc::new(Layout::Stored { file, dtype, range }))
            }
            StoredType::Opaque { .. } => Contents::Opaque { file, dtype, range },
        };
        TensorView { name: name.into(), shape, contents }
    }

    /// The tensor's name in its file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The shape, row-major: the last dimension varies fastest.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements in all.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The type of the elements, after any conversion.
    ///
    /// # Errors
    /// [`LoadError::UnsupportedType`] when the file's type can't be read; [`TensorView::type_name`]
    /// says which it is.
    pub fn dtype(&self) -> Result<DType, LoadError> {
        Ok(self.layout()?.dtype())
    }

    /// The name of the type of the elements, also where they can't be read.
    pub fn type_name(&self) -> &'static str {
        match &self.contents {
            Contents::Readable(layout) => layout.dtype().name(),
            Contents::Opaque { dtype, .. } => dtype.name(),
        }
    }

    /// The bytes of the elements, after any conversion.
    pub fn nbytes(&self) -> usize {
        match &self.contents {
            Contents::Readable(layout) => layout
                .dtype()
                .nbytes(self.elements())
                .expect("a view's bytes were counted when it was made"),
            Contents::Opaque { range, .. } => range.len(),
        }
    }

    /// The file that holds the tensor.
    pub fn file(&self) -> &Path {
        self.stored().0.path()
    }

    /// The bytes of the file that the view reads. A permuted or transposed view reads all of its
    /// tensor's.
    pub fn byte_range(&self) -> Range<usize> {
        self.stored().1
    }

    /// The elements where they lie in memory, if the view is a contiguous piece of the file in the
    /// file's own type.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.contents {
            Contents::Readable(layout) => match &**layout {
                Layout::Stored { file, range, .. } => Some(&file.bytes()[range.clone()]),
                _ => None,
            },
            Contents::Opaque { .. } => None,
        }
    }

    /// [`TensorView::byte_range`] of the file as it is stored, whatever the type.
    pub fn stored_bytes(&self) -> &[u8] {
        let (file, range) = self.stored();
        &file.bytes()[range]
    }

    /// A copy of the elements.
    ///
    /// # Errors
    /// [`LoadError::UnsupportedType`].
    pub fn to_vec(&self) -> Result<Vec<u8>, LoadError> {
        let mut elements = vec![0; self.nbytes()];
        self.layout()?.read(0, &mut elements);
        Ok(elements)
    }

    /// What a transfer reads from.
    pub fn source(&self) -> Arc<dyn ByteSource> {
        Arc::new(self.clone())
    }

    /// Rows `start..stop`, those along the first dimension.
    ///
    /// # Errors
    /// [`LoadError::InvalidView`] when there are no such rows, or when they aren't whole blocks of a
    /// quantised type.
    pub fn slice(&self, start: usize, stop: usize) -> Result<TensorView, LoadError> {
        let (rows, row) = self.rows()?;
        if start > stop || stop > rows {
            return Err(
                self.invalid(format!("no rows {start}..{stop}, the first dimension is {rows}"))
            );
        }
        let layout = self.layout()?;
        self.check_blocks("slice", row * start, row * (stop - start))?;
        let mut shape = self.shape.clone();
        shape[0] = stop - start;
        Ok(self.with(shape, layout.window(row * start, row * (stop - start))))
    }

    /// The elements as type `to`: rounded to nearest, ties to even; quantised blocks as ggml
    /// dequantises them.
    ///
    /// # Errors
    /// [`LoadError::InvalidCast`] unless the elements are floating-point or quantised and `to` is one
    /// of float64, float32, float16 and bfloat16.
    pub fn cast(&self, to: DType) -> Result<TensorView, LoadError> {
        let layout = self.layout()?;
        let from = layout.dtype();
        if from != to && !convert::supports(from, to) {
            return Err(LoadError::InvalidCast {
                path: self.file().into(),
                tensor: self.name().into(),
                from,
                to,
            });
        }
        self.check_size(&self.shape)?;
        Ok(self.with(self.shape.clone(), layout.cast(to)))
    }

    /// A matrix as float32, each element times the scale of its block of `block` rows and columns:
    /// what an FP8 checkpoint stores beside its weights.
    ///
    /// # Errors
    /// [`LoadError::InvalidView`] unless the view is a matrix and `scales` has one floating-point
    /// number for each block, those cut by the edges included; [`LoadError::InvalidCast`].
    pub fn scaled(&self, scales: &TensorView, block: [usize; 2]) -> Result<TensorView, LoadError> {
        let &[rows, columns] = self.shape.as_slice() else {
            return Err(self.invalid("only a matrix (two dimensions) can be scaled".into()));
        };
        if block.contains(&0) {
            return Err(self.invalid(format!("blocks of {block:?} elements have no scale")));
        }
        let blocks = [rows.div_ceil(block[0]), columns.div_ceil(block[1])];
        if scales.elements() != blocks[0] * blocks[1] {
            return Err(self.invalid(format!(
                "{blocks:?} blocks of {block:?} elements need as many scales, found {:?} of them in \
                 {:?}",
                scales.shape, scales.name
            )));
        }
        let bytes = scales.cast(DType::F32)?.to_vec()?;
        let values = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let scales = Arc::new(BlockScales { values, columns, block });
        let inner = Arc::clone(self.cast(DType::F32)?.layout()?);
        Ok(self.with(self.shape.clone(), Arc::new(Layout::Scaled { inner, scales })))
    }

    /// Blocks of MXFP4, (…, n, 16) with two elements in each byte, as float32 of (…, 32 n): what a
    /// checkpoint like gpt-oss's stores beside their scales.
    ///
    /// # Errors
    /// [`LoadError::InvalidView`] unless this and `scales`, (…, n) E8M0 exponents, are bytes of those
    /// shapes.
    pub fn mxfp4(&self, scales: &TensorView) -> Result<TensorView, LoadError> {
        const BYTES: usize = MXFP4_BLOCK / 2;
        let [outer @ .., blocks, BYTES] = self.shape.as_slice() else {
            let reason = format!("blocks of MXFP4 have {BYTES} bytes in their last dimension");
            return Err(self.invalid(reason));
        };
        let pairs = self.layout()?;
        if pairs.dtype() != DType::U8 || scales.dtype()? != DType::U8 {
            return Err(self.invalid(format!(
                "blocks of MXFP4 and their scales must be uint8, found {} and {}",
                pairs.dtype(),
                scales.type_name()
            )));
        }
        if scales.shape != self.shape[..=outer.len()] {
            return Err(self.invalid(format!(
                "blocks of shape {:?} need a scale each, found {:?} in {:?}",
                self.shape, scales.shape, scales.name
            )));
        }
        let shape = [outer, &[blocks * MXFP4_BLOCK]].concat();
        self.check_size(&shape)?;
        let layout = Layout::Mxfp4 { pairs: Arc::clone(pairs), exponents: scales.to_vec()?.into() };
        Ok(self.with(shape, Arc::new(layout)))
    }

    /// The transpose of a matrix, as GPT-2's `Conv1D` weights need it.
    ///
    /// # Errors
    /// [`LoadError::InvalidView`] when the view isn't two-dimensional, or still quantised.
    pub fn transpose(&self) -> Result<TensorView, LoadError> {
        let layout = self.layout()?;
        let &[rows, columns] = self.shape.as_slice() else {
            return Err(self.invalid("only a matrix (two dimensions) can be transposed".into()));
        };
        if layout.dtype().is_quantized() {
            return Err(self.invalid(format!(
                "{} blocks can't be transposed; cast to a floating-point type first",
                layout.dtype()
            )));
        }
        self.check_blocks("transpose", columns, columns)?;
        let transposed = match &**layout {
            Layout::Transposed { inner, .. } => Arc::clone(inner),
            _ => Arc::new(Layout::Transposed { inner: Arc::clone(layout), rows, columns }),
        };
        Ok(self.with(vec![columns, rows], transposed))
    }

    /// Rows along the first dimension in the order that `indices` gives: row `i` of the result is row
    /// `indices[i]` of this view. Rows may be left out or repeated.
    ///
    /// # Errors
    /// [`LoadError::InvalidView`] when an index is out of range, or when rows aren't whole blocks of
    /// a quantised type.
    pub fn permute_rows(&self, indices: &[usize]) -> Result<TensorView, LoadError> {
        let (rows, row) = self.rows()?;
        if let Some(index) = indices.iter().find(|&&index| index >= rows) {
            return Err(self.invalid(format!("no row {index}, the first dimension is {rows}")));
        }
        let layout = self.layout()?;
        self.check_blocks("permute", row, row)?;
        let mut shape = self.shape.clone();
        shape[0] = indices.len();
        self.check_size(&shape)?;
        if row == 0 {
            return Ok(self.with(shape, Arc::clone(layout)));
        }
        let layout = Layout::Rows { inner: Arc::clone(layout), row, indices: indices.into() };
        Ok(self.with(shape, Arc::new(layout)))
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// [`LoadError::InvalidView`] when the number of elements differs, or rows of a quantised type
    /// would no longer be whole blocks.
    pub fn reshape(&self, shape: &[usize]) -> Result<TensorView, LoadError> {
        let layout = self.layout()?;
        self.check_size(shape)?;
        if shape.iter().product::<usize>() != self.elements() {
            return Err(self
                .invalid(format!("{} elements can't be reshaped to {shape:?}", self.elements())));
        }
        let block = layout.dtype().block_elements();
        if shape.last().copied().unwrap_or(1) % block != 0 {
            return Err(self.invalid(format!(
                "rows of {shape:?} aren't whole blocks of {block} elements of {}",
                layout.dtype()
            )));
        }
        Ok(self.with(shape.to_vec(), Arc::clone(layout)))
    }

    /// Lets go of the pages of the mapped file that hold this tensor and nothing else; they are read
    /// again if the tensor is. For a tensor that was copied elsewhere.
    pub fn release(&self) {
        let (file, range) = self.stored();
        file.release(range);
    }

    fn stored(&self) -> (&Arc<WeightFile>, Range<usize>) {
        match &self.contents {
            Contents::Readable(layout) => layout.stored(),
            Contents::Opaque { file, range, .. } => (file, range.clone()),
        }
    }

    fn layout(&self) -> Result<&Arc<Layout>, LoadError> {
        match &self.contents {
            Contents::Readable(layout) => Ok(layout),
            Contents::Opaque { file, dtype, .. } => Err(LoadError::UnsupportedType {
                path: file.path().into(),
                tensor: self.name().into(),
                dtype: dtype.name(),
            }),
        }
    }

    /// The rows along the first dimension, and the elements of each.
    fn rows(&self) -> Result<(usize, usize), LoadError> {
        match self.shape.first() {
            Some(&rows) => Ok((rows, self.elements().checked_div(rows).unwrap_or(0))),
            None => Err(self.invalid("a scalar has no rows".into())),
        }
    }

    fn with(&self, shape: Vec<usize>, layout: Arc<Layout>) -> TensorView {
        TensorView { name: Arc::clone(&self.name), shape, contents: Contents::Readable(layout) }
    }

    /// That a shape's elements and bytes can be counted.
    fn check_size(&self, shape: &[usize]) -> Result<(), LoadError> {
        let elements = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        // Eight bytes are the widest element, so that a later conversion can't overflow either.
        match elements.and_then(|elements| elements.checked_mul(8)) {
            Some(_) => Ok(()),
            None => Err(self.invalid(format!("the size of shape {shape:?} overflows"))),
        }
    }

    /// That elements at `start`, `len` of them, are whole blocks of the type that is read.
    fn check_blocks(&self, operation: &str, start: usize, len: usize) -> Result<(), LoadError> {
        let block = self.layout()?.granularity();
        if start.is_multiple_of(block) && len.is_multiple_of(block) {
            return Ok(());
        }
        Err(self.invalid(format!(
            "cannot {operation} rows that aren't whole blocks of {block} elements"
        )))
    }

    fn invalid(&self, reason: String) -> LoadError {
        LoadError::InvalidView {
            path: self.file().into(),
            tensor: self.name().into(),
            shape: self.shape.clone(),
            reason,
        }
    }
}

impl ByteSource for TensorView {
    fn nbytes(&self) -> usize {
        TensorView::nbytes(self)
    }

    fn granularity(&self) -> usize {
        match &self.contents {
            Contents::Readable(layout) => {
                let dtype = layout.dtype();
                layout.granularity() / dtype.block_elements() * dtype.block_bytes()
            }
            Contents::Opaque { .. } => 1,
        }
    }

    fn read(&self, offset: usize, out: &mut [u8]) -> CoreResult<()> {
        let layout = self.layout()?;
        let dtype = layout.dtype();
        layout.read(offset / dtype.block_bytes() * dtype.block_elements(), out);
        Ok(())
    }

    fn release(&self) {
        TensorView::release(self);
    }
}
