//! The types that weight files name, readable or not.

use safetensors::Dtype as SafetensorsType;

use crate::dtype::DType;

/// A tensor's type as its file gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredType {
    /// A type whose elements can be read.
    Known(DType),
    /// A type of which only the name and the size are known, so that a file's contents can be listed.
    Opaque { name: &'static str, block_elements: usize, block_bytes: usize },
}

impl StoredType {
    const fn opaque(name: &'static str, block_elements: usize, block_bytes: usize) -> StoredType {
        StoredType::Opaque { name, block_elements, block_bytes }
    }

    /// The name: that of [`DType`] where there is one, else the format's in lower case.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            StoredType::Known(dtype) => dtype.name(),
            StoredType::Opaque { name, .. } => name,
        }
    }

    /// Elements in one block.
    pub(crate) const fn block_elements(self) -> usize {
        match self {
            StoredType::Known(dtype) => dtype.block_elements(),
            StoredType::Opaque { block_elements, .. } => block_elements,
        }
    }

    /// Bytes of one block.
    pub(crate) const fn block_bytes(self) -> usize {
        match self {
            StoredType::Known(dtype) => dtype.block_bytes(),
            StoredType::Opaque { block_bytes, .. } => block_bytes,
        }
    }

    /// The type of a safetensors header, or `None` for one that a newer format brought.
    pub(crate) fn from_safetensors(dtype: SafetensorsType) -> Option<StoredType> {
        use StoredType::Known;
        Some(match dtype {
            SafetensorsType::F64 => Known(DType::F64),
            SafetensorsType::F32 => Known(DType::F32),
            SafetensorsType::F16 => Known(DType::F16),
            SafetensorsType::BF16 => Known(DType::BF16),
            SafetensorsType::F8_E4M3 => Known(DType::F8E4M3),
            SafetensorsType::F8_E5M2 => Known(DType::F8E5M2),
            SafetensorsType::I64 => Known(DType::I64),
            SafetensorsType::I32 => Known(DType::I32),
            SafetensorsType::I16 => Known(DType::I16),
            SafetensorsType::I8 => Known(DType::I8),
            SafetensorsType::U64 => Known(DType::U64),
            SafetensorsType::U32 => Known(DType::U32),
            SafetensorsType::U16 => Known(DType::U16),
            SafetensorsType::U8 => Known(DType::U8),
            SafetensorsType::BOOL => Known(DType::Bool),
            SafetensorsType::F4 => StoredType::opaque("float4_e2m1fn", 2, 1),
            SafetensorsType::F6_E2M3 => StoredType::opaque("float6_e2m3fn", 4, 3),
            SafetensorsType::F6_E3M2 => StoredType::opaque("float6_e3m2fn", 4, 3),
            SafetensorsType::F8_E8M0 => StoredType::opaque("float8_e8m0fnu", 1, 1),
            SafetensorsType::F8_E4M3FNUZ => StoredType::opaque("float8_e4m3fnuz", 1, 1),
            SafetensorsType::F8_E5M2FNUZ => StoredType::opaque("float8_e5m2fnuz", 1, 1),
            SafetensorsType::C64 => StoredType::opaque("complex64", 1, 8),
            _ => return None,
        })
    }

    /// The type of a GGUF tensor by its number in ggml's `enum ggml_type`, or `None` for one that
    /// isn't in use.
    pub(crate) fn from_ggml(number: u32) -> Option<StoredType> {
        use StoredType::Known;
        Some(match number {
            0 => Known(DType::F32),
            1 => Known(DType::F16),
            2 => Known(DType::Q4_0),
            3 => Known(DType::Q4_1),
            6 => Known(DType::Q5_0),
            7 => Known(DType::Q5_1),
            8 => Known(DType::Q8_0),
            9 => StoredType::opaque("q8_1", 32, 36),
            10 => Known(DType::Q2K),
            11 => Known(DType::Q3K),
            12 => Known(DType::Q4K),
            13 => Known(DType::Q5K),
            14 => Known(DType::Q6K),
            15 => StoredType::opaque("q8_k", 256, 292),
            16 => StoredType::opaque("iq2_xxs", 256, 66),
            17 => StoredType::opaque("iq2_xs", 256, 74),
            18 => StoredType::opaque("iq3_xxs", 256, 98),
            19 => StoredType::opaque("iq1_s", 256, 50),
            20 => Known(DType::IQ4NL),
            21 => StoredType::opaque("iq3_s", 256, 110),
            22 => StoredType::opaque("iq2_s", 256, 82),
            23 => Known(DType::IQ4XS),
            24 => Known(DType::I8),
            25 => Known(DType::I16),
            26 => Known(DType::I32),
            27 => Known(DType::I64),
            28 => Known(DType::F64),
            29 => StoredType::opaque("iq1_m", 256, 56),
            30 => Known(DType::BF16),
            34 => StoredType::opaque("tq1_0", 256, 54),
            35 => StoredType::opaque("tq2_0", 256, 66),
            39 => Known(DType::MXFP4),
            40 => StoredType::opaque("nvfp4", 64, 36),
            41 => StoredType::opaque("q1_0", 128, 18),
            _ => return None,
        })
    }
}
