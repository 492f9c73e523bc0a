//! The types that weights are stored in, loaded as vectors of float32.

use half::{bf16, f16};

use super::{Simd, for_each_vector};
use crate::dispatch::TensorArg;
use crate::dtype::DType;

/// A type that weights are stored in.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    /// Its name at run time.
    const DTYPE: DType;

    /// The `LANES` numbers at `source`.
    ///
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load<S: Simd>(simd: S, source: *const Self) -> S::Vector;
    /// The `count < LANES` numbers at `source`, then zeros.
    ///
    /// # Safety
    /// As [`Simd::load_partial`].
    unsafe fn load_partial<S: Simd>(simd: S, source: *const Self, count: usize) -> S::Vector;
}

macro_rules! element {
    ($type:ty, $dtype:expr, $load:ident, $load_partial:ident) => {
        impl Element for $type {
            const DTYPE: DType = $dtype;

            #[inline(always)]
            unsafe fn load<S: Simd>(simd: S, source: *const Self) -> S::Vector {
                // SAFETY: the caller's contract; the 16-bit types are transparent over their bits.
                unsafe { simd.$load(source.cast()) }
            }

            #[inline(always)]
            unsafe fn load_partial<S: Simd>(
                simd: S,
                source: *const Self,
                count: usize,
            ) -> S::Vector {
                // SAFETY: as above.
                unsafe { simd.$load_partial(source.cast(), count) }
            }
        }
    };
}

element!(f32, DType::F32, load, load_partial);
element!(f16, DType::F16, load_f16, load_f16_partial);
element!(bf16, DType::BF16, load_bf16, load_bf16_partial);

/// Evaluates an expression with a type name bound to the [`Element`] of a run-time dtype.
macro_rules! with_element {
    ($dtype:expr, $element:ident => $body:expr) => {
        match $dtype {
            $crate::dtype::DType::F32 => {
                type $element = f32;
                $body
            }
            $crate::dtype::DType::F16 => {
                type $element = half::f16;
                $body
            }
            $crate::dtype::DType::BF16 => {
                type $element = half::bf16;
                $body
            }
            other => unreachable!("the kernel's signature admits no weights of dtype {other}"),
        }
    };
}
pub(crate) use with_element;

/// The types that weights may have which are numbers one by one.
pub(crate) const NUMBERS: &[DType] = &[DType::F32, DType::F16, DType::BF16];

/// The types that activations may have.
pub(crate) const ACTIVATIONS: &[DType] = &[DType::F32, DType::BF16];

/// The address of numbers that lie one after another, whose type is known at run time only.
#[derive(Clone, Copy)]
pub(crate) struct Numbers {
    data: *mut u8,
    dtype: DType,
}

impl From<*mut f32> for Numbers {
    fn from(data: *mut f32) -> Numbers {
        Numbers::new(data.cast(), DType::F32)
    }
}

impl Numbers {
    pub(crate) fn new(data: *mut u8, dtype: DType) -> Numbers {
        Numbers { data, dtype }
    }

    /// The address, if they are float32.
    #[inline(always)]
    pub(crate) fn as_f32(self) -> Option<*mut f32> {
        (self.dtype == DType::F32).then_some(self.data.cast())
    }

    /// Numbers `start` to `start + count`, then zeros; `count <= LANES`.
    ///
    /// # Safety
    /// They are readable.
    #[inline(always)]
    pub(crate) unsafe fn load<S: Simd>(self, simd: S, start: usize, count: usize) -> S::Vector {
        // SAFETY: the caller's contract.
        with_element!(self.dtype, E => unsafe {
            simd.load_some(self.data.cast::<E>().add(start), count)
        })
    }

    /// Sets numbers `start` to `start + count` to the first lanes, rounded to their type;
    /// `count <= LANES`.
    ///
    /// # Safety
    /// They are writable, and of one of the types of [`ACTIVATIONS`].
    #[inline(always)]
    pub(crate) unsafe fn store<S: Simd>(
        self,
        simd: S,
        start: usize,
        vector: S::Vector,
        count: usize,
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            if self.dtype == DType::F32 {
                simd.store_some(self.data.cast::<f32>().add(start), vector, count);
            } else if count == S::LANES {
                simd.store_bf16(self.data.cast::<u16>().add(start), vector);
            } else {
                simd.store_bf16_partial(self.data.cast::<u16>().add(start), vector, count);
            }
        }
    }

    /// Sets the first `length` numbers of `target` to these.
    ///
    /// # Safety
    /// As [`Numbers::load`] and, for `target`, [`Numbers::store`].
    #[inline(always)]
    pub(crate) unsafe fn copy<S: Simd>(self, simd: S, target: Numbers, length: usize) {
        for_each_vector!(S, length, |start, count| {
            // SAFETY: the caller's contract.
            unsafe { target.store(simd, start, self.load(simd, start, count), count) };
        });
    }

    /// Sets the first `length` numbers to NaN: the mark of what isn't there.
    ///
    /// # Safety
    /// As [`Numbers::store`].
    pub(crate) unsafe fn fill_nan(self, length: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            match self.as_f32() {
                Some(data) => std::slice::from_raw_parts_mut(data, length).fill(f32::NAN),
                None => {
                    let data = self.data.cast::<bf16>();
                    std::slice::from_raw_parts_mut(data, length).fill(bf16::NAN);
                }
            }
        }
    }
}

/// A vector of numbers whose type is known at run time only: a bias, a norm's weight.
#[derive(Clone, Copy)]
pub(crate) struct Floats {
    data: *const u8,
    dtype: DType,
    length: usize,
}

// SAFETY: only read, and the launch keeps the tensor behind it alive.
unsafe impl Send for Floats {}
// SAFETY: as above.
unsafe impl Sync for Floats {}

impl Floats {
    /// The elements of a contiguous tensor.
    pub(crate) fn of(tensor: &TensorArg) -> Floats {
        debug_assert!(tensor.is_contiguous());
        Floats { data: tensor.data, dtype: tensor.dtype, length: tensor.elements() }
    }

    /// The `length` numbers at `data`.
    ///
    /// # Safety
    /// They are readable as long as this is in use.
    pub(crate) unsafe fn at(data: *const f32, length: usize) -> Floats {
        Floats { data: data.cast(), dtype: DType::F32, length }
    }

    /// Elements `start` to `start + count`, then zeros; `count <= LANES`.
    #[inline(always)]
    pub(crate) fn load<S: Simd>(self, simd: S, start: usize, count: usize) -> S::Vector {
        assert!(start + count <= self.length && count <= S::LANES);
        // SAFETY: the elements lie within the tensor, as just asserted.
        with_element!(self.dtype, E => unsafe {
            simd.load_some(self.data.cast::<E>().add(start), count)
        })
    }
}
