//! What a kernel declares about its parameters, so that a launch can be checked before it runs.

use super::args::{ArgValue, TensorArg};
use super::error::LaunchError;
use crate::dtype::DType;

/// How a kernel uses a tensor argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read.
    In,
    /// Every element written, none read.
    Out,
    /// Read and written (in whole or in part).
    InOut,
}

/// The kind of value that a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// A tensor of one of `dtypes` with `rank` dimensions.
    Tensor {
        /// Read, written or both.
        access: Access,
        /// The dtypes accepted.
        dtypes: &'static [DType],
        /// The number of dimensions.
        rank: usize,
        /// Whether `None` may stand in its place.
        optional: bool,
    },
    /// A whole number.
    Int,
    /// A floating-point number.
    Float,
}

/// One parameter of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// The name used in error messages and in the kernel's documentation.
    pub name: &'static str,
    /// What it takes.
    pub kind: ParamKind,
}

impl Param {
    /// A tensor that the kernel only reads.
    pub const fn input(name: &'static str, dtypes: &'static [DType], rank: usize) -> Param {
        Param::tensor(name, Access::In, dtypes, rank, false)
    }

    /// A tensor that the kernel only reads and that may be absent.
    pub const fn optional(name: &'static str, dtypes: &'static [DType], rank: usize) -> Param {
        Param::tensor(name, Access::In, dtypes, rank, true)
    }

    /// A tensor that the kernel writes in full.
    pub const fn output(name: &'static str, dtypes: &'static [DType], rank: usize) -> Param {
        Param::tensor(name, Access::Out, dtypes, rank, false)
    }

    /// A tensor that the kernel reads and writes.
    pub const fn inout(name: &'static str, dtypes: &'static [DType], rank: usize) -> Param {
        Param::tensor(name, Access::InOut, dtypes, rank, false)
    }

    /// A tensor parameter with everything spelt out.
    pub const fn tensor(
        name: &'static str,
        access: Access,
        dtypes: &'static [DType],
        rank: usize,
        optional: bool,
    ) -> Param {
        Param { name, kind: ParamKind::Tensor { access, dtypes, rank, optional } }
    }

    /// A whole number.
    pub const fn int(name: &'static str) -> Param {
        Param { name, kind: ParamKind::Int }
    }

    /// A floating-point number.
    pub const fn float(name: &'static str) -> Param {
        Param { name, kind: ParamKind::Float }
    }

    fn check(&self, value: &ArgValue) -> Result<(), String> {
        match (self.kind, value) {
            (ParamKind::Tensor { optional: true, .. }, ArgValue::None) => Ok(()),
            (ParamKind::Tensor { dtypes, rank, .. }, ArgValue::Tensor(tensor)) => {
                check_tensor(dtypes, rank, tensor)
            }
            (ParamKind::Int, ArgValue::Int(_))
            | (ParamKind::Float, ArgValue::Float(_) | ArgValue::Int(_)) => Ok(()),
            (kind, value) => {
                Err(format!("expected {}, found {}", describe(kind), value.describe()))
            }
        }
    }
}

fn check_tensor(dtypes: &[DType], rank: usize, tensor: &TensorArg) -> Result<(), String> {
    if !dtypes.contains(&tensor.dtype) {
        let names: Vec<_> = dtypes.iter().map(|dtype| dtype.name()).collect();
        return Err(format!("expected dtype {}, found {}", names.join(" or "), tensor.dtype));
    }
    if tensor.shape.len() != rank {
        return Err(format!("expected {rank} dimensions, found shape {:?}", tensor.shape));
    }
    Ok(())
}

fn describe(kind: ParamKind) -> &'static str {
    match kind {
        ParamKind::Tensor { optional: true, .. } => "a tensor or None",
        ParamKind::Tensor { .. } => "a tensor",
        ParamKind::Int => "a whole number",
        ParamKind::Float => "a number",
    }
}

/// A kernel's name and parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The name that launches it.
    pub name: &'static str,
    /// Its parameters, in the order of the arguments.
    pub params: &'static [Param],
}

impl Signature {
    /// Checks kinds, dtypes and ranks; how shapes fit together is the kernel's own check.
    ///
    /// # Errors
    /// [`LaunchError::ArgumentCount`] or [`LaunchError::Argument`].
    pub fn check(&self, values: &[ArgValue]) -> Result<(), LaunchError> {
        if values.len() != self.params.len() {
            return Err(LaunchError::ArgumentCount {
                kernel: self.name,
                expected: self.params.len(),
                found: values.len(),
            });
        }
        for (param, value) in self.params.iter().zip(values) {
            param.check(value).map_err(|reason| LaunchError::Argument {
                kernel: self.name,
                argument: param.name,
                reason,
            })?;
        }
        Ok(())
    }
}
