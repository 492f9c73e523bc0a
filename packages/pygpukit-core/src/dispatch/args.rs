//! The values that a launch passes to a kernel.

use std::ops::Range;

use super::error::LaunchError;
use super::signature::{Access, ParamKind, Signature};
use crate::dtype::DType;

/// A tensor as a kernel sees it: an address with a dtype, a shape and strides.
///
/// It doesn't own the memory. Whoever launches keeps the owning tensor alive until the kernel has
/// run, a captured graph for as long as the graph lives.
#[derive(Clone, Debug)]
pub struct TensorArg {
    /// The address of the first element, on the device of the launch.
    pub data: *mut u8,
    /// The type of the elements.
    pub dtype: DType,
    /// Elements in each dimension.
    pub shape: Vec<usize>,
    /// Elements from one index to the next in each dimension.
    pub strides: Vec<usize>,
}

// SAFETY: the pointer is only an address here; that launches which write through it don't race is
// the contract of the tensor that owns the memory (its events order the launches).
unsafe impl Send for TensorArg {}
// SAFETY: as above.
unsafe impl Sync for TensorArg {}

impl TensorArg {
    /// Elements in all.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The addresses from its first element's to the end of its last one's.
    pub fn addresses(&self) -> Range<usize> {
        let start = self.data.addr();
        if self.elements() == 0 {
            return start..start;
        }
        let steps =
            self.shape.iter().zip(&self.strides).map(|(&length, &stride)| (length - 1) * stride);
        start..start + (steps.sum::<usize>() + 1) * self.dtype.block_bytes()
    }

    /// Whether the elements lie in row-major order without gaps.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&length, &stride)| {
            let fits = length <= 1 || stride == expected;
            expected *= length;
            fits
        })
    }
}

/// One argument of a launch.
#[derive(Clone, Debug)]
pub enum ArgValue {
    /// A tensor.
    Tensor(TensorArg),
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// An optional tensor that is absent.
    None,
}

impl ArgValue {
    /// The value in words, for an error message.
    pub fn describe(&self) -> String {
        match self {
            ArgValue::Tensor(tensor) => {
                format!("a {} tensor of shape {:?}", tensor.dtype, tensor.shape)
            }
            ArgValue::Int(value) => format!("the whole number {value}"),
            ArgValue::Float(value) => format!("the number {value}"),
            ArgValue::None => "None".to_owned(),
        }
    }
}

/// The arguments of one launch, already checked against the signature.
#[derive(Clone, Copy, Debug)]
pub struct KernelArgs<'a> {
    signature: &'static Signature,
    values: &'a [ArgValue],
}

impl<'a> KernelArgs<'a> {
    /// Checks `values` against `signature`.
    ///
    /// # Errors
    /// What [`Signature::check`] refuses.
    pub fn new(signature: &'static Signature, values: &'a [ArgValue]) -> Result<Self, LaunchError> {
        signature.check(values)?;
        Ok(KernelArgs { signature, values })
    }

    /// Values that [`KernelArgs::new`] has accepted before.
    pub(super) fn checked(signature: &'static Signature, values: &'a [ArgValue]) -> Self {
        KernelArgs { signature, values }
    }

    /// The signature that the arguments fit.
    pub fn signature(&self) -> &'static Signature {
        self.signature
    }

    /// The tensor at `index`.
    ///
    /// # Panics
    /// If the signature declares no required tensor there: a mistake in the kernel.
    pub fn tensor(&self, index: usize) -> &'a TensorArg {
        self.optional(index).unwrap_or_else(|| self.mistyped(index))
    }

    /// The tensor at `index`, or `None` where it is absent.
    ///
    /// # Panics
    /// If the signature declares no tensor there: a mistake in the kernel.
    pub fn optional(&self, index: usize) -> Option<&'a TensorArg> {
        match &self.values[index] {
            ArgValue::Tensor(tensor) => Some(tensor),
            ArgValue::None => None,
            _ => self.mistyped(index),
        }
    }

    /// The whole number at `index`.
    ///
    /// # Panics
    /// If the signature declares no whole number there: a mistake in the kernel.
    pub fn int(&self, index: usize) -> i64 {
        match self.values[index] {
            ArgValue::Int(value) => value,
            _ => self.mistyped(index),
        }
    }

    /// The number at `index`.
    ///
    /// # Panics
    /// If the signature declares no number there: a mistake in the kernel.
    pub fn float(&self, index: usize) -> f64 {
        match self.values[index] {
            ArgValue::Float(value) => value,
            ArgValue::Int(value) => value as f64,
            _ => self.mistyped(index),
        }
    }

    /// The tensors that the kernel writes, in whole or in part.
    pub fn written(&self) -> impl Iterator<Item = &'a TensorArg> {
        self.signature.params.iter().zip(self.values).filter_map(|(param, value)| {
            match (param.kind, value) {
                (
                    ParamKind::Tensor { access: Access::Out | Access::InOut, .. },
                    ArgValue::Tensor(tensor),
                ) => Some(tensor),
                _ => None,
            }
        })
    }

    /// Refuses the launch because of the argument at `index`.
    pub fn refuse(&self, index: usize, reason: impl Into<String>) -> LaunchError {
        LaunchError::Argument {
            kernel: self.signature.name,
            argument: self.signature.params[index].name,
            reason: reason.into(),
        }
    }

    fn mistyped(&self, index: usize) -> ! {
        panic!(
            "kernel {} reads argument {} against its own signature",
            self.signature.name, self.signature.params[index].name
        )
    }
}
