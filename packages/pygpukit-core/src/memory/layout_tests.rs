use proptest::prelude::*;

use super::*;

/// The offsets of all elements in row-major order, straight from the definition.
fn offsets(layout: &Layout) -> Vec<usize> {
    let mut offsets = vec![0];
    for (&length, &stride) in layout.shape().iter().zip(layout.strides()) {
        offsets =
            offsets.iter().flat_map(|base| (0..length).map(move |i| base + i * stride)).collect();
    }
    offsets
}

fn any_contiguous() -> impl Strategy<Value = Layout> {
    prop::collection::vec(0..5_usize, 0..5).prop_map(|shape| Layout::contiguous(shape).unwrap())
}

/// A layout and the offset of its first element, after some slicing of a contiguous one.
fn any_view() -> impl Strategy<Value = (Layout, usize)> {
    let cut = (any::<prop::sample::Index>(), 0..5_usize, 0..5_usize, 1..3_usize);
    (any_contiguous(), prop::collection::vec(cut, 0..4)).prop_map(|(layout, cuts)| {
        cuts.into_iter().fold((layout, 0), |(layout, offset), (dim, a, b, step)| {
            if layout.rank() == 0 {
                return (layout, offset);
            }
            let dim = dim.index(layout.rank());
            let length = layout.shape()[dim];
            let (a, b) = (a.min(length), b.min(length));
            let (view, shift) = layout.slice(dim, a.min(b), a.max(b), step).unwrap();
            (view, offset + shift)
        })
    })
}

proptest! {
    #[test]
    fn contiguous_layouts_count_up(layout in any_contiguous()) {
        prop_assert!(layout.is_contiguous());
        prop_assert_eq!(offsets(&layout), (0..layout.elements()).collect::<Vec<_>>());
        prop_assert_eq!(layout.extent(), layout.elements());
    }

    #[test]
    fn runs_cover_the_elements_in_order((layout, _) in any_view()) {
        let (length, starts) = layout.runs();
        let covered: Vec<_> = starts.flat_map(|start| start..start + length).collect();
        prop_assert_eq!(covered, offsets(&layout));
    }

    #[test]
    fn extent_and_contiguity_follow_from_the_offsets((layout, _) in any_view()) {
        let offsets = offsets(&layout);
        prop_assert_eq!(layout.extent(), offsets.iter().max().map_or(0, |last| last + 1));
        let counts_up = offsets.iter().enumerate().all(|(i, &offset)| i == offset);
        prop_assert_eq!(layout.is_contiguous(), counts_up);
    }

    #[test]
    fn select_is_a_slice_of_one((layout, _) in any_view(), index in 0..5_usize) {
        for dim in 0..layout.rank() {
            if index < layout.shape()[dim] {
                let (selected, at) = layout.select(dim, index).unwrap();
                let (sliced, from) = layout.slice(dim, index, index + 1, 1).unwrap();
                prop_assert_eq!(at, from);
                prop_assert_eq!(offsets(&selected), offsets(&sliced));
            } else {
                prop_assert!(layout.select(dim, index).is_err());
            }
        }
    }

    #[test]
    fn reshape_keeps_the_elements((layout, _) in any_view()) {
        match layout.reshape(vec![layout.elements()]) {
            Ok(flat) => prop_assert_eq!(offsets(&flat), offsets(&layout)),
            Err(_) => prop_assert!(!layout.is_contiguous()),
        }
        prop_assert!(layout.reshape(vec![layout.elements() + 1]).is_err());
    }
}

#[test]
fn what_cannot_be_addressed_is_no_layout() {
    assert_eq!(Layout::contiguous(vec![usize::MAX, 2]), None);
    assert_eq!(Layout::contiguous(vec![0, usize::MAX, 2]), None);
    assert_eq!(Layout::strided(vec![3], vec![usize::MAX]), None);
    assert_eq!(Layout::strided(vec![3], vec![]), None);
    assert!(Layout::strided(vec![3], vec![0]).is_some());
}

#[test]
fn errors_name_the_dimension() {
    let layout = Layout::contiguous(vec![2, 3]).unwrap();
    assert_eq!(layout.select(2, 0), Err(TensorError::Dimension { dim: 2, rank: 2 }));
    assert_eq!(layout.select(1, 3), Err(TensorError::Index { index: 3, dim: 1, length: 3 }));
    let range = TensorError::Range { start: 1, stop: 4, dim: 1, length: 3 };
    assert_eq!(layout.slice(1, 1, 4, 1), Err(range));
}
