//! What a query has seen of some keys: largest score, sum of exponentials, weighted sum of values.

use super::super::simd::{Numbers, Simd, for_each_vector, math};

/// A partial result in memory: the sum for each of `dim` values, then largest score and weight sum.
#[derive(Clone, Copy)]
pub(super) struct Partial {
    pub(super) values: *mut f32,
    dim: usize,
}

impl Partial {
    /// Numbers that a partial result takes: a whole number of cache lines.
    pub(super) fn size(dim: usize) -> usize {
        (dim + 2).next_multiple_of(super::super::scratch::LINE)
    }

    /// # Safety
    /// `size(dim)` numbers at `data` are readable and writable, by nobody else meanwhile.
    #[inline(always)]
    pub(super) unsafe fn at(data: *mut f32, dim: usize) -> Partial {
        Partial { values: data, dim }
    }

    /// Makes it the result of no keys at all.
    #[inline(always)]
    pub(super) fn clear(self) {
        // SAFETY: `dim` numbers are writable, by `at`'s contract.
        unsafe { self.values.write_bytes(0, self.dim) };
        self.set(f32::NEG_INFINITY, 0.0);
    }

    /// Sets the largest score and the sum of the exponentials.
    #[inline(always)]
    pub(super) fn set(self, largest: f32, weight: f32) {
        // SAFETY: two numbers follow the values, by `at`'s contract.
        unsafe {
            self.values.add(self.dim).write(largest);
            self.values.add(self.dim + 1).write(weight);
        }
    }

    #[inline(always)]
    fn get(self) -> (f32, f32) {
        // SAFETY: as above.
        unsafe { (self.values.add(self.dim).read(), self.values.add(self.dim + 1).read()) }
    }

    /// Adds the keys of `next`, which come after those seen so far.
    #[inline(always)]
    pub(super) fn merge<S: Simd>(self, simd: S, next: Partial) {
        let ((old_largest, old_weight), (new_largest, new_weight)) = (self.get(), next.get());
        if new_weight == 0.0 {
            return;
        }
        let largest = if old_largest > new_largest { old_largest } else { new_largest };
        let (old_scale, new_scale) =
            (exp(simd, old_largest - largest), exp(simd, new_largest - largest));
        self.set(largest, old_weight * old_scale + new_weight * new_scale);
        let (old_scale, new_scale) = (simd.splat(old_scale), simd.splat(new_scale));
        for_each_vector!(S, self.dim, |start, count| {
            // SAFETY: the vector lies within the values of both, by `at`'s contract.
            unsafe {
                let target = self.values.add(start);
                let old = simd.mul(simd.load_some(target, count), old_scale);
                let new = simd.load_some(next.values.add(start), count);
                simd.store_some(target, simd.mul_add(new, new_scale, old), count);
            }
        });
    }

    /// Writes the average of the values to `out`; a `sink`, a score without a value, takes its share of
    /// the weight.
    ///
    /// # Safety
    /// `dim` numbers are writable at `out`.
    #[inline(always)]
    pub(super) unsafe fn write<S: Simd>(self, simd: S, out: Numbers, sink: f32) {
        let (largest, mut weight) = self.get();
        // What has seen nothing stays 0 / 0.
        if weight != 0.0 && sink != f32::NEG_INFINITY {
            // Beside a far larger sink the weight is infinite, and all values count for nothing.
            weight += exp(simd, sink - largest);
        }
        let weight = simd.splat(weight);
        for_each_vector!(S, self.dim, |start, count| {
            // SAFETY: the vector lies within the values and, by the caller's contract, `out`.
            unsafe {
                let values = simd.load_some(self.values.add(start), count);
                out.store(simd, start, simd.div(values, weight), count);
            }
        });
    }
}

#[inline(always)]
fn exp<S: Simd>(simd: S, x: f32) -> f32 {
    simd.largest(math::exp(simd, simd.splat(x)))
}
