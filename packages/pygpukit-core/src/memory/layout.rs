//! Shapes and strides: where the elements of a tensor lie, counted in elements.

use super::error::TensorError;

/// The shape of a tensor and the distance between its elements in each dimension.
///
/// Element `i` lies `sum(i[d] * strides[d])` elements after the first. Views (slices, reshapes) are
/// other layouts over the same memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl Layout {
    /// Row-major order without gaps; `None` when the shape has more elements than a `usize` counts.
    pub fn contiguous(shape: Vec<usize>) -> Option<Self> {
        let mut strides = vec![0; shape.len()];
        let mut step = 1_usize;
        for (stride, &length) in strides.iter_mut().zip(&shape).rev() {
            *stride = step;
            // Empty dimensions don't make the others addressable.
            step = step.checked_mul(length.max(1))?;
        }
        Some(Layout { shape, strides })
    }

    /// A layout with strides of its own; `None` when they are not one for each dimension or reach
    /// further than a `usize` counts.
    pub fn strided(shape: Vec<usize>, strides: Vec<usize>) -> Option<Self> {
        if shape.len() != strides.len() {
            return None;
        }
        let mut last = 0_usize;
        let mut elements = 1_usize;
        for (&length, &stride) in shape.iter().zip(&strides) {
            last = last.checked_add(stride.checked_mul(length.saturating_sub(1))?)?;
            elements = elements.checked_mul(length.max(1))?;
        }
        last.checked_add(1)?;
        Some(Layout { shape, strides })
    }

    /// Elements in each dimension.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Elements from one index to the next in each dimension.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Elements in all.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Elements from the first to behind the last in memory, gaps included.
    pub fn extent(&self) -> usize {
        if self.elements() == 0 {
            return 0;
        }
        let last: usize = self
            .shape
            .iter()
            .zip(&self.strides)
            .map(|(&length, &stride)| (length - 1) * stride)
            .sum();
        last + 1
    }

    /// Whether the elements lie in row-major order without gaps.
    pub fn is_contiguous(&self) -> bool {
        self.elements() == 0 || self.contiguous_suffix().1 == self.elements()
    }

    /// Shape and strides, given away.
    pub fn into_parts(self) -> (Vec<usize>, Vec<usize>) {
        (self.shape, self.strides)
    }

    /// Elements `start`, `start + step`, … before `stop` of dimension `dim`, as a layout and the
    /// offset of its first element.
    ///
    /// # Errors
    /// [`TensorError::Dimension`] or [`TensorError::Range`].
    ///
    /// # Panics
    /// If `step` is 0.
    pub fn slice(
        &self,
        dim: usize,
        start: usize,
        stop: usize,
        step: usize,
    ) -> Result<(Layout, usize), TensorError> {
        let length = self.length(dim)?;
        if start > stop || stop > length {
            return Err(TensorError::Range { start, stop, dim, length });
        }
        let mut layout = self.clone();
        layout.shape[dim] = (stop - start).div_ceil(step);
        // With one element left the stride is never used; a large one could overflow.
        layout.strides[dim] = self.strides[dim].saturating_mul(step);
        Ok((layout, start * self.strides[dim]))
    }

    /// The part with index `index` in dimension `dim`, which goes away, and the offset of its first
    /// element.
    ///
    /// # Errors
    /// [`TensorError::Dimension`] or [`TensorError::Index`].
    pub fn select(&self, dim: usize, index: usize) -> Result<(Layout, usize), TensorError> {
        let length = self.length(dim)?;
        if index >= length {
            return Err(TensorError::Index { index, dim, length });
        }
        let mut layout = self.clone();
        layout.shape.remove(dim);
        let stride = layout.strides.remove(dim);
        Ok((layout, index * stride))
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// [`TensorError::Reshape`] when the number of elements differs, or when they aren't contiguous
    /// and so would have to be copied.
    pub fn reshape(&self, shape: Vec<usize>) -> Result<Layout, TensorError> {
        let refuse =
            |to, reason| Err(TensorError::Reshape { from: self.shape.clone(), to, reason });
        match Layout::contiguous(shape.clone()) {
            Some(layout) if layout.elements() == self.elements() => {
                if self.is_contiguous() {
                    Ok(layout)
                } else {
                    refuse(shape, "it isn't contiguous; copy it first")
                }
            }
            _ => refuse(shape, "the number of elements differs"),
        }
    }

    /// The runs of elements that lie side by side, in row-major order: all have the same length, the
    /// iterator yields where each starts.
    pub fn runs(&self) -> (usize, Runs<'_>) {
        let (outer, run) = self.contiguous_suffix();
        let left = if run == 0 { 0 } else { self.shape[..outer].iter().product() };
        (run, Runs { layout: self, index: vec![0; outer], offset: 0, left })
    }

    /// How many leading dimensions are left of the contiguous ones at the end, and how many elements
    /// those span.
    fn contiguous_suffix(&self) -> (usize, usize) {
        let mut run = 1;
        for dim in (0..self.rank()).rev() {
            if self.shape[dim] != 1 && self.strides[dim] != run {
                return (dim + 1, run);
            }
            run *= self.shape[dim];
        }
        (0, run)
    }

    fn length(&self, dim: usize) -> Result<usize, TensorError> {
        let rank = self.rank();
        self.shape.get(dim).copied().ok_or(TensorError::Dimension { dim, rank })
    }
}

/// Where the contiguous runs of a [`Layout`] start, in elements.
#[derive(Debug)]
pub struct Runs<'a> {
    layout: &'a Layout,
    index: Vec<usize>,
    offset: usize,
    left: usize,
}

impl Iterator for Runs<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let start = self.offset;
        for dim in (0..self.index.len()).rev() {
            let stride = self.layout.strides[dim];
            self.index[dim] += 1;
            if self.index[dim] < self.layout.shape[dim] {
                self.offset += stride;
                break;
            }
            self.offset -= stride * (self.layout.shape[dim] - 1);
            self.index[dim] = 0;
        }
        Some(start)
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
