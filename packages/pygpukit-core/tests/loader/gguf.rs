//! GGUF files.

use pygpukit_core::DType;
use pygpukit_core::loader::{
    LoadError, MetadataArray, MetadataValue, TensorMap, load_gguf, load_tensors,
};

use crate::files::{Folder, Gguf, MMAP, assert_message, string};

const F32: u32 = 0;
const Q4_0: u32 = 2;
const IQ2_XXS: u32 = 16;
const TAG_U8: u32 = 0;
const TAG_U32: u32 = 4;
const TAG_STRING: u32 = 8;
const TAG_ARRAY: u32 = 9;

fn load(content: impl AsRef<[u8]>) -> Result<TensorMap, LoadError> {
    let folder = Folder::new();
    load_gguf(folder.write("file.gguf", content), MMAP)
}

fn array(tag: u32, count: u64, content: &[u8]) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &count.to_le_bytes(), content].concat()
}

#[test]
fn tensors_have_row_major_shapes_and_lie_in_file_order() {
    for version in [2, 3] {
        let mut file = Gguf::new()
            .tensor("late", &[2], F32, 32)
            .tensor("early", &[4, 2], F32, 0)
            .data((0..40).collect::<Vec<u8>>());
        file.version = version;
        let map = load(file.build()).unwrap();
        assert_eq!(map.names().collect::<Vec<_>>(), ["early", "late"]);
        let early = map.get("early").unwrap();
        assert_eq!((early.dtype().unwrap(), early.shape()), (DType::F32, &[2, 4][..]));
        assert_eq!(early.bytes().unwrap(), (0..32).collect::<Vec<u8>>());
        assert_eq!(map.get("late").unwrap().bytes().unwrap(), (32..40).collect::<Vec<u8>>());
    }
}

#[test]
fn every_value_type_is_read() {
    let values: [(u32, Vec<u8>, MetadataValue); 12] = [
        (0, vec![200], MetadataValue::U8(200)),
        (1, vec![200], MetadataValue::I8(-56)),
        (2, 40_000u16.to_le_bytes().into(), MetadataValue::U16(40_000)),
        (3, (-2i16).to_le_bytes().into(), MetadataValue::I16(-2)),
        (4, 7u32.to_le_bytes().into(), MetadataValue::U32(7)),
        (5, (-7i32).to_le_bytes().into(), MetadataValue::I32(-7)),
        (6, 0.5f32.to_le_bytes().into(), MetadataValue::F32(0.5)),
        (7, vec![1], MetadataValue::Bool(true)),
        (8, string("né"), MetadataValue::String("né".into())),
        (10, u64::MAX.to_le_bytes().into(), MetadataValue::U64(u64::MAX)),
        (11, i64::MIN.to_le_bytes().into(), MetadataValue::I64(i64::MIN)),
        (12, 0.1f64.to_le_bytes().into(), MetadataValue::F64(0.1)),
    ];
    let mut file = Gguf::new();
    for (tag, encoded, _) in &values {
        file = file.entry(&format!("value.{tag}"), *tag, encoded);
        file = file.entry(&format!("array.{tag}"), TAG_ARRAY, array(*tag, 1, encoded));
    }
    let map = load(file.build()).unwrap();
    for (tag, _, expected) in &values {
        assert_eq!(&map.metadata()[&format!("value.{tag}")], expected);
        let MetadataValue::Array(array) = &map.metadata()[&format!("array.{tag}")] else {
            panic!("array.{tag} isn't an array");
        };
        // One element of the same type: the debug form shows both the variant and the value.
        let (array, expected) = (format!("{array:?}"), format!("{expected:?}"));
        assert_eq!(array.split('(').next(), expected.split('(').next());
    }
    assert_eq!(map.metadata().get_index(0).unwrap().0, "value.0");
}

#[test]
fn arrays_nest() {
    let inner = [array(TAG_U8, 2, &[1, 2]), array(TAG_STRING, 1, &string("x"))].concat();
    let file = Gguf::new().entry("nested", TAG_ARRAY, array(TAG_ARRAY, 2, &inner));
    let map = load(file.build()).unwrap();
    let MetadataValue::Array(MetadataArray::Array(arrays)) = &map.metadata()["nested"] else {
        panic!("{:?}", map.metadata());
    };
    assert_eq!(arrays[0], MetadataArray::U8(vec![1, 2]));
    let MetadataArray::String(strings) = &arrays[1] else { panic!("{arrays:?}") };
    assert_eq!(strings.iter().collect::<Vec<_>>(), ["x"]);
}

