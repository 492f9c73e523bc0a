//! What a weight file says about itself beside its tensors.

use indexmap::IndexMap;

/// A file's metadata, in the file's order. Safetensors files hold strings only.
pub type Metadata = IndexMap<String, MetadataValue>;

/// One metadata value, of the type that the file gives it.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum MetadataValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(MetadataArray),
}

/// An array of metadata values of one type.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum MetadataArray {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(StringArray),
    Array(Vec<MetadataArray>),
}

/// Many strings in one allocation: a vocabulary has tens of thousands of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StringArray {
    text: String,
    ends: Vec<usize>,
}

impl StringArray {
    /// An empty array with room for `count` strings.
    pub(crate) fn with_capacity(count: usize) -> StringArray {
        StringArray { text: String::new(), ends: Vec::with_capacity(count) }
    }

    /// Appends a string.
    pub(crate) fn push(&mut self, string: &str) {
        self.text.push_str(string);
        self.ends.push(self.text.len());
    }

    /// The number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|index| {
            let start = if index == 0 { 0 } else { self.ends[index - 1] };
            &self.text[start..self.ends[index]]
        })
    }
}

impl MetadataValue {
    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            MetadataValue::String(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if this is an integer of any width that isn't negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            MetadataValue::U8(value) => Some(value.into()),
            MetadataValue::U16(value) => Some(value.into()),
            MetadataValue::U32(value) => Some(value.into()),
            MetadataValue::U64(value) => Some(value),
            MetadataValue::I8(value) => value.try_into().ok(),
            MetadataValue::I16(value) => value.try_into().ok(),
            MetadataValue::I32(value) => value.try_into().ok(),
            MetadataValue::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_arrays_keep_their_strings_apart() {
        let mut array = StringArray::with_capacity(3);
        for string in ["", "né", "x"] {
            array.push(string);
        }
        assert_eq!(array.iter().collect::<Vec<_>>(), ["", "né", "x"]);
        assert_eq!(array.len(), 3);
    }

    #[test]
    fn only_integers_that_fit_are_numbers() {
        assert_eq!(MetadataValue::U32(7).as_u64(), Some(7));
        assert_eq!(MetadataValue::I8(-1).as_u64(), None);
        assert_eq!(MetadataValue::F32(7.0).as_u64(), None);
    }
}
