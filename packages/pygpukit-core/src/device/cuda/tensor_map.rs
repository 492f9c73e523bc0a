//! Descriptions of tensors for the GPU's copy engine, which takes boxes of them to shared memory.

use std::mem::MaybeUninit;

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{
    self, CUtensorMapDataType as DataType, CUtensorMapFloatOOBfill as Fill,
    CUtensorMapInterleave as Interleave, CUtensorMapL2promotion as Promotion,
    CUtensorMapSwizzle as Swizzle,
};

use super::Cuda;
use crate::dtype::DType;
use crate::error::Result;

/// A tensor of 16-bit numbers, and the boxes that are copied of it: at most 64 elements wide, each row
/// of 128 bytes with its pieces of 16 bytes permuted. What lies outside the tensor becomes zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// The address of the first element, a multiple of 16.
    pub address: u64,
    /// [`DType::F16`] or [`DType::BF16`].
    pub dtype: DType,
    /// At most five, the innermost first.
    pub dimensions: Vec<TensorMapDimension>,
}

/// One dimension of a [`TensorMap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMapDimension {
    /// Elements in the tensor.
    pub size: usize,
    /// Elements from one index to the next, a multiple of 8; 1 for the innermost dimension.
    pub stride: usize,
    /// Elements in a box, at most 256.
    pub box_size: u32,
}

/// A tensor map as kernels take it.
pub(crate) type EncodedTensorMap = [u8; 128];

impl Cuda {
    /// Encodes a tensor map for kernels of this GPU.
    ///
    /// # Errors
    /// [`crate::device::DeviceError::Driver`] when the driver refuses it.
    pub(crate) fn encode(&self, map: &TensorMap) -> Result<EncodedTensorMap> {
        let encoded = self.context.bind().and_then(|_bound| encode(map));
        self.explained("describing a tensor", encoded)
    }
}

fn encode(map: &TensorMap) -> std::result::Result<EncodedTensorMap, DriverError> {
    let data_type = match map.dtype {
        DType::F16 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        _ => DataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
    };
    let dimensions = &map.dimensions;
    let sizes: Vec<u64> = dimensions.iter().map(|dimension| dimension.size as u64).collect();
    let bytes: Vec<u64> = dimensions[1..]
        .iter()
        .map(|dimension| (dimension.stride * map.dtype.block_bytes()) as u64)
        .collect();
    let boxes: Vec<u32> = dimensions.iter().map(|dimension| dimension.box_size).collect();
    let steps = vec![1_u32; dimensions.len()];
    let mut encoded = MaybeUninit::<sys::CUtensorMap>::uninit();
    // SAFETY: the arrays have an entry for each dimension, the strides for each but the innermost; the
    // call only computes, and fills in the map where it succeeds.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            encoded.as_mut_ptr(),
            data_type,
            dimensions.len() as u32,
            std::ptr::with_exposed_provenance_mut(map.address as usize),
            sizes.as_ptr(),
            bytes.as_ptr(),
            boxes.as_ptr(),
            steps.as_ptr(),
            Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
        .result()?;
        Ok(bytemuck::cast(encoded.assume_init().opaque))
    }
}
