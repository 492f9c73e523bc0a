//! Launches of kernels, with their attributes.

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{
    self, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue,
    CUlaunchAttributeValue_union__bindgen_ty_1 as ClusterDimension, CUlaunchConfig,
};

use super::module::Function;
use super::stream::Stream;

/// How many blocks of how many threads run, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaunchShape {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    /// Blocks of a cluster; `[1, 1, 1]` for none.
    pub(crate) cluster: [u32; 3],
    /// Dynamic shared memory of a block.
    pub(crate) shared_bytes: u32,
    /// Whether it may start before the launch before it has ended.
    pub(crate) overlap: bool,
}

/// Parameters, one behind the other, and where each starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaunchParameters<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) starts: &'a [usize],
}

impl Stream {
    /// Queues a launch of `function`.
    ///
    /// # Safety
    /// The parameters are those that the kernel takes, and all memory that it reaches through them is
    /// live until it has run, with nothing outside this stream writing what it reads or touching what it
    /// writes.
    pub(super) unsafe fn launch(
        &self,
        function: &Function,
        shape: &LaunchShape,
        parameters: LaunchParameters<'_>,
    ) -> Result<(), DriverError> {
        function.allow(shape.shared_bytes, shape.cluster.iter().product())?;
        let mut attributes = attributes(shape);
        let config = CUlaunchConfig {
            gridDimX: shape.grid[0],
            gridDimY: shape.grid[1],
            gridDimZ: shape.grid[2],
            blockDimX: shape.block[0],
            blockDimY: shape.block[1],
            blockDimZ: shape.block[2],
            sharedMemBytes: shape.shared_bytes,
            hStream: self.raw(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        let address = |&start: &usize| parameters.bytes[start..].as_ptr().cast_mut().cast();
        let mut addresses: Vec<*mut c_void> = parameters.starts.iter().map(address).collect();
        // SAFETY: the configuration, its attributes and the parameters outlive the call, which copies
        // them; the caller vouches for what the kernel does with them.
        self.context().call(|| unsafe {
            sys::cuLaunchKernelEx(&config, function.raw(), addresses.as_mut_ptr(), ptr::null_mut())
        })
    }
}

/// The attributes that the shape asks for.
fn attributes(shape: &LaunchShape) -> Vec<CUlaunchAttribute> {
    let mut attributes = Vec::with_capacity(2);
    let mut add = |id, value| attributes.push(CUlaunchAttribute { id, pad: [0; 4], value });
    if shape.cluster != [1; 3] {
        let [x, y, z] = shape.cluster;
        let mut value = CUlaunchAttributeValue { pad: [0; 64] };
        value.clusterDim = ClusterDimension { x, y, z };
        add(CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, value);
    }
    if shape.overlap {
        let mut value = CUlaunchAttributeValue { pad: [0; 64] };
        value.programmaticStreamSerializationAllowed = 1;
        add(CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, value);
    }
    attributes
}
