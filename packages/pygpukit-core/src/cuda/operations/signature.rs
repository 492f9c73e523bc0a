//! Signatures of operations on GPUs: the host kernel's, with more dtypes.

use crate::dispatch::{KernelArgs, LaunchError, Param, ParamKind};
use crate::dtype::DType;

const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::BF16];

/// `params`, in which each of the tensors named takes every floating-point dtype that kernels know.
pub(super) const fn widened<const N: usize>(params: &[Param], tensors: &[&str]) -> [Param; N] {
    assert!(params.len() == N);
    let mut result = [Param::int(""); N];
    let mut i = 0;
    while i < N {
        result[i] = params[i];
        if let ParamKind::Tensor { access, rank, optional, .. } = params[i].kind
            && contains(tensors, params[i].name)
        {
            result[i] = Param::tensor(params[i].name, access, FLOATS, rank, optional);
        }
        i += 1;
    }
    result
}

const fn contains(names: &[&str], name: &str) -> bool {
    let mut i = 0;
    while i < names.len() {
        if equal(names[i].as_bytes(), name.as_bytes()) {
            return true;
        }
        i += 1;
    }
    false
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

/// The signature of a host kernel with the tensors named [`widened`].
macro_rules! signature {
    ($host:expr, $tensors:expr) => {{
        const HOST: &$crate::dispatch::Signature = $host.signature;
        const PARAMS: [$crate::dispatch::Param; HOST.params.len()] =
            $crate::cuda::operations::signature::widened(HOST.params, $tensors);
        &$crate::dispatch::Signature { name: HOST.name, params: &PARAMS }
    }};
}
pub(super) use signature;

/// Refuses tensors with dimensions that don't fit the kernels' indices.
pub(super) fn check_sizes(args: &KernelArgs<'_>) -> Result<(), LaunchError> {
    for (index, param) in args.signature().params.iter().enumerate() {
        if let ParamKind::Tensor { .. } = param.kind
            && let Some(tensor) = args.optional(index)
            && tensor.shape.iter().any(|&length| i32::try_from(length).is_err())
        {
            let reason = format!("expected dimensions below 2^31, found {:?}", tensor.shape);
            return Err(args.refuse(index, reason));
        }
    }
    Ok(())
}

/// Refuses those of the tensors named whose dtype isn't that of the first; absent ones pass.
pub(super) fn check_same_dtype(args: &KernelArgs<'_>, names: &[&str]) -> Result<(), LaunchError> {
    let params = args.signature().params.iter().enumerate();
    let mut named = params
        .filter(|(_, param)| names.contains(&param.name))
        .filter_map(|(index, param)| Some((index, param.name, args.optional(index)?.dtype)));
    let Some((_, first, expected)) = named.next() else { return Ok(()) };
    match named.find(|&(_, _, dtype)| dtype != expected) {
        Some((index, _, found)) => {
            let reason = format!("expected {expected}, the dtype of {first}, found {found}");
            Err(args.refuse(index, reason))
        }
        None => Ok(()),
    }
}