#[test]
fn types_that_cannot_be_read_are_listed_but_not_read() {
    let map =
        load(Gguf::new().tensor("w", &[256, 2], IQ2_XXS, 0).data(vec![0; 132]).build()).unwrap();
    let view = map.get("w").unwrap();
    assert_eq!((view.type_name(), view.shape(), view.nbytes()), ("iq2_xxs", &[2, 256][..], 132));
    let error = view.cast(DType::F32).unwrap_err();
    assert!(matches!(error, LoadError::UnsupportedType { .. }));
    assert_message(&error, &["file.gguf", "\"w\"", "iq2_xxs"]);
}

#[test]
fn the_alignment_is_the_files() {
    let mut file = Gguf::new()
        .entry("general.alignment", TAG_U32, 64u32.to_le_bytes())
        .tensor("x", &[1], F32, 64)
        .data(vec![7; 68]);
    file.alignment = 64;
    let map = load(file.build()).unwrap();
    assert_eq!(map.get("x").unwrap().byte_range().start % 64, 0);
    assert_eq!(map.get("x").unwrap().bytes().unwrap(), [7; 4]);
}

#[test]
fn load_tensors_knows_a_gguf_file_by_its_content_and_finds_it_in_a_folder() {
    let folder = Folder::new();
    let content = Gguf::new().tensor("x", &[1], F32, 0).data([0; 4]).build();
    let path = folder.write("blob", &content);
    assert_eq!(load_tensors(path, MMAP).unwrap().len(), 1);
    folder.write("model.gguf", &content);
    assert_eq!(load_tensors(folder.path(), MMAP).unwrap().len(), 1);
    folder.write("other.gguf", &content);
    let error = load_tensors(folder.path(), MMAP).unwrap_err();
    assert!(matches!(error, LoadError::Ambiguous { .. }));
    assert_message(&error, &["model.gguf, other.gguf"]);
}

/// Asserts that a file of `content` is refused with the variant, and a message that says the texts.
macro_rules! refused {
    ($name:ident, $content:expr, $variant:ident, $texts:expr) => {
        #[test]
        fn $name() {
            let error = load($content).unwrap_err();
            assert!(matches!(error, LoadError::$variant { .. }), "{error:?}");
            assert_message(&error, &["file.gguf"]);
            assert_message(&error, &$texts);
        }
    };
}

fn with_version(version: u32) -> Vec<u8> {
    let mut file = Gguf::new();
    file.version = version;
    file.build()
}

/// A header that announces those numbers of tensors and entries, and ends there.
fn with_counts(tensors: u64, entries: u64) -> Vec<u8> {
    [b"GGUF", &3u32.to_le_bytes()[..], &tensors.to_le_bytes(), &entries.to_le_bytes()].concat()
}

fn nested(depth: usize) -> Vec<u8> {
    let innermost = array(TAG_U8, 0, &[]);
    (0..depth).fold(innermost, |inner, _| array(TAG_ARRAY, 1, &inner))
}

