//! `linear` in all its variants.

use super::super::activation::Activation;
use super::super::simd::{Level, at_each_level, normal64};
use super::*;

pub(super) fn activation64(activation: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::Identity => x,
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu => x * normal64(x),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        }
        Activation::GeluQuick => x * sigmoid(1.702 * x),
        Activation::Relu => x.max(0.0),
        Activation::ReluSquared => x.max(0.0).powi(2),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => sigmoid(x),
    }
}

/// A launch of `linear`; what isn't set is absent.
struct Case {
    x: Tensor,
    weight: Tensor,
    bias: Option<Tensor>,
    norm: i64,
    norm_weight: Option<Tensor>,
    norm_bias: Option<Tensor>,
    residual: Option<Tensor>,
    activation: Activation,
    gated: bool,
    scale: f64,
    /// Whether normalised activations are expected to be rounded to bfloat16.
    rounds: bool,
}

const EPS: f64 = 1e-5;
const OFFSET: f64 = 1.0;

fn optional(tensor: &Option<Tensor>) -> ArgValue {
    tensor.as_ref().map_or(ArgValue::None, Tensor::arg)
}

impl Case {
    fn plain(x: Tensor, weight: Tensor) -> Case {
        Case {
            x,
            weight,
            bias: None,
            norm: 0,
            norm_weight: None,
            norm_bias: None,
            residual: None,
            activation: Activation::Identity,
            gated: false,
            scale: 1.0,
            rounds: false,
        }
    }

    fn random<W: Value>(random: &mut Random, tokens: usize, inputs: usize, outputs: usize) -> Case {
        let gated = random.below(2) == 1;
        let rows = if gated { 2 * outputs } else { outputs };
        let weight = random.tensor::<W>(&[rows, inputs]);
        let mut case = Case::plain(random.tensor::<f32>(&[tokens, inputs]), weight);
        case.gated = gated;
        case.activation = Activation::ALL[random.below(Activation::ALL.len())];
        case.scale = if random.below(2) == 1 { 0.75 } else { 1.0 };
        case.norm = random.below(3) as i64;
        let mut maybe = |shape: &[usize]| match random.below(3) {
            0 => None,
            1 => Some(random.tensor::<W>(shape)),
            _ => Some(random.tensor::<f32>(shape)),
        };
        case.bias = maybe(&[rows]);
        if case.norm > 0 {
            case.norm_weight = maybe(&[inputs]);
            case.norm_bias = maybe(&[inputs]);
        }
        case.residual = (random.below(2) == 1).then(|| random.tensor::<f32>(&[tokens, outputs]));
        case
    }

    fn outputs(&self) -> usize {
        self.weight.shape[0] / if self.gated { 2 } else { 1 }
    }

    fn args(&self, out: &Tensor) -> Vec<ArgValue> {
        vec![
            self.x.arg(),
            self.weight.arg(),
            optional(&self.bias),
            ArgValue::Int(self.norm),
            optional(&self.norm_weight),
            optional(&self.norm_bias),
            ArgValue::Float(EPS),
            ArgValue::Float(OFFSET),
            optional(&self.residual),
            out.arg(),
            ArgValue::Int(self.activation as i64),
            ArgValue::Int(i64::from(self.gated)),
            ArgValue::Float(self.scale),
        ]
    }

    fn run(&self) -> Tensor {
        let out = Tensor::empty::<f32>(&[self.x.shape[0], self.outputs()]);
        launch("linear", &self.args(&out)).unwrap();
        out
    }

    /// The launch of one token alone.
    fn token(&self, token: usize) -> Tensor {
        let row = |tensor: &Tensor| {
            let width = tensor.shape[1];
            let values = any_values(tensor);
            let row = values[token * width..][..width].iter().copied();
            match tensor.dtype {
                DType::F32 => Tensor::new::<f32>(&[1, width], row),
                _ => Tensor::new::<bf16>(&[1, width], row),
            }
        };
        let out = Tensor::empty::<f32>(&[1, self.outputs()]);
        let (x, residual) = (row(&self.x), self.residual.as_ref().map(row));
        let mut args = self.args(&out);
        args[0] = x.arg();
        args[8] = optional(&residual);
        launch("linear", &args).unwrap();
        out
    }

