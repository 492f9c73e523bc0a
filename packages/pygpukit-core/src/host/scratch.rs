//! Working memory of kernels, kept by each thread from call to call.

use std::cell::RefCell;

/// One cache line, so that rows of scratch are aligned for the widest vectors.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Numbers in a cache line; scratch rows are best a multiple of it.
pub(super) const LINE: usize = 16;

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `body` with `length` numbers of unspecified value, aligned to a cache line.
///
/// Calls may nest: the buffers of a thread are a stack.
pub(super) fn with<R>(length: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut lines = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    let needed = length.div_ceil(LINE);
    if lines.len() < needed {
        lines.resize(needed, Line([0.0; LINE]));
    }
    // SAFETY: a line is exactly `LINE` numbers without padding, and `length` of them are there.
    let result = body(unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), length) });
    FREE.with_borrow_mut(|free| free.push(lines));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_buffers_are_apart_and_aligned() {
        with(100, |outer| {
            outer.fill(1.0);
            with(40, |inner| {
                inner.fill(2.0);
                assert_eq!(inner.as_ptr() as usize % 64, 0);
            });
            assert_eq!((outer.len(), outer.as_ptr() as usize % 64), (100, 0));
            assert!(outer.iter().all(|&value| value == 1.0));
        });
    }
}