refused!(
    git_lfs_pointer,
    "version https://git-lfs.github.com/spec/v1\n",
    LfsPointer,
    ["git lfs pull"]
);
refused!(not_gguf, b"GGML and more bytes than a header", BadHeader, ["not a GGUF file"]);
refused!(empty_file, b"", Truncated, ["the magic number"]);
refused!(version_1, with_version(1), UnsupportedGguf, ["version 1", "llama.cpp"]);
refused!(version_4, with_version(4), UnsupportedGguf, ["version 4"]);
refused!(big_endian, with_version(3u32.swap_bytes()), UnsupportedGguf, ["big-endian"]);
refused!(too_many_tensors, with_counts(u64::MAX, 0), BadHeader, ["tensors announced"]);
refused!(too_many_entries, with_counts(0, 1 << 60), BadHeader, ["metadata entries announced"]);
refused!(
    a_part_of_a_split_model,
    Gguf::new().entry("split.count", 2, 3u16.to_le_bytes()).build(),
    UnsupportedGguf,
    ["one of 3 parts", "--merge"]
);
refused!(
    string_past_the_end,
    Gguf::new().entry("key", TAG_STRING, u64::MAX.to_le_bytes()).build(),
    Truncated,
    ["key"]
);
refused!(
    array_past_the_end,
    Gguf::new().entry("key", TAG_ARRAY, array(TAG_U32, 1 << 61, &[])).build(),
    BadHeader,
    ["key", "the rest of the file holds"]
);
refused!(
    string_not_utf8,
    Gguf::new().entry("key", TAG_STRING, [&2u64.to_le_bytes()[..], b"\xff\xff"].concat()).build(),
    BadHeader,
    ["key isn't UTF-8"]
);
refused!(
    unknown_value_type,
    Gguf::new().entry("key", 13, [0; 8]).build(),
    BadHeader,
    ["\"key\"", "unknown value type 13"]
);
refused!(
    arrays_nested_too_deep,
    Gguf::new().entry("key", TAG_ARRAY, nested(100)).build(),
    BadHeader,
    ["\"key\"", "nested deeper"]
);
refused!(
    duplicate_key,
    Gguf::new().entry("key", TAG_U8, [1]).entry("key", TAG_U8, [1]).build(),
    DuplicateName,
    ["\"key\""]
);
refused!(
    bad_alignment,
    Gguf::new().entry("general.alignment", TAG_U32, 48u32.to_le_bytes()).build(),
    BadHeader,
    ["general.alignment", "48"]
);
refused!(
    zero_alignment,
    Gguf::new().entry("general.alignment", TAG_U32, 0u32.to_le_bytes()).build(),
    BadHeader,
    ["general.alignment"]
);
refused!(
    duplicate_tensor,
    Gguf::new().tensor("x", &[1], F32, 0).tensor("x", &[1], F32, 32).data([0; 64]).build(),
    DuplicateName,
    ["\"x\""]
);
refused!(
    too_many_dimensions,
    Gguf::new().tensor("x", &[1; 5], F32, 0).data([0; 4]).build(),
    BadHeader,
    ["\"x\"", "5 dimensions"]
);
refused!(
    absurd_number_of_dimensions,
    {
        let mut file = Gguf::new().tensor("x", &[], F32, 0);
        file.tensors[0][9..13].copy_from_slice(&u32::MAX.to_le_bytes());
        file.build()
    },
    BadHeader,
    ["\"x\"", "4294967295 dimensions"]
);
refused!(
    unknown_tensor_type,
    Gguf::new().tensor("x", &[1], 4, 0).data([0; 4]).build(),
    UnknownType,
    ["\"x\"", "number 4"]
);
refused!(
    overflowing_shape,
    Gguf::new().tensor("x", &[1 << 32, 1 << 32], F32, 0).build(),
    ShapeOverflow,
    ["\"x\"", "[4294967296, 4294967296]"]
);
refused!(
    overflowing_bytes,
    Gguf::new().tensor("x", &[1 << 62], F32, 0).build(),
    ShapeOverflow,
    ["\"x\""]
);
refused!(
    rows_of_half_a_block,
    Gguf::new().tensor("x", &[48, 2], Q4_0, 0).data([0; 54]).build(),
    BadShape,
    ["\"x\"", "q4_0", "[2, 48]", "whole blocks of 32"]
);
refused!(
    misaligned_offset,
    Gguf::new().tensor("x", &[1], F32, 4).data([0; 8]).build(),
    Misaligned,
    ["\"x\"", "offset 4", "32"]
);
refused!(
    overlap,
    Gguf::new().tensor("x", &[16], F32, 0).tensor("y", &[1], F32, 32).data([0; 64]).build(),
    Overlap,
    ["\"y\"", "\"x\"", "ends at 64"]
);
refused!(
    truncated_data,
    Gguf::new().tensor("x", &[16], F32, 0).data([0; 63]).build(),
    Truncated,
    ["\"x\""]
);
refused!(
    offset_outside_the_file,
    Gguf::new().tensor("x", &[1], F32, u64::MAX - 31).data([0; 4]).build(),
    Truncated,
    ["\"x\""]
);

#[test]
fn a_header_cut_anywhere_is_refused() {
    let header = Gguf::new()
        .entry("a", TAG_U32, 1u32.to_le_bytes())
        .entry("b", TAG_ARRAY, array(TAG_STRING, 2, &[string("x"), string("yz")].concat()))
        .tensor("t", &[1], F32, 0)
        .header();
    for len in 0..header.len() {
        let error = load(&header[..len]).unwrap_err();
        assert!(
            matches!(error, LoadError::Truncated { .. } | LoadError::BadHeader { .. }),
            "{len}: {error:?}"
        );
    }
}