    fn expected(&self) -> Vec<f64> {
        let (tokens, inputs) = (self.x.shape[0], self.x.shape[1]);
        let weight = any_values(&self.weight);
        let bias = self.bias.as_ref().map(any_values);
        let residual = self.residual.as_ref().map(any_values);
        let x = any_values(&self.x);
        let mut out = Vec::new();
        for token in 0..tokens {
            let mut row = super::norm::norm64(
                &x[token * inputs..][..inputs],
                self.norm,
                self.norm_weight.as_ref().map(any_values).as_deref(),
                self.norm_bias.as_ref().map(any_values).as_deref(),
                EPS,
                OFFSET,
            );
            if self.rounds {
                row.iter_mut().for_each(|x| *x = bf16::from_f64(*x).to_f64());
            }
            let y = |n: usize| {
                let w = &weight[n * inputs..][..inputs];
                let dot: f64 = w.iter().zip(&row).map(|(w, x)| w * x).sum();
                dot + bias.as_ref().map_or(0.0, |bias| bias[n])
            };
            for n in 0..self.outputs() {
                let mut value = activation64(self.activation, y(n));
                if self.gated {
                    value *= y(self.outputs() + n);
                }
                let residual = residual.as_ref().map_or(0.0, |r| r[token * self.outputs() + n]);
                out.push(residual + self.scale * value);
            }
        }
        out
    }
}

const SHAPES: [(usize, usize, usize); 12] = [
    (1, 64, 32),
    (1, 1, 1),
    (2, 31, 5),
    (3, 33, 17),
    (4, 100, 70),
    (5, 48, 33),
    (6, 257, 3),
    (7, 16, 64),
    (9, 65, 100),
    (17, 40, 48),
    (33, 96, 31),
    (130, 72, 96),
];

/// What a result may be off, relative to the largest: AMX takes activations as two bfloat16 numbers,
/// which leaves up to 2^-17 of each, and gates multiply what is left by numbers beyond the largest.
fn tolerance(level: Level, weights: DType) -> f64 {
    if matches!(level, Level::Avx512Bf16 | Level::Amx) && weights == DType::BF16 {
        1e-4
    } else {
        1e-5
    }
}

/// What a result may be off where activations are rounded behind a norm: those in the middle between
/// two bfloat16 numbers may be either.
const ROUNDED: f64 = 4e-3;

fn check_type<X: Value, W: Value>(level: Level) {
    let bfloat16 = matches!(level, Level::Avx512Bf16 | Level::Amx) && W::DTYPE == DType::BF16;
    let rounds = bfloat16 && X::DTYPE == DType::BF16;
    let tolerance = if rounds { ROUNDED } else { tolerance(level, W::DTYPE) };
    for (seed, (tokens, inputs, outputs)) in SHAPES.into_iter().enumerate() {
        for variant in 0..4 {
            let mut random = Random((seed * 10 + variant) as u64);
            let mut case = Case::random::<W>(&mut random, tokens, inputs, outputs);
            case.x = case.x.cast::<X>();
            case.rounds = rounds;
            case.residual = case.residual.map(|residual| residual.cast::<X>());
            let out = case.run();
            let types = format!("{} {}", X::DTYPE, W::DTYPE);
            let context = format!("{level} {types} {tokens}x{inputs}x{outputs} #{variant}");
            assert_close(&out.values::<f32>(), &case.expected(), tolerance, &context);
            let token = random.below(tokens);
            let alone = case.token(token).bits();
            let outputs = case.outputs();
            assert_eq!(alone, out.bits()[token * outputs..][..outputs], "{context}: row {token}");
        }
    }
}

