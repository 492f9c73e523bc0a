//! Kernels with bfloat16 activations: what they give is, bit for bit, what they give for the same
//! numbers as float32, rounded.

use super::super::simd::at_each_level;
use super::*;

/// An argument of a launch.
enum Arg {
    /// Activations, of bfloat16 numbers.
    Activations(Tensor),
    /// A tensor that is the same for both.
    Other(Tensor),
    /// A result of this shape.
    Result(Vec<usize>),
    /// A number, or no tensor.
    Scalar(ArgValue),
}

use Arg::{Activations, Other, Result, Scalar};

fn int(value: i64) -> Arg {
    Scalar(ArgValue::Int(value))
}

fn float(value: f64) -> Arg {
    Scalar(ArgValue::Float(value))
}

fn none() -> Arg {
    Scalar(ArgValue::None)
}

/// Launches the kernel with activations and results of type `T`; gives the values of all of them.
fn run<T: Value>(name: &str, args: &[Arg]) -> Vec<Vec<f64>> {
    let tensors: Vec<Option<Tensor>> = args
        .iter()
        .map(|arg| match arg {
            Activations(tensor) => Some(tensor.cast::<T>()),
            Result(shape) => Some(Tensor::empty::<T>(shape)),
            Other(_) | Scalar(_) => None,
        })
        .collect();
    let values: Vec<ArgValue> = args
        .iter()
        .zip(&tensors)
        .map(|(arg, tensor)| match arg {
            Activations(_) | Result(_) => tensor.as_ref().expect("made above").arg(),
            Other(tensor) => tensor.arg(),
            Scalar(value) => value.clone(),
        })
        .collect();
    launch(name, &values).unwrap();
    tensors.iter().flatten().map(any_values).collect()
}

fn check(name: &str, args: &[Arg]) {
    at_each_level(|level| {
        let exact = run::<f32>(name, args);
        for (index, (found, exact)) in run::<bf16>(name, args).iter().zip(&exact).enumerate() {
            for (&found, &exact) in found.iter().zip(exact) {
                let right = bf16::from_f32(exact as f32).to_f64();
                let same = found == right || found.is_nan() && right.is_nan();
                assert!(same, "{level} {name}, tensor {index}: {found}, not {right} ({exact})");
            }
        }
    });
}

fn activations(random: &mut Random, shape: &[usize]) -> Arg {
    Activations(random.tensor::<bf16>(shape))
}

#[test]
fn linear_layers() {
    for (tokens, inputs, outputs) in [(1, 64, 48), (2, 31, 5), (7, 96, 33), (40, 72, 100)] {
        let mut random = Random(tokens as u64);
        for weight in [
            random.tensor::<f32>(&[2 * outputs, inputs]),
            random.tensor::<f16>(&[2 * outputs, inputs]),
            random.tensor::<bf16>(&[2 * outputs, inputs]),
        ] {
            let mut args = vec![activations(&mut random, &[tokens, inputs]), Other(weight)];
            args.extend([Other(random.tensor::<f32>(&[2 * outputs])), int(0), none(), none()]);
            args.extend([float(0.0), float(0.0), activations(&mut random, &[tokens, outputs])]);
            args.extend([Result(vec![tokens, outputs]), int(1), int(1), float(0.5)]);
            check("linear", &args);
        }
    }
}

#[test]
fn experts() {
    let mut random = Random(2);
    let chosen = (0..18).map(|row| if row == 4 { 9.0 } else { f64::from(row % 3) });
    check(
        "expert_linear",
        &[
            activations(&mut random, &[9, 40]),
            Other(random.tensor::<bf16>(&[3, 14, 40])),
            Other(random.tensor::<f32>(&[3, 14])),
            Other(Tensor::new::<i32>(&[9, 2], chosen)),
            Result(vec![18, 7]),
            int(5),
            int(1),
            float(1.7),
            float(0.8),
        ],
    );
    check(
        "combine_experts",
        &[
            activations(&mut random, &[10, 37]),
            Other(random.tensor::<f32>(&[5, 2])),
            activations(&mut random, &[5, 37]),
            Result(vec![5, 37]),
            float(0.5),
        ],
    );
}

#[test]
fn norms() {
    for name in ["rms_norm", "layer_norm"] {
        let mut random = Random(3);
        let shape = [4, 45];
        let mut args = vec![activations(&mut random, &shape), activations(&mut random, &shape)];
        args.extend([Other(random.tensor::<bf16>(&[45])), Other(random.tensor::<f32>(&[45]))]);
        args.extend([Result(shape.to_vec()), Result(shape.to_vec()), float(1e-5), float(1.0)]);
        check(name, &args);
    }
}

