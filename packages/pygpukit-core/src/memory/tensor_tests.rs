use proptest::prelude::*;

use super::*;
use crate::device::{Event, Failure};
use crate::transfer::TransferError;

fn pool() -> Arc<MemoryPool> {
    MemoryPool::new(Device::Cpu, None)
}

/// A byte tensor of that shape whose elements count up.
fn counting(shape: &[usize]) -> Tensor {
    let tensor = Tensor::empty(&pool(), DType::U8, shape.to_vec()).unwrap();
    let bytes: Vec<u8> = (0..tensor.nbytes()).map(|byte| byte as u8).collect();
    tensor.write(&bytes).unwrap();
    tensor
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.nbytes()];
    tensor.read(&mut bytes).unwrap();
    bytes
}

fn failure() -> Failure {
    Failure::new(TransferError::SourcePanicked { message: "lost".to_owned() }.into())
}

proptest! {
    #[test]
    fn a_strided_copy_moves_just_its_elements(
        (rows, columns) in (1..6_usize, 1..6_usize),
        (top, left, step) in (0..6_usize, 0..6_usize, 1..3_usize),
    ) {
        let window = |tensor: &Tensor| {
            let rows = tensor.slice(0, top.min(rows), rows, step).unwrap();
            rows.slice(1, left.min(columns), columns, 1).unwrap()
        };
        let source = counting(&[rows, columns]);
        let target = Tensor::zeros(&pool(), DType::U8, vec![rows, columns]).unwrap();
        window(&target).copy_from(&window(&source)).unwrap();
        let is_inside = |row: usize, column: usize| {
            row >= top && (row - top).is_multiple_of(step) && column >= left
        };
        let expected: Vec<u8> = (0..rows * columns)
            .map(|i| if is_inside(i / columns, i % columns) { i as u8 } else { 0 })
            .collect();
        prop_assert_eq!(bytes(&target), expected);

        let packed = Tensor::empty(&pool(), DType::U8, window(&source).shape().to_vec()).unwrap();
        packed.copy_from(&window(&source)).unwrap();
        prop_assert_eq!(bytes(&packed), bytes(&window(&source)));
    }
}

#[test]
fn views_share_memory_and_free_it_with_the_last() {
    let pool = pool();
    let tensor = Tensor::zeros(&pool, DType::F32, vec![4, 8]).unwrap();
    let row = tensor.select(0, 2).unwrap();
    drop(tensor);
    row.write(&[7; 32]).unwrap();
    let half = row.reshape(vec![2, 4]).unwrap().slice(1, 0, 2, 1).unwrap();
    drop(row);
    assert_eq!(bytes(&half), [7; 16]);
    assert_eq!(pool.stats().live_blocks, 1);
    drop(half);
    assert_eq!(pool.stats().in_use, 0);
}

#[test]
fn zeros_clears_reused_memory() {
    let pool = pool();
    Tensor::empty(&pool, DType::U8, vec![100]).unwrap().write(&[9; 100]).unwrap();
    let tensor = Tensor::zeros(&pool, DType::U8, vec![100]).unwrap();
    assert_eq!(pool.stats().reuses, 1);
    assert_eq!(bytes(&tensor), [0; 100]);
}

#[test]
fn empty_tensors_have_an_address_and_nothing_else() {
    for shape in [vec![0], vec![3, 0, 5]] {
        let tensor = Tensor::zeros(&pool(), DType::F32, shape).unwrap();
        assert_eq!((tensor.nbytes(), tensor.range().len()), (0, 0));
        assert!(!tensor.address().is_null());
        assert!(bytes(&tensor).is_empty());
        tensor.write(&[]).unwrap();
        tensor.copy_from(&tensor.clone()).unwrap();
    }
    let end = counting(&[4]).slice(0, 4, 4, 1).unwrap();
    assert!(bytes(&end).is_empty());
}

#[test]
fn impossible_shapes_and_sizes_are_refused() {
    let empty = |dtype, shape| Tensor::empty(&pool(), dtype, shape).unwrap_err();
    let too_large = |error| matches!(error, Error::Tensor(TensorError::TooLarge { .. }));
    assert!(too_large(empty(DType::U8, vec![usize::MAX, 2])));
    assert!(too_large(empty(DType::F64, vec![usize::MAX / 2])));
    assert!(too_large(empty(DType::U8, vec![usize::MAX])));
    let tensor = counting(&[2, 2]);
    assert!(tensor.write(&[0; 3]).is_err());
    assert!(tensor.read(&mut [0; 5]).is_err());
    assert!(tensor.copy_from(&counting(&[4])).is_err());
    let beyond = Layout::contiguous(vec![5]).unwrap();
    assert!(Tensor::from_storage(tensor.storage().clone(), DType::U8, beyond, 0).is_err());
}

#[test]
fn quantised_blocks_are_never_cut() {
    let tensor = Tensor::zeros(&pool(), DType::Q4_1, vec![3, 64]).unwrap();
    assert_eq!(tensor.nbytes(), 3 * 40);
    assert_eq!(tensor.select(0, 1).unwrap().range(), 40..80);
    assert_eq!(tensor.slice(1, 32, 64, 1).unwrap().nbytes(), 60);
    assert_eq!(tensor.reshape(vec![6, 32]).unwrap().nbytes(), 120);
    let partial =
        |view: Result<Tensor, TensorError>| matches!(view, Err(TensorError::PartialBlock { .. }));
    assert!(partial(tensor.slice(1, 16, 48, 1)));
    assert!(partial(tensor.slice(1, 0, 64, 2)));
    assert!(partial(tensor.select(1, 0)));
    assert!(partial(tensor.reshape(vec![12, 16])));
    assert!(Tensor::empty(&pool(), DType::Q8_0, vec![33]).is_err());
    assert!(tensor.scalars().unwrap().is_none());
}

#[test]
fn access_waits_for_the_copies_it_depends_on_and_no_others() {
    let tensor = counting(&[2, 4]);
    let (first, second) = (tensor.select(0, 0).unwrap(), tensor.select(0, 1).unwrap());
    let event = Event::new();
    tensor.storage().add_pending(first.range(), event.clone());
    assert!(!first.is_ready() && !tensor.is_ready() && second.is_ready());
    assert_eq!(bytes(&second), [4, 5, 6, 7]);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| bytes(&first));
        event.complete(Ok(()));
        assert_eq!(reader.join().unwrap(), [0, 1, 2, 3]);
    });
    assert!(tensor.is_ready());
    assert!(tensor.storage().pending(&tensor.range()).is_empty());
}

#[test]
fn a_failed_copy_is_told_until_its_bytes_are_overwritten() {
    let tensor = counting(&[8]);
    let event = Event::new();
    tensor.storage().add_pending(tensor.range(), event.clone());
    event.complete(Err(failure()));
    assert!(tensor.is_ready());
    for _ in 0..2 {
        assert!(tensor.read(&mut [0; 8]).unwrap_err().to_string().contains("lost"));
    }
    let half = tensor.slice(0, 0, 4, 1).unwrap();
    half.write(&[1; 4]).unwrap();
    assert!(half.wait().is_err(), "half of a failed copy says nothing about its other bytes");
    tensor.write(&[2; 8]).unwrap();
    assert_eq!(bytes(&tensor), [2; 8]);
}

#[test]
fn scalars_follow_the_strides() {
    let tensor = counting(&[3, 4]).slice(1, 1, 4, 2).unwrap();
    let expected = [1, 3, 5, 7, 9, 11].map(Scalar::UInt);
    assert_eq!(tensor.scalars().unwrap().unwrap(), expected);
}