#[test]
fn linear_is_right_and_a_row_does_not_depend_on_others() {
    at_each_level(|level| {
        check_type::<f32, f32>(level);
        check_type::<f32, f16>(level);
        check_type::<f32, bf16>(level);
        check_type::<bf16, f32>(level);
        check_type::<bf16, bf16>(level);
    });
}

#[test]
fn blocks_give_the_bits_of_their_numbers_in_float32() {
    at_each_level(|level| {
        for dtype in BLOCKS {
            for (seed, (tokens, inputs, outputs)) in SHAPES.into_iter().enumerate() {
                let inputs = inputs.next_multiple_of(dtype.block_elements());
                let mut random = Random(seed as u64);
                let mut case = Case::random::<f32>(&mut random, tokens, inputs, outputs);
                case.weight = Tensor::blocks(&mut random, dtype, &case.weight.shape.clone());
                let out = case.run();
                let context = format!("{level} {dtype} {tokens}x{inputs}x{outputs}");
                assert_close(&out.values::<f32>(), &case.expected(), 1e-5, &context);
                let token = random.below(tokens);
                let alone = case.token(token).bits();
                let outputs = case.outputs();
                assert_eq!(alone, out.bits()[token * outputs..][..outputs], "{context}: {token}");
                case.weight = case.weight.cast::<f32>();
                assert_eq!(out.bits(), case.run().bits(), "{context}");
            }
        }
    });
}

#[test]
fn the_error_is_that_of_float32_sums() {
    at_each_level(|level| {
        let mut random = Random(5);
        let case =
            Case::plain(random.tensor::<f32>(&[19, 1536]), random.tensor::<bf16>(&[64, 1536]));
        let (found, expected) = (case.run().values::<f32>(), case.expected());
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
        let error = square(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
        let relative = (error / square(&mut expected.iter().copied())).sqrt();
        assert!(relative < 4e-6, "{level}: {relative:e}");
    });
}

#[test]
fn out_may_be_the_residual_and_there_may_be_no_tokens() {
    at_each_level(|level| {
        let mut random = Random(3);
        let mut case =
            Case::plain(random.tensor::<f32>(&[3, 40]), random.tensor::<bf16>(&[21, 40]));
        case.residual = Some(random.tensor::<f32>(&[3, 21]));
        let expected = case.run();
        let residual = case.residual.as_ref().unwrap();
        launch("linear", &case.args(residual)).unwrap();
        assert_eq!(residual.bits(), expected.bits(), "{level}");
        for shape in [(0, 8, 4), (2, 0, 4), (2, 8, 0)] {
            let (tokens, inputs, outputs) = shape;
            let x = random.tensor::<f32>(&[tokens, inputs]);
            let case = Case::plain(x, random.tensor::<bf16>(&[outputs, inputs]));
            assert_eq!(case.run().values::<f32>(), vec![0.0; tokens * outputs]);
        }
    });
}

#[test]
fn shapes_that_do_not_fit_are_refused_by_name() {
    let mut random = Random(2);
    let mut case = Case::plain(random.tensor::<f32>(&[2, 8]), random.tensor::<f32>(&[4, 7]));
    let out = Tensor::empty::<f32>(&[2, 4]);
    let reason = refusal("linear", &case.args(&out));
    assert_eq!(reason, "kernel linear, argument weight: expected shape [4, 8], found [4, 7]");
    case.weight = random.tensor::<f32>(&[4, 8]);
    case.bias = Some(random.tensor::<f32>(&[3]));
    let reason = refusal("linear", &case.args(&out));
    assert_eq!(reason, "kernel linear, argument bias: expected shape [4], found [3]");
    case.bias = None;
    let mut args = case.args(&out);
    args[10] = ArgValue::Int(99);
    assert!(refusal("linear", &args).contains("argument activation: expected an activation"));
    args[10] = ArgValue::Int(0);
    args[3] = ArgValue::Int(7);
    assert!(refusal("linear", &args).contains("argument norm: expected 0 (none)"));
}
