//! One safetensors file, and folders of one.

use std::fs::{self, File};

use pygpukit_core::DType;
use pygpukit_core::llm::tensor_loader::{self, LoadError, LoadOptions, load_safetensors};

use crate::files::{Folder, MMAP, assert_message, byte_tensors, load, safetensors};

const TWO: &str = r#"{"__metadata__":{"format":"pt","a":"b"},
    "second":{"dtype":"F32","shape":[2],"data_offsets":[6,14]},
    "first":{"dtype":"BF16","shape":[1,3],"data_offsets":[0,6]},
    "empty":{"dtype":"I64","shape":[0,4],"data_offsets":[14,14]}}"#;

#[test]
fn a_file_is_a_map_in_file_order() {
    let folder = Folder::new();
    let data: Vec<u8> = (0..14).collect();
    let path = folder.write("x.safetensors", safetensors(TWO, &data));
    for options in [MMAP, LoadOptions { mmap: false }] {
        let map = load_safetensors(&path, options).unwrap();
        assert_eq!(map.names().collect::<Vec<_>>(), ["first", "second", "empty"]);
        assert_eq!((map.len(), map.nbytes()), (3, 14));
        assert_eq!(map.files().collect::<Vec<_>>(), [path.as_path()]);
        let first = map.get("first").unwrap();
        assert_eq!((first.dtype().unwrap(), first.shape()), (DType::BF16, &[1, 3][..]));
        assert_eq!(first.bytes().unwrap(), &data[..6]);
        assert_eq!(first.file(), path);
        let range = first.byte_range();
        assert_eq!(fs::read(&path).unwrap()[range], data[..6]);
        assert!(map.get("empty").unwrap().bytes().unwrap().is_empty());
        let metadata: Vec<_> =
            map.metadata().iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(metadata, [("a", Some("b")), ("format", Some("pt"))]);
    }
}

