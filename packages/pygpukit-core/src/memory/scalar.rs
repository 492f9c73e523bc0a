//! Single elements of a tensor as numbers.

use half::{bf16, f16};

use crate::convert::float8_e4m3_to_f32;
use crate::dtype::{DType, quantised};

/// One element, widened to the largest type of its kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// Of a floating-point type.
    Float(f64),
    /// Of a signed integer type.
    Int(i64),
    /// Of an unsigned integer type.
    UInt(u64),
    /// A truth value.
    Bool(bool),
}

impl Scalar {
    /// Reads one element from its little-endian bytes; `None` for block-quantised types, whose
    /// elements don't stand alone.
    ///
    /// # Panics
    /// If `bytes` isn't one element long.
    pub fn read(dtype: DType, bytes: &[u8]) -> Option<Scalar> {
        fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
            bytes.try_into().expect("one element's bytes")
        }
        Some(match dtype {
            DType::F64 => Scalar::Float(f64::from_le_bytes(array(bytes))),
            DType::F32 => Scalar::Float(f32::from_le_bytes(array(bytes)).into()),
            DType::F16 => Scalar::Float(f16::from_le_bytes(array(bytes)).into()),
            DType::BF16 => Scalar::Float(bf16::from_le_bytes(array(bytes)).into()),
            DType::F8E4M3 => Scalar::Float(float8_e4m3_to_f32(array::<1>(bytes)[0]).into()),
            DType::F8E5M2 => Scalar::Float(f16::from_le_bytes([0, array::<1>(bytes)[0]]).into()),
            DType::I64 => Scalar::Int(i64::from_le_bytes(array(bytes))),
            DType::I32 => Scalar::Int(i32::from_le_bytes(array(bytes)).into()),
            DType::I16 => Scalar::Int(i16::from_le_bytes(array(bytes)).into()),
            DType::I8 => Scalar::Int(i8::from_le_bytes(array(bytes)).into()),
            DType::U64 => Scalar::UInt(u64::from_le_bytes(array(bytes))),
            DType::U32 => Scalar::UInt(u32::from_le_bytes(array(bytes)).into()),
            DType::U16 => Scalar::UInt(u16::from_le_bytes(array(bytes)).into()),
            DType::U8 => Scalar::UInt(array::<1>(bytes)[0].into()),
            DType::Bool => Scalar::Bool(array::<1>(bytes)[0] != 0),
            quantised!() => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float(dtype: DType, bytes: &[u8]) -> f64 {
        match Scalar::read(dtype, bytes) {
            Some(Scalar::Float(value)) => value,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn floats_of_every_width() {
        assert_eq!(float(DType::F64, &0.1_f64.to_le_bytes()), 0.1);
        assert_eq!(float(DType::F32, &0.5_f32.to_le_bytes()), 0.5);
        assert_eq!(float(DType::F16, &f16::from_f32(-1.5).to_le_bytes()), -1.5);
        assert_eq!(float(DType::BF16, &bf16::from_f32(3.0).to_le_bytes()), 3.0);
    }

    #[test]
    fn float8_edges_are_those_of_the_ocp_specification() {
        assert_eq!(float(DType::F8E4M3, &[0x7E]), 448.0);
        assert_eq!(float(DType::F8E4M3, &[0x01]), 2_f64.powi(-9));
        assert_eq!(float(DType::F8E4M3, &[0xB8]), -1.0);
        assert!(float(DType::F8E4M3, &[0x7F]).is_nan());
        assert_eq!(float(DType::F8E5M2, &[0x7B]), 57344.0);
        assert_eq!(float(DType::F8E5M2, &[0x01]), 2_f64.powi(-16));
        assert_eq!(float(DType::F8E5M2, &[0x7C]), f64::INFINITY);
    }

    #[test]
    fn whole_numbers_keep_their_sign_and_every_bit() {
        assert_eq!(Scalar::read(DType::I8, &[0xFF]), Some(Scalar::Int(-1)));
        assert_eq!(Scalar::read(DType::U64, &[0xFF; 8]), Some(Scalar::UInt(u64::MAX)));
        assert_eq!(Scalar::read(DType::I32, &[0, 0, 0, 0x80]), Some(Scalar::Int(i32::MIN.into())));
        assert_eq!(Scalar::read(DType::Bool, &[2]), Some(Scalar::Bool(true)));
        assert_eq!(Scalar::read(DType::Q8_0, &[0; 34]), None);
    }
}
