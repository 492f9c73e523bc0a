//! Any well-formed file comes back as it was written; no other one makes the loader panic.

use std::collections::BTreeMap;

use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView as Written, serialize};

use crate::files::{Gguf, load, safetensors, string};

/// Types and the bytes of an element.
const TYPES: [(Dtype, usize, &str); 5] = [
    (Dtype::F32, 4, "float32"),
    (Dtype::BF16, 2, "bfloat16"),
    (Dtype::F8_E4M3, 1, "float8_e4m3fn"),
    (Dtype::I64, 8, "int64"),
    (Dtype::BOOL, 1, "bool"),
];

type Tensors = BTreeMap<String, (usize, Vec<usize>, u8)>;

/// Names, types, shapes and a byte to fill each tensor with.
fn tensors() -> impl Strategy<Value = Tensors> {
    let shape = proptest::collection::vec(0usize..5, 0..4);
    proptest::collection::btree_map(".{1,12}", (0..TYPES.len(), shape, any::<u8>()), 0..12)
        .prop_map(|mut tensors| {
            tensors.remove("__metadata__");
            tensors
        })
}

/// Damage done to a well-formed file.
#[derive(Clone, Debug)]
enum Damage {
    Replace(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Truncate(prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let one = prop_oneof![
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, to)| Damage::Replace(at, to)),
        (any::<prop::sample::Index>(), proptest::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (any::<prop::sample::Index>(), 1usize..9).prop_map(|(at, len)| Damage::Remove(at, len)),
        any::<prop::sample::Index>().prop_map(Damage::Truncate),
    ];
    proptest::collection::vec(one, 1..4)
}

fn apply(mut file: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        if file.is_empty() {
            break;
        }
        match damage {
            Damage::Replace(at, to) => *at.get_mut(&mut file) = *to,
            Damage::Insert(at, bytes) => {
                let at = at.index(file.len());
                file.splice(at..at, bytes.iter().copied());
            }
            Damage::Remove(at, len) => {
                let at = at.index(file.len());
                file.drain(at..(at + len).min(file.len()));
            }
            Damage::Truncate(at) => file.truncate(at.index(file.len())),
        }
    }
    file
}

/// Loads a file that may be anything; whatever is in it must be readable.
fn load_and_read(content: &[u8]) {
    if let Ok(map) = load(content) {
        for view in map.iter() {
            if view.dtype().is_ok() {
                assert_eq!(view.to_vec().unwrap().len(), view.nbytes());
            }
        }
    }
}

proptest! {
    #[test]
    fn any_safetensors_file_comes_back(tensors in tensors(), metadata: bool) {
        let contents: BTreeMap<&str, Vec<u8>> = tensors
            .iter()
            .map(|(name, (dtype, shape, fill))| {
                let len = shape.iter().product::<usize>() * TYPES[*dtype].1;
                (name.as_str(), (0..len).map(|i| fill.wrapping_add(i as u8)).collect())
            })
            .collect();
        let written = tensors.iter().map(|(name, (dtype, shape, _))| {
            let content = &contents[name.as_str()];
            (name.as_str(), Written::new(TYPES[*dtype].0, shape.clone(), content).unwrap())
        });
        let info = metadata.then(|| [("format".to_owned(), "pt".to_owned())].into());
        let map = load(serialize(written, info).unwrap()).unwrap();

        prop_assert_eq!(map.len(), tensors.len());
        prop_assert_eq!(map.metadata().len(), usize::from(metadata));
        prop_assert_eq!(map.nbytes(), contents.values().map(Vec::len).sum::<usize>());
        for (name, (dtype, shape, _)) in &tensors {
            let view = map.get(name).unwrap();
            prop_assert_eq!(view.type_name(), TYPES[*dtype].2);
            prop_assert_eq!(view.shape(), shape);
            prop_assert_eq!(view.bytes().unwrap(), &contents[name.as_str()]);
        }
        let starts: Vec<_> = map.iter().map(|view| view.byte_range().start).collect();
        prop_assert!(starts.is_sorted());
    }

    #[test]
    fn random_bytes_never_panic(content: Vec<u8>, gguf: bool) {
        let magic: &[u8] = if gguf { b"GGUF\x03\0\0\0" } else { b"" };
        load_and_read(&[magic, &content].concat());
    }

    #[test]
    fn random_headers_never_panic(header in r#"\{("[ab]":\{("dtype":"(U8|F4|Q)",?)?("shape":\[[0-9,]{0,20}\],?)?("data_offsets":\[[0-9]{0,20},[0-9]{0,3}\])?\},?){0,3}\}"#, data: Vec<u8>) {
        load_and_read(&safetensors(&header, &data));
    }

    #[test]
    fn damaged_safetensors_files_never_panic(damage in damage()) {
        let header = r#"{"__metadata__":{"a":"b"},
            "x":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
            "y":{"dtype":"U8","shape":[3],"data_offsets":[16,19]}}"#;
        load_and_read(&apply(safetensors(header, &[7; 19]), &damage));
    }

    #[test]
    fn damaged_gguf_files_never_panic(damage in damage()) {
        let file = Gguf::new()
            .entry("general.alignment", 4, 32u32.to_le_bytes())
            .entry("name", 8, string("model"))
            .entry("list", 9, [&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &string("a"), &string("b")].concat())
            .tensor("x", &[32, 2], 2, 0)
            .tensor("y", &[3], 0, 64)
            .data([9; 76]);
        load_and_read(&apply(file.build(), &damage));
    }
}
