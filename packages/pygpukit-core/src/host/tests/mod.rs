//! Every kernel on every instruction set of this CPU against plain arithmetic in float64.
//!
//! Tensors of the tests have gaps between their rows and guards around them, all of whose bits are
//! set: what reads there gets NaN, what writes there is found when the tensor is dropped.

mod attention;
mod bfloat16;
mod experts;
mod linear;
mod norm;
mod rope;
mod rows;
mod sampling;

use half::{bf16, f16};

use super::find;
use crate::convert;
use crate::dispatch::{ArgValue, KernelArgs, LaunchError, TensorArg};
use crate::dtype::DType;

/// Bytes before and after the elements.
const GUARD: usize = 128;

/// A tensor with guards.
struct Tensor {
    /// 64-bit words, for the sake of alignment.
    words: Vec<u64>,
    dtype: DType,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// A type of tensor elements, through float64.
trait Value: Copy {
    const DTYPE: DType;
    fn from_f64(value: f64) -> Self;
    fn to_f64(self) -> f64;
}

macro_rules! value {
    ($type:ty, $dtype:expr, $from:expr, $to:expr) => {
        impl Value for $type {
            const DTYPE: DType = $dtype;
            fn from_f64(value: f64) -> Self {
                $from(value)
            }
            fn to_f64(self) -> f64 {
                $to(self)
            }
        }
    };
}
value!(f32, DType::F32, |v| v as f32, f64::from);
value!(f16, DType::F16, f16::from_f64, f16::to_f64);
value!(bf16, DType::BF16, bf16::from_f64, bf16::to_f64);
value!(i32, DType::I32, |v| v as i32, f64::from);
value!(i64, DType::I64, |v| v as i64, |v| v as f64);

impl Tensor {
    /// A tensor whose outer dimensions have gaps, its elements in row-major order from `values`.
    fn new<T: Value>(shape: &[usize], values: impl IntoIterator<Item = f64>) -> Tensor {
        let mut strides = vec![1; shape.len()];
        for axis in (0..shape.len().saturating_sub(1)).rev() {
            strides[axis] = shape[axis + 1] * strides[axis + 1] + 3;
        }
        let span = shape.iter().zip(&strides).map(|(l, s)| l * s).max().unwrap_or(1);
        let words = (span * size_of::<T>() + 2 * GUARD).div_ceil(8);
        let tensor = Tensor {
            words: vec![u64::MAX; words],
            dtype: T::DTYPE,
            shape: shape.to_vec(),
            strides,
        };
        let offsets: Vec<usize> = tensor.offsets().collect();
        let mut values = values.into_iter();
        for offset in offsets {
            let value = T::from_f64(values.next().expect("a value for each element"));
            // SAFETY: the offset lies within the words.
            unsafe { tensor.data().cast::<T>().add(offset).write(value) };
        }
        tensor
    }

    /// A tensor of random blocks with float16 scales (and minima) below 1/8, whose outer dimensions
    /// have gaps.
    fn blocks(random: &mut Random, dtype: DType, shape: &[usize]) -> Tensor {
        let mut strides = vec![1; shape.len()];
        for axis in (0..shape.len() - 1).rev() {
            strides[axis] = shape[axis + 1] * strides[axis + 1] + dtype.block_elements();
        }
        let span = shape.iter().zip(&strides).map(|(l, s)| l * s).max().unwrap_or(0);
        let words = (dtype.nbytes(span).unwrap() + 2 * GUARD).div_ceil(8);
        let shape = shape.to_vec();
        let tensor = Tensor { words: vec![u64::MAX; words], dtype, shape, strides };
        let halves = if dtype == DType::Q4_1 { 2 } else { 1 };
        for offset in tensor.block_offsets().collect::<Vec<_>>() {
            let mut block: Vec<u8> =
                (0..dtype.block_bytes()).map(|_| random.bits() as u8).collect();
            for half in 0..halves {
                let scale = f16::from_f64(random.number() / 8.0);
                block[2 * half..][..2].copy_from_slice(&scale.to_le_bytes());
            }
            // SAFETY: the offset lies within the words.
            unsafe { tensor.data().add(offset).copy_from(block.as_ptr(), block.len()) };
        }
        tensor
    }

    /// The offset in bytes of each block, or element of a type without blocks, in row-major order.
    fn block_offsets(&self) -> impl Iterator<Item = usize> + use<> {
        let (block, bytes) = (self.dtype.block_elements(), self.dtype.block_bytes());
        self.offsets().step_by(block).map(move |offset| offset / block * bytes)
    }

    /// The numbers of blocks, as the loader dequantises them, in row-major order.
    fn dequantised(&self) -> Vec<f32> {
        let size = self.dtype.block_bytes();
        let mut bytes = Vec::new();
        for offset in self.block_offsets() {
            // SAFETY: the block lies within the words.
            bytes.extend(unsafe { std::slice::from_raw_parts(self.data().add(offset), size) });
        }
        let numbers = convert::convert(self.dtype, DType::F32, &bytes);
        numbers.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }

    /// A tensor whose elements nobody should read.
    fn empty<T: Value>(shape: &[usize]) -> Tensor {
        Tensor::new::<T>(shape, std::iter::repeat_n(f64::NAN, shape.iter().product()))
    }

