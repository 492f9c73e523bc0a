//! Working memory of kernels, kept by each thread from call to call.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// One cache line, so that rows of scratch are aligned for the widest vectors.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Numbers in a cache line; scratch rows are best a multiple of it.
pub(super) const LINE: usize = 16;

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// `length` numbers of unspecified value, aligned to a cache line, for as long as the guard lives.
///
/// A guard and not a closure: a closure's body is compiled for the instruction set of the code around
/// it only where the optimiser happens to inline it.
pub(super) fn take(length: usize) -> Scratch {
    let mut lines = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    let needed = length.div_ceil(LINE);
    if lines.len() < needed {
        lines.resize(needed, Line([0.0; LINE]));
    }
    Scratch { lines, length }
}

/// Numbers that go back to their thread's scratch on drop.
pub(super) struct Scratch {
    lines: Vec<Line>,
    length: usize,
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a line is exactly `LINE` numbers without padding, and `length` of them are there.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        FREE.with_borrow_mut(|free| free.push(lines));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_apart_and_aligned() {
        let mut outer = take(100);
        outer.fill(1.0);
        let mut inner = take(40);
        inner.fill(2.0);
        assert_eq!(inner.as_ptr() as usize % 64, 0);
        assert_eq!((outer.len(), outer.as_ptr() as usize % 64), (100, 0));
        assert!(outer.iter().all(|&value| value == 1.0));
    }
}
