//! Element types of tensors, and the block-quantised types of GGUF files.

use std::fmt;

/// The type of a tensor's elements.
///
/// The plain types are those of the safetensors format. The `Q*` types are ggml's quantised blocks:
/// their size is known only for whole blocks, so sizes are computed by [`DType::nbytes`] rather than
/// by a size per element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum DType {
    F64,
    F32,
    F16,
    BF16,
    F8E4M3,
    F8E5M2,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
    Q4_0,
    Q4_1,
    Q8_0,
    Q5_0,
    Q5_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    IQ4NL,
    IQ4XS,
    MXFP4,
}

/// The pattern of the block-quantised types: a `match` with it still names every type.
macro_rules! quantised {
    () => {
        $crate::dtype::DType::Q4_0
            | $crate::dtype::DType::Q4_1
            | $crate::dtype::DType::Q8_0
            | $crate::dtype::DType::Q5_0
            | $crate::dtype::DType::Q5_1
            | $crate::dtype::DType::Q2K
            | $crate::dtype::DType::Q3K
            | $crate::dtype::DType::Q4K
            | $crate::dtype::DType::Q5K
            | $crate::dtype::DType::Q6K
            | $crate::dtype::DType::IQ4NL
            | $crate::dtype::DType::IQ4XS
            | $crate::dtype::DType::MXFP4
    };
}
pub(crate) use quantised;

impl DType {
    /// Every type, in declaration order.
    pub const ALL: [DType; 28] = [
        DType::F64,
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::F8E4M3,
        DType::F8E5M2,
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U64,
        DType::U32,
        DType::U16,
        DType::U8,
        DType::Bool,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q8_0,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q2K,
        DType::Q3K,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
        DType::IQ4NL,
        DType::IQ4XS,
        DType::MXFP4,
    ];

    /// The name used in Python and in error messages: NumPy's where NumPy has the type.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F64 => "float64",
            DType::F32 => "float32",
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            DType::F8E4M3 => "float8_e4m3fn",
            DType::F8E5M2 => "float8_e5m2",
            DType::I64 => "int64",
            DType::I32 => "int32",
            DType::I16 => "int16",
            DType::I8 => "int8",
            DType::U64 => "uint64",
            DType::U32 => "uint32",
            DType::U16 => "uint16",
            DType::U8 => "uint8",
            DType::Bool => "bool",
            DType::Q4_0 => "q4_0",
            DType::Q4_1 => "q4_1",
            DType::Q8_0 => "q8_0",
            DType::Q5_0 => "q5_0",
            DType::Q5_1 => "q5_1",
            DType::Q2K => "q2_k",
            DType::Q3K => "q3_k",
            DType::Q4K => "q4_k",
            DType::Q5K => "q5_k",
            DType::Q6K => "q6_k",
            DType::IQ4NL => "iq4_nl",
            DType::IQ4XS => "iq4_xs",
            DType::MXFP4 => "mxfp4",
        }
    }

    /// The type called `name` (as [`DType::name`] gives it), if there is one.
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Elements in one block: 1 for plain types, 32 or 256 for the quantised ones.
    pub const fn block_elements(self) -> usize {
        match self {
            DType::Q4_0
            | DType::Q4_1
            | DType::Q5_0
            | DType::Q5_1
            | DType::Q8_0
            | DType::IQ4NL
            | DType::MXFP4 => 32,
            DType::Q2K | DType::Q3K | DType::Q4K | DType::Q5K | DType::Q6K | DType::IQ4XS => 256,
            _ => 1,
        }
    }

    /// Bytes of one block: the element size for plain types.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F64 | DType::I64 | DType::U64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 2,
            DType::F8E4M3 | DType::F8E5M2 | DType::I8 | DType::U8 | DType::Bool => 1,
            DType::Q4_0 | DType::IQ4NL => 18,
            DType::Q4_1 => 20,
            DType::Q5_0 => 22,
            DType::Q5_1 => 24,
            DType::Q8_0 => 34,
            DType::Q2K => 84,
            DType::Q3K => 110,
            DType::Q4K => 144,
            DType::Q5K => 176,
            DType::Q6K => 210,
            DType::IQ4XS => 136,
            DType::MXFP4 => 17,
        }
    }

    /// Whether elements are packed in ggml blocks.
    pub const fn is_quantized(self) -> bool {
        self.block_elements() > 1
    }

    /// Bytes that `elements` elements take, or `None` when that overflows or isn't a whole number of
    /// blocks.
    pub const fn nbytes(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for DType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for dtype in DType::ALL {
            assert_eq!(DType::from_name(dtype.name()), Some(dtype));
        }
        assert_eq!(DType::from_name("int4"), None);
    }

    #[test]
    fn nbytes_counts_whole_blocks() {
        assert_eq!(DType::BF16.nbytes(3), Some(6));
        assert_eq!(DType::Q4_1.nbytes(64), Some(40));
        assert_eq!(DType::Q4_1.nbytes(33), None);
        assert_eq!(DType::F64.nbytes(usize::MAX), None);
    }
}