#[test]
fn rows() {
    let mut random = Random(4);
    let ids = || Other(Tensor::new::<i32>(&[4], [3.0, 5.0, -1.0, 0.0]));
    let weight = Other(random.tensor::<f16>(&[5, 21]));
    let args = [ids(), weight, none(), none(), Result(vec![4, 21]), float(1.5)];
    check("embedding", &args);
    check("gather_rows", &[activations(&mut random, &[5, 21]), ids(), Result(vec![4, 21])]);
    let [x, y] = [0, 1].map(|_| activations(&mut random, &[5, 21]));
    check("add", &[x, y, Result(vec![5, 21]), float(0.75)]);
    let x = activations(&mut random, &[5, 21]);
    check("activation", &[x, Result(vec![5, 21]), int(2)]);
    let x = activations(&mut random, &[5, 21]);
    check("soft_cap", &[x, Result(vec![5, 21]), float(0.5)]);
}

const PAGE: usize = 16;

/// Block tables, positions and sequences of `tokens` tokens at the end of one sequence.
fn places(tokens: usize, length: usize) -> [Tensor; 3] {
    let pages = length.div_ceil(PAGE);
    [
        Tensor::new::<i32>(&[1, pages], (0..pages).rev().map(|page| page as f64)),
        Tensor::new::<i32>(&[tokens], (length - tokens..length).map(|position| position as f64)),
        Tensor::new::<i32>(&[tokens], vec![0.0; tokens]),
    ]
}

#[test]
fn attention() {
    for (tokens, length, window) in [(1, 300usize, 0), (9, 400, 0), (70, 70, 20)] {
        let mut random = Random(length as u64);
        let cache = [length.div_ceil(PAGE), 2, PAGE, 40];
        let [tables, positions, sequences] = places(tokens, length);
        let mut args = vec![activations(&mut random, &[tokens, 6, 40])];
        args.extend([activations(&mut random, &cache), activations(&mut random, &cache)]);
        args.extend([tables, positions, sequences].map(Other));
        let sinks = Other(random.tensor::<f32>(&[6]));
        args.extend([
            Result(vec![tokens, 240]),
            float(0.3),
            int(window),
            float(5.0),
            sinks,
            int(-1),
        ]);
        check("attention", &args);
    }
}

#[test]
fn keys_and_values_are_appended() {
    let (tokens, heads, kv_heads, dim) = (5, 4, 2, 24);
    for norm in [0, 1] {
        let mut random = Random(6);
        let [tables, positions, sequences] = places(tokens, 20);
        let mut args = vec![activations(&mut random, &[tokens, (heads + 2 * kv_heads) * dim])];
        args.push(Other(random.tensor::<f32>(&[tokens, 2, dim / 2])));
        args.extend([positions, sequences, tables].map(Other));
        let cache = [2, kv_heads, PAGE, dim];
        args.extend([activations(&mut random, &cache), activations(&mut random, &cache)]);
        for _ in 0..2 {
            args.extend([int(norm), Other(random.tensor::<bf16>(&[dim])), none()]);
            args.extend([float(1e-6), float(0.0)]);
        }
        args.extend([Result(vec![tokens, heads, dim]), int(heads as i64), int(0)]);
        check("append_kv", &args);
    }
}

#[test]
fn caches_of_two_types_are_refused() {
    let mut random = Random(7);
    let [tables, positions, sequences] = places(1, 1);
    let q = random.tensor::<bf16>(&[1, 2, 8]);
    let k_cache = random.tensor::<bf16>(&[1, 2, PAGE, 8]);
    let v_cache = random.tensor::<f32>(&[1, 2, PAGE, 8]);
    let out = Tensor::empty::<bf16>(&[1, 16]);
    let tensors = [&q, &k_cache, &v_cache, &tables, &positions, &sequences, &out];
    let mut args = tensors.map(Tensor::arg).to_vec();
    args.extend([ArgValue::Float(1.0), ArgValue::Int(0), ArgValue::Float(0.0), ArgValue::None]);
    args.push(ArgValue::Int(-1));
    let reason = refusal("attention", &args);
    assert!(reason.ends_with("expected bfloat16, the dtype of k_cache, found float32"), "{reason}");
}
