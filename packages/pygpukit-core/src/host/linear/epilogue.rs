//! What happens to the sums of a linear layer before they are its result.

use super::super::activation::{Activation, ClampedSwiglu};
use super::super::simd::{Floats, Simd, for_each_vector};
use super::super::view::FloatView;

/// `out = residual + scale · (act(sums + bias))`, or gated
/// `out = residual + scale · act(gate + bias) · (other + bias)`, or what `clamped` makes of the two.
pub(super) struct Epilogue {
    pub(super) bias: Option<Floats>,
    pub(super) activation: Activation,
    pub(super) gated: bool,
    /// In place of the activation, where gated.
    pub(super) clamped: Option<ClampedSwiglu>,
    pub(super) residual: Option<FloatView<2>>,
    pub(super) scale: f32,
    pub(super) out: FloatView<2>,
}

impl Epilogue {
    /// The number of outputs.
    pub(super) fn outputs(&self) -> usize {
        self.out.length(1)
    }

    /// Weight rows for each output.
    pub(super) fn parts(&self) -> usize {
        if self.gated { 2 } else { 1 }
    }

    /// Finishes outputs `first` to `first + count` of `token` from their sums: those of the first
    /// (gate) rows in `sums[0]`, those of the others in `sums[1]` where gated.
    ///
    /// # Safety
    /// `count` numbers are readable at each of the sums used.
    #[inline(always)]
    pub(super) unsafe fn finish<S: Simd>(
        &self,
        simd: S,
        token: usize,
        first: usize,
        count: usize,
        sums: [*const f32; 2],
    ) {
        assert!(first + count <= self.outputs());
        let out = self.out.row(token);
        let residual = self.residual.map(|residual| residual.row(token));
        for_each_vector!(S, count, |start, lanes| {
            let column = first + start;
            // SAFETY: the vector lies within the sums and, as asserted, within the rows.
            unsafe {
                let gate = self.biased(simd, sums[0].add(start), column, lanes);
                let mut y = if self.gated {
                    let row = self.outputs() + column;
                    self.gate(simd, gate, self.biased(simd, sums[1].add(start), row, lanes))
                } else {
                    self.activation.apply(simd, gate)
                };
                y = simd.mul(y, simd.splat(self.scale));
                if let Some(residual) = residual {
                    y = simd.add(residual.load(simd, column, lanes), y);
                }
                out.store(simd, column, y, lanes);
            }
        });
    }

    #[inline(always)]
    fn gate<S: Simd>(&self, simd: S, gate: S::Vector, other: S::Vector) -> S::Vector {
        match self.clamped {
            Some(clamped) => clamped.apply(simd, gate, other),
            None => simd.mul(self.activation.apply(simd, gate), other),
        }
    }

    /// The sums at `sums`, which belong to weight rows from `row` on, with their bias.
    ///
    /// # Safety
    /// `lanes` numbers are readable at `sums`.
    #[inline(always)]
    unsafe fn biased<S: Simd>(
        &self,
        simd: S,
        sums: *const f32,
        row: usize,
        lanes: usize,
    ) -> S::Vector {
        // SAFETY: the caller's contract.
        let sums = unsafe { simd.load_some(sums, lanes) };
        match self.bias {
            Some(bias) => simd.add(sums, bias.load(simd, row, lanes)),
            None => sums,
        }
    }
}