#[test]
fn types_that_cannot_be_read_are_listed_but_not_read() {
    let map =
        load(safetensors(r#"{"x":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}"#, &[1, 2]))
            .unwrap();
    let view = map.get("x").unwrap();
    assert_eq!((view.type_name(), view.nbytes()), ("float4_e2m1fn", 2));
    assert!(view.bytes().is_none());
    for error in [view.dtype().err(), view.cast(DType::F32).err(), view.slice(0, 2).err()] {
        let error = error.unwrap();
        assert!(matches!(error, LoadError::UnsupportedType { .. }));
        assert_message(&error, &["file.safetensors", "\"x\"", "float4_e2m1fn"]);
    }
    assert!(view.source().read(0, &mut [0; 2]).is_err());
}

#[test]
fn an_unknown_name_brings_close_ones() {
    let map =
        load(byte_tensors(&[("model.layers.0.mlp.weight", b"x"), ("lm_head", b"y")])).unwrap();
    let error = map.tensor("layers.0.mlp.weight").unwrap_err();
    assert!(matches!(error, LoadError::UnknownTensor { .. }));
    assert_message(&error, &["file.safetensors", "did you mean model.layers.0.mlp.weight?"]);
    assert_message(&map.tensor("nothing like it").unwrap_err(), &["\"nothing like it\""]);
}

/// Asserts that a file of `content` is refused with the variant, and a message that says the texts.
macro_rules! refused {
    ($name:ident, $content:expr, $variant:ident, $texts:expr) => {
        #[test]
        fn $name() {
            let error = load($content).unwrap_err();
            assert!(matches!(error, LoadError::$variant { .. }), "{error:?}");
            assert_message(&error, &["file.safetensors"]);
            assert_message(&error, &$texts);
        }
    };
}

fn one(entry: &str, data: &[u8]) -> Vec<u8> {
    safetensors(&format!(r#"{{"x":{entry}}}"#), data)
}

fn two(a: (usize, usize), b: (usize, usize), data: usize) -> Vec<u8> {
    let entry = |name: &str, (start, end): (usize, usize)| {
        format!(
            r#""{name}":{{"dtype":"U8","shape":[{}],"data_offsets":[{start},{end}]}}"#,
            end - start
        )
    };
    safetensors(&format!("{{{},{}}}", entry("a", a), entry("b", b)), &vec![0; data])
}

const LFS: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 10\n";

refused!(git_lfs_pointer, LFS, LfsPointer, ["Git LFS pointer", "git lfs pull"]);
refused!(empty_file, b"", Truncated, ["the header", "has 0 bytes"]);
refused!(half_a_length, b"abc", Truncated, ["ends at byte 8", "has 3 bytes"]);
refused!(
    header_of_126_mb,
    126_000_000u64.to_le_bytes(),
    HeaderTooLarge,
    ["126000000", "100000000"]
);
refused!(bogus_header_length, [0xff; 64], HeaderTooLarge, ["18446744073709551615"]);
refused!(header_past_the_end, 1000u64.to_le_bytes(), Truncated, ["ends at byte 1008", "has 8"]);
refused!(header_not_json, safetensors("{\"x\":", b""), BadHeader, ["invalid JSON", "line 1"]);
refused!(header_not_an_object, safetensors("[1, 2]", b""), BadHeader, ["expected an object"]);
refused!(
    header_not_utf8,
    [&4u64.to_le_bytes()[..], b"{\xff\xfe}"].concat(),
    BadHeader,
    ["not UTF-8 from byte 9"]
);
refused!(
    metadata_not_strings,
    safetensors(r#"{"__metadata__":{"step":3}}"#, b""),
    BadHeader,
    ["invalid type: integer"]
);
refused!(
    entry_without_shape,
    one(r#"{"dtype":"U8","data_offsets":[0,1]}"#, b"x"),
    BadHeader,
    ["tensor \"x\"", "missing field `shape`"]
);
refused!(
    negative_dimension,
    one(r#"{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}"#, b"x"),
    BadHeader,
    ["tensor \"x\"", "-1"]
);
refused!(
    unknown_dtype,
    one(r#"{"dtype":"Q9","shape":[1],"data_offsets":[0,1]}"#, b"x"),
    UnknownType,
    ["tensor \"x\"", "Q9"]
);
refused!(
    overflowing_shape,
    one(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}"#, b"1234"),
    ShapeOverflow,
    ["tensor \"x\"", "[4294967296, 4294967296]"]
);
refused!(
    offsets_shorter_than_the_shape,
    one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,4]}"#, b"1234"),
    SizeMismatch,
    ["tensor \"x\"", "F32", "[2]", "takes 8 bytes", "span 4"]
);
refused!(
    half_a_byte,
    one(r#"{"dtype":"F4","shape":[3],"data_offsets":[0,2]}"#, b"12"),
    SizeMismatch,
    ["tensor \"x\"", "F4"]
);
refused!(
    reversed_offsets,
    one(r#"{"dtype":"U8","shape":[4],"data_offsets":[4,0]}"#, b"1234"),
    ReversedOffsets,
    ["tensor \"x\"", "[4, 0]"]
);
refused!(hole, two((0, 2), (4, 6), 6), Hole, ["tensor \"b\"", "2 to 4"]);
refused!(hole_at_the_start, two((2, 4), (4, 6), 6), Hole, ["tensor \"a\"", "0 to 2"]);
refused!(overlap, two((0, 4), (2, 6), 6), Overlap, ["tensor \"b\"", "overlaps \"a\"", "at 4"]);
refused!(truncated_data, two((0, 4), (4, 8), 5), Truncated, ["tensor \"b\"", "has"]);
refused!(trailing_bytes, two((0, 4), (4, 8), 11), TrailingBytes, ["3 trailing bytes"]);
refused!(
    duplicate_name,
    safetensors(
        r#"{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
            "x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
        b"1"
    ),
    DuplicateName,
    ["\"x\" appears twice"]
);

#[test]
fn offsets_near_the_integer_limit_are_refused() {
    let max = u64::MAX;
    for offsets in [format!("[0,{max}]"), format!("[{},{max}]", max - 1), format!("[{max},0]")] {
        let entry = format!(r#"{{"dtype":"U8","shape":[1],"data_offsets":{offsets}}}"#);
        assert_message(&load(one(&entry, b"1")).unwrap_err(), &["\"x\""]);
    }
}

#[test]
fn missing_paths_and_other_files_are_told_apart() {
    let folder = Folder::new();
    let missing = load_safetensors(folder.path().join("gone.safetensors"), MMAP).unwrap_err();
    assert!(matches!(missing, LoadError::MissingFile { .. }));
    assert_message(&missing, &["gone.safetensors"]);
    let pickle = folder.write("pytorch_model.bin", b"PK\x03\x04 and so on");
    let error = tensor_loader::load_tensors(pickle, MMAP).unwrap_err();
    assert!(matches!(error, LoadError::UnknownFormat { .. }));
    assert_message(&error, &["pytorch_model.bin", r"PK\x03\x04"]);
}

#[test]
fn a_folder_needs_one_checkpoint() {
    let folder = Folder::new();
    let error = load_safetensors(folder.path(), MMAP).unwrap_err();
    assert!(matches!(error, LoadError::NoWeights { .. }));
    assert_message(&error, &["model.safetensors"]);

    folder.write("b.safetensors", byte_tensors(&[("b", b"1")]));
    assert!(load_safetensors(folder.path(), MMAP).unwrap().get("b").is_some());

    folder.write("a.safetensors", byte_tensors(&[("a", b"1")]));
    let error = load_safetensors(folder.path(), MMAP).unwrap_err();
    assert!(matches!(error, LoadError::Ambiguous { .. }));
    assert_message(&error, &["a.safetensors, b.safetensors"]);

    folder.write("model.safetensors", byte_tensors(&[("c", b"1")]));
    assert!(load_safetensors(folder.path(), MMAP).unwrap().get("c").is_some());
}

/// A file of 16 GB that takes no disk: opening it must neither read nor allocate its data.
#[test]
fn a_huge_file_opens_without_being_read() {
    const ELEMENTS: u64 = 8 << 30;
    let folder = Folder::new();
    let header = format!(
        r#"{{"x":{{"dtype":"BF16","shape":[{}],"data_offsets":[0,{}]}}}}"#,
        ELEMENTS,
        ELEMENTS * 2
    );
    let path = folder.write("huge.safetensors", safetensors(&header, b""));
    let file = File::options().write(true).open(&path).unwrap();
    if file.set_len(8 + header.len() as u64 + ELEMENTS * 2).is_err() {
        return; // The file system has no sparse files of that size.
    }
    let map = load_safetensors(&path, MMAP).unwrap();
    let view = map.get("x").unwrap();
    assert_eq!(view.nbytes() as u64, ELEMENTS * 2);
    assert_eq!(
        view.slice(view.elements() - 2, view.elements()).unwrap().bytes(),
        Some(&[0; 4][..])
    );
}
