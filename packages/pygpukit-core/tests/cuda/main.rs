//! The CUDA device: memory, copies, launches and graphs on a real GPU. Skipped where there is none.

mod copies;
mod faults;
mod kernels;
mod launches;

use std::sync::Arc;

use pygpukit_core::device::{Device, Ordinal};
use pygpukit_core::dtype::DType;
use pygpukit_core::memory::{MemoryPool, Tensor};

/// A float32 tensor in the default pool of the GPU.
fn floats(ordinal: Ordinal, values: &[f32]) -> Tensor {
    floats_in(MemoryPool::default_of(Device::Cuda(ordinal)), values)
}

fn floats_in(pool: &Arc<MemoryPool>, values: &[f32]) -> Tensor {
    let tensor = Tensor::empty(pool, DType::F32, vec![values.len()]).unwrap();
    tensor.write(&values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<_>>()).unwrap();
    tensor
}

fn ints(ordinal: Ordinal, values: &[i32]) -> Tensor {
    let pool = MemoryPool::default_of(Device::Cuda(ordinal));
    let tensor = Tensor::empty(pool, DType::I32, vec![values.len()]).unwrap();
    tensor.write(&values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<_>>()).unwrap();
    tensor
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.nbytes()];
    tensor.read(&mut bytes).unwrap();
    bytes
}

fn read_floats(tensor: &Tensor) -> Vec<f32> {
    bytes(tensor).as_chunks().0.iter().map(|&bytes| f32::from_ne_bytes(bytes)).collect()
}

fn read_ints(tensor: &Tensor) -> Vec<i32> {
    bytes(tensor).as_chunks().0.iter().map(|&bytes| i32::from_ne_bytes(bytes)).collect()
}
