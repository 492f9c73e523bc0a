//! Shapes as Python gives them.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// A shape given as a whole number or a sequence of them.
pub(super) struct ShapeArg(pub(super) Vec<usize>);

impl<'a, 'py> FromPyObject<'a, 'py> for ShapeArg {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let lengths: PyResult<Vec<i64>> =
            object.extract().or_else(|_| object.extract().map(|length| vec![length]));
        let lengths = lengths.map_err(|_| {
            PyTypeError::new_err("expected a shape: a whole number or a sequence of them")
        })?;
        let shape: Option<_> = lengths.iter().map(|&n| usize::try_from(n).ok()).collect();
        shape.map(ShapeArg).ok_or_else(|| {
            PyValueError::new_err(format!("expected lengths of 0 or more, found {lengths:?}"))
        })
    }
}

/// The shape that the arguments of `reshape` mean for `elements` elements: numbers, or one sequence of
/// them, of which one may be -1.
pub(super) fn reshaped(arguments: &Bound<'_, PyTuple>, elements: usize) -> PyResult<Vec<usize>> {
    let lengths: Vec<i64> = match arguments.len() {
        1 => arguments.get_item(0)?.extract().or_else(|_| arguments.extract())?,
        _ => arguments.extract()?,
    };
    let refuse =
        || PyValueError::new_err(format!("can't view {elements} elements as shape {lengths:?}"));
    let known = lengths
        .iter()
        .filter(|&&length| length != -1)
        .try_fold(1_usize, |product, &length| product.checked_mul(usize::try_from(length).ok()?));
    let inferred = known.and_then(|known| elements.checked_div(known));
    let unknown = lengths.iter().filter(|&&length| length == -1).count();
    if known.is_none() || unknown > 1 || (unknown == 1 && inferred.is_none()) {
        return Err(refuse());
    }
    let length = |length: &i64| usize::try_from(*length).ok().or(inferred).ok_or_else(refuse);
    lengths.iter().map(length).collect()
}
