//! The parameters of a launch, packed as the kernel declares them.

use bytemuck::{AnyBitPattern, NoUninit};

use crate::device::cuda::{EncodedTensorMap, LaunchParameters, TensorMap};

/// An address on the GPU, as a struct that is passed by value holds it; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit)]
#[repr(transparent)]
pub struct Address(u64);

impl<T> From<*const T> for Address {
    fn from(address: *const T) -> Self {
        Address(address.addr() as u64)
    }
}

impl<T> From<*mut T> for Address {
    fn from(address: *mut T) -> Self {
        address.cast_const().into()
    }
}

/// Parameters in the order in which the kernel declares them, each at its natural alignment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    bytes: Vec<u8>,
    starts: Vec<usize>,
    /// Those that the driver is still to encode, with where they start.
    tensor_maps: Vec<(usize, TensorMap)>,
}

impl Parameters {
    /// No parameters yet.
    pub fn new() -> Self {
        Parameters::default()
    }

    /// A pointer to memory of the GPU; null is allowed.
    #[must_use]
    pub fn pointer<T>(self, address: *const T) -> Self {
        self.value(Address::from(address))
    }

    /// An `int`.
    #[must_use]
    pub fn int(self, value: i32) -> Self {
        self.value(value)
    }

    /// A `long long`.
    #[must_use]
    pub fn long(self, value: i64) -> Self {
        self.value(value)
    }

    /// A `float`.
    #[must_use]
    pub fn float(self, value: f32) -> Self {
        self.value(value)
    }

    /// A number, or a struct passed by value: `#[repr(C)]`, laid out as in the kernel, no padding.
    #[must_use]
    pub fn value<T: NoUninit>(mut self, value: T) -> Self {
        self.push(align_of::<T>(), bytemuck::bytes_of(&value));
        self
    }

    /// A `CUtensorMap`, encoded when it is launched.
    #[must_use]
    pub fn tensor_map(mut self, map: TensorMap) -> Self {
        const ALIGNMENT: usize = 64;
        let start = self.push(ALIGNMENT, &[0; size_of::<EncodedTensorMap>()]);
        self.tensor_maps.push((start, map));
        self
    }

    /// Where the parameter starts.
    fn push(&mut self, alignment: usize, value: &[u8]) -> usize {
        let start = self.bytes.len().next_multiple_of(alignment);
        self.bytes.resize(start, 0);
        self.bytes.extend_from_slice(value);
        self.starts.push(start);
        start
    }

    /// Fills in the tensor maps.
    ///
    /// # Errors
    /// What `encode` returns.
    pub(super) fn encode_tensor_maps<E>(
        &mut self,
        encode: impl Fn(&TensorMap) -> Result<EncodedTensorMap, E>,
    ) -> Result<(), E> {
        for (start, map) in &self.tensor_maps {
            let encoded = encode(map)?;
            self.bytes[*start..][..encoded.len()].copy_from_slice(&encoded);
        }
        Ok(())
    }

    /// The first parameter, which is a `T`; None where all together are shorter.
    pub(super) fn first<T: AnyBitPattern>(&self) -> Option<T> {
        Some(bytemuck::pod_read_unaligned(self.bytes.get(..size_of::<T>())?))
    }

    /// Puts another value in the place of parameter number `index`, which is as long.
    pub(super) fn replace<T: NoUninit>(&mut self, index: usize, value: T) {
        self.bytes[self.starts[index]..][..size_of::<T>()]
            .copy_from_slice(bytemuck::bytes_of(&value));
    }

    pub(super) fn launch_parameters(&self) -> LaunchParameters<'_> {
        LaunchParameters { bytes: &self.bytes, starts: &self.starts }
    }

    /// The packed bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, NoUninit)]
    #[repr(C)]
    struct Shape {
        data: Address,
        rows: i64,
        columns: [i32; 2],
    }

    #[test]
    fn each_parameter_starts_at_its_alignment() {
        let data = Address::from(std::ptr::without_provenance_mut::<u8>(0x2000));
        let shape = Shape { data, rows: 3, columns: [4, 5] };
        let packed = Parameters::new()
            .int(1)
            .pointer(std::ptr::without_provenance::<f32>(0x1000))
            .value(7_u8)
            .value(8_u16)
            .float(0.5)
            .value(shape)
            .long(-1);
        let mut expected = Vec::new();
        expected.extend(1_i32.to_ne_bytes());
        expected.extend([0; 4]);
        expected.extend(0x1000_u64.to_ne_bytes());
        expected.extend([7, 0]);
        expected.extend(8_u16.to_ne_bytes());
        expected.extend(0.5_f32.to_ne_bytes());
        expected.extend(0x2000_u64.to_ne_bytes());
        expected.extend(3_i64.to_ne_bytes());
        expected.extend([4_i32.to_ne_bytes(), 5_i32.to_ne_bytes()].concat());
        expected.extend((-1_i64).to_ne_bytes());
        assert_eq!(packed.bytes(), expected);
    }
}
