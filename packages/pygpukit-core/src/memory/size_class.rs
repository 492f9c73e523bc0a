//! Which sizes blocks come in.
//!
//! - Up to 512 bytes: multiples of 64.
//! - Up to 1 MiB: eight classes for each power of two, so a block is less than 1/8 larger than asked.
//!   A request takes a block of its own class only.
//! - Beyond 1 MiB: whole pages, straight from the device. A request also takes a free block that is
//!   up to 1/8 larger than its own size, because few large blocks are of quite the same size.
//!
//! So beyond 512 bytes a block is never more than 1/8 and a page larger than the request it serves.

use std::ops::RangeInclusive;

const UNIT: usize = 64;
const CLASSES_PER_DOUBLING: usize = 8;
const PAGE: usize = 4096;

/// Requests beyond this size are served in whole pages.
const LARGE: usize = 1 << 20;

/// The size of a new block for a request of `bytes`; `None` when that overflows.
pub(super) fn block_bytes(bytes: usize) -> Option<usize> {
    let step = if bytes > LARGE {
        PAGE
    } else if bytes <= UNIT * CLASSES_PER_DOUBLING {
        UNIT
    } else {
        1 << ((bytes - 1).ilog2() - CLASSES_PER_DOUBLING.ilog2())
    };
    bytes.max(1).checked_next_multiple_of(step)
}

/// The sizes of free blocks that may serve a request whose own block would have `block` bytes.
pub(super) fn reusable(block: usize) -> RangeInclusive<usize> {
    let slack = if block > LARGE { block / 8 } else { 0 };
    block..=block.saturating_add(slack)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_bytes() -> impl Strategy<Value = usize> {
        (0..40u32, any::<u64>()).prop_map(|(bits, value)| (value % (1 << bits)) as usize)
    }

    proptest! {
        #[test]
        fn waste_is_bounded(bytes in any_bytes()) {
            let block = block_bytes(bytes).unwrap();
            let largest = *reusable(block).end();
            prop_assert!(block >= bytes.max(1) && block.is_multiple_of(UNIT));
            prop_assert!(largest <= bytes + (bytes / 8).max(UNIT) + PAGE * 9 / 8);
            if bytes > 512 && bytes <= LARGE {
                prop_assert!(largest - bytes < bytes.div_ceil(8));
            }
        }

        #[test]
        fn a_block_size_is_its_own_class(bytes in any_bytes()) {
            let block = block_bytes(bytes).unwrap();
            prop_assert_eq!(block_bytes(block), Some(block));
        }

        #[test]
        fn larger_requests_get_no_smaller_blocks(one in any_bytes(), other in any_bytes()) {
            let (small, large) = (one.min(other), one.max(other));
            prop_assert!(block_bytes(small) <= block_bytes(large));
        }
    }

    #[test]
    fn small_sizes_come_in_few_classes() {
        let classes: std::collections::BTreeSet<_> = (1..=LARGE).map(block_bytes).collect();
        assert_eq!(classes.len(), 8 + 8 * 11);
        assert_eq!(block_bytes(usize::MAX), None);
    }
}