    fn data(&self) -> *mut u8 {
        // SAFETY: the guard is part of the words.
        unsafe { self.words.as_ptr().cast::<u8>().cast_mut().add(GUARD) }
    }

    /// The offset in elements of each element, in row-major order.
    fn offsets(&self) -> impl Iterator<Item = usize> + use<> {
        let (shape, strides) = (self.shape.clone(), self.strides.clone());
        (0..shape.iter().product()).map(move |mut index| {
            let mut offset = 0;
            for (length, stride) in shape.iter().zip(&strides).rev() {
                offset += index % length * stride;
                index /= length;
            }
            offset
        })
    }

    /// The elements in row-major order.
    fn read<T: Value>(&self) -> Vec<T> {
        assert_eq!(self.dtype, T::DTYPE);
        // SAFETY: the offsets lie within the words.
        self.offsets().map(|offset| unsafe { self.data().cast::<T>().add(offset).read() }).collect()
    }

    /// A tensor of the same elements as another type.
    fn cast<T: Value>(&self) -> Tensor {
        Tensor::new::<T>(&self.shape, any_values(self))
    }

    fn values<T: Value>(&self) -> Vec<f64> {
        self.read::<T>().into_iter().map(T::to_f64).collect()
    }

    fn bits(&self) -> Vec<u32> {
        self.read::<f32>().into_iter().map(f32::to_bits).collect()
    }

    fn arg(&self) -> ArgValue {
        ArgValue::Tensor(TensorArg {
            data: self.data(),
            dtype: self.dtype,
            shape: self.shape.clone(),
            strides: self.strides.clone(),
        })
    }

    /// Whether all bytes that belong to no element are as they were.
    fn is_intact(&self) -> bool {
        let size = self.dtype.block_bytes();
        let mut guard = vec![true; self.words.len() * 8];
        for offset in self.block_offsets() {
            guard[GUARD + offset..][..size].fill(false);
        }
        let bytes = self.words.iter().flat_map(|word| word.to_ne_bytes());
        bytes.zip(guard).all(|(byte, guard)| !guard || byte == u8::MAX)
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.is_intact(), "a kernel wrote outside of the tensor {:?}", self.shape);
        }
    }
}

/// Launches a kernel as the controller does.
fn launch(name: &str, values: &[ArgValue]) -> Result<(), LaunchError> {
    let kernel = find(name).expect("a kernel of that name");
    let args = KernelArgs::new(kernel.signature, values)?;
    (kernel.check)(&args)?;
    (kernel.run)(&args);
    Ok(())
}

/// Reproducible numbers (the SplitMix64 generator).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in [-1, 1) that float32 holds exactly.
    fn number(&mut self) -> f64 {
        (self.bits() >> 40) as f64 / f64::from(1 << 23) - 1.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.bits() % limit as u64) as usize
    }

    fn tensor<T: Value>(&mut self, shape: &[usize]) -> Tensor {
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| self.number()).collect();
        Tensor::new::<T>(shape, values)
    }
}

/// The elements of a tensor of floating-point numbers.
fn any_values(tensor: &Tensor) -> Vec<f64> {
    match tensor.dtype {
        DType::F32 => tensor.values::<f32>(),
        DType::F16 => tensor.values::<f16>(),
        dtype if dtype.is_quantized() => tensor.dequantised().into_iter().map(f64::from).collect(),
        _ => tensor.values::<bf16>(),
    }
}

/// The quantised types that operations read as they are stored.
const BLOCKS: [DType; 3] = [DType::Q8_0, DType::Q4_0, DType::Q4_1];

/// Asserts that `found` is within `tolerance` of `expected`, relative to the largest magnitude.
fn assert_close(found: &[f64], expected: &[f64], tolerance: f64, context: &str) {
    assert_eq!(found.len(), expected.len(), "{context}");
    let scale = expected.iter().fold(1e-30f64, |scale, value| scale.max(value.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs() / scale;
        assert!(
            error <= tolerance,
            "{context}: [{index}] is {found}, not {expected} ({error:.1e})"
        );
    }
}

/// The reason of a refused launch.
fn refusal(name: &str, values: &[ArgValue]) -> String {
    launch(name, values).expect_err("a refusal").to_string()
}

#[test]
fn kernels_are_found_by_name_and_names_are_unique() {
    for kernel in super::kernels() {
        let found = find(kernel.signature.name).expect("itself");
        assert!(std::ptr::eq(found, kernel), "{} twice", kernel.signature.name);
    }
    assert!(find("no_such_kernel").is_none());
}

#[test]
fn gaps_misalignment_and_overlap_are_refused() {
    let x = Random(1).tensor::<f32>(&[3, 4]);
    let out = Tensor::empty::<f32>(&[3, 4]);
    let changed = |change: fn(&mut TensorArg)| {
        let ArgValue::Tensor(mut arg) = out.arg() else { unreachable!() };
        change(&mut arg);
        let values = [x.arg(), ArgValue::Tensor(arg), ArgValue::Int(1)];
        refusal("activation", &values)
    };
    assert!(changed(|arg| arg.strides = vec![7, 2]).contains("without gaps"));
    assert!(changed(|arg| arg.strides = vec![2, 1]).contains("don't overlap"));
    assert!(changed(|arg| arg.data = arg.data.wrapping_add(2)).contains("aligned to 4 bytes"));
}
