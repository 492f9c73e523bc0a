//! Every instruction set of this CPU against plain arithmetic.

use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::dtype::DType;

/// A function of one vector, applied to a whole slice.
trait Map {
    fn map<S: Simd>(&self, simd: S, x: S::Vector) -> S::Vector;
}

struct Apply<'a, M>(&'a M, &'a [f32]);

impl<M: Map> WithSimd for Apply<'_, M> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<f32> {
        let mut result = vec![0.0; self.1.len()];
        for_each_vector!(S, self.1.len(), |start, count| {
            // SAFETY: the vector lies within both slices.
            unsafe {
                let x = simd.load_some(self.1.as_ptr().add(start), count);
                simd.store_some(result.as_mut_ptr().add(start), self.0.map(simd, x), count);
            }
        });
        result
    }
}

/// Asserts `map` against `expected` on `inputs` for every level; `tolerance` is relative to the
/// larger of 1 · `floor` and the value.
fn assert_close(
    map: &impl Map,
    expected: impl Fn(f64) -> f64,
    inputs: &[f32],
    floor: f64,
    tolerance: f64,
) {
    for level in Level::available() {
        for (&input, result) in inputs.iter().zip(dispatch_at(level, Apply(map, inputs))) {
            let right = expected(f64::from(input));
            let error = (f64::from(result) - right).abs() / right.abs().max(floor);
            assert!(error <= tolerance, "{level}: f({input}) = {result}, not {right}");
        }
    }
}

fn grid(from: f32, to: f32) -> Vec<f32> {
    let steps = 20_011;
    (0..=steps).map(|i| from + (to - from) * i as f32 / steps as f32).collect()
}

macro_rules! map {
    ($name:ident, |$simd:ident, $x:ident| $body:expr) => {
        struct $name;
        impl Map for $name {
            #[inline(always)]
            fn map<S: Simd>(&self, $simd: S, $x: S::Vector) -> S::Vector {
                $body
            }
        }
    };
}

map!(Exp, |simd, x| math::exp(simd, x));
map!(Tanh, |simd, x| math::tanh(simd, x));
map!(NormalTail, |simd, x| math::normal_tail(simd, x));
map!(Sigmoid, |simd, x| math::sigmoid(simd, x));
map!(Round, |simd, x| simd.round(x));

/// Φ(x), the standard normal distribution, with all the precision of float64 also far below 0: by a
/// series whose terms are all positive near 0 (Abramowitz & Stegun 26.2.11), by the continued
/// fraction 26.2.14 elsewhere.
pub(crate) fn normal64(x: f64) -> f64 {
    let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if x.abs() < 2.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 0.5 + density * sum;
    }
    let fraction = (1..200).rev().fold(x.abs(), |f, n| x.abs() + f64::from(n) / f);
    let tail = density / fraction;
    if x < 0.0 { tail } else { 1.0 - tail }
}

#[test]
fn elementary_functions_are_accurate() {
    assert_close(&Exp, f64::exp, &grid(-86.5, 88.7), 1e-37, 2.5e-7);
    assert_close(&Tanh, f64::tanh, &grid(-12.0, 12.0), 1e-30, 5e-7);
    assert_close(&Tanh, f64::tanh, &[1e-6, -1e-3, 0.0, 0.5], 1e-30, 3e-7);
    assert_close(&NormalTail, |x| normal64(-x), &grid(0.0, 4.0), 1e-30, 1e-6);
    assert_close(&NormalTail, |x| normal64(-x), &grid(4.0, 12.5), 1e-37, 1e-5);
    assert_close(&Sigmoid, |x| 1.0 / (1.0 + (-x).exp()), &grid(-80.0, 80.0), 1e-37, 3e-7);
    assert_close(&Round, f64::round_ties_even, &[0.5, 1.5, -2.5, 3.49, 1e6, -8.4e6], 1.0, 0.0);
}

#[test]
fn special_values_pass_through() {
    let inputs = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, -1e30, 1e30];
    for level in Level::available() {
        let exp = dispatch_at(level, Apply(&Exp, &inputs));
        assert_eq!((exp[0], exp[1], exp[3], exp[4]), (0.0, f32::INFINITY, 0.0, f32::INFINITY));
        let tanh = dispatch_at(level, Apply(&Tanh, &inputs));
        assert!((tanh[0] + 1.0).abs() < 1e-6 && (tanh[1] - 1.0).abs() < 1e-6, "{level}");
        assert!(exp[2].is_nan() && tanh[2].is_nan(), "{level}");
    }
}

struct Load<'a, E>(&'a [E]);

impl<E: Element> WithSimd for Load<'_, E> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<f32> {
        let mut result = vec![0.0; self.0.len()];
        for_each_vector!(S, self.0.len(), |start, count| {
            // SAFETY: the vector lies within both slices.
            unsafe {
                let x = simd.load_some(self.0.as_ptr().add(start), count);
                simd.store_some(result.as_mut_ptr().add(start), x, count);
            }
        });
        result
    }
}

#[test]
fn every_16_bit_number_converts_exactly() {
    let bits = || (0..=u16::MAX).chain(0..7);
    let halves: Vec<f16> = bits().map(f16::from_bits).collect();
    let brains: Vec<bf16> = bits().map(bf16::from_bits).collect();
    for level in Level::available() {
        for (half, value) in halves.iter().zip(dispatch_at(level, Load(&halves))) {
            assert!(value == half.to_f32() || value.is_nan() && half.is_nan(), "{level}: {half}");
        }
        for (brain, value) in brains.iter().zip(dispatch_at(level, Load(&brains))) {
            assert!(value == brain.to_f32() || value.is_nan() && brain.is_nan(), "{level}");
        }
    }
}

struct Narrow<'a>(&'a [f32]);

impl WithSimd for Narrow<'_> {
    type Output = Vec<bf16>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<bf16> {
        let mut result = vec![bf16::ZERO; self.0.len()];
        let target = Numbers::new(result.as_mut_ptr().cast(), DType::BF16);
        // SAFETY: both have as many numbers.
        unsafe { Numbers::from(self.0.as_ptr().cast_mut()).copy(simd, target, self.0.len()) };
        result
    }
}

#[test]
fn float32_rounds_to_the_nearest_bfloat16() {
    // Every bfloat16 number, and what is just below, at and just above the middle to the next.
    let floats: Vec<f32> = (0..=u16::MAX)
        .flat_map(|high| [0, 1, 0x7fff, 0x8000, 0x8001].map(|low| u32::from(high) << 16 | low))
        .map(f32::from_bits)
        .collect();
    for level in Level::available() {
        for (float, found) in floats.iter().zip(dispatch_at(level, Narrow(&floats))) {
            let right = bf16::from_f32(*float);
            let same = found.to_bits() == right.to_bits() || found.is_nan() && right.is_nan();
            assert!(same, "{level}: {float:e} became {found}, not {right}");
        }
    }
}

struct Reduce<'a>(&'a [[f32; MAX_LANES]]);

impl WithSimd for Reduce<'_> {
    type Output = (Vec<f32>, Vec<f32>, f32);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        // SAFETY: each row holds at least `LANES` numbers.
        let load = |row: usize| unsafe { simd.load(self.0[row].as_ptr()) };
        let together = simd.sums([load(0), load(1), load(2), load(3)]);
        let alone = (0..4).map(|row| simd.sum(load(row))).collect();
        (together.to_vec(), alone, simd.largest(load(0)))
    }
}

proptest! {
    #[test]
    fn sums_together_have_the_bits_of_sums_alone(
        rows in prop::array::uniform4(prop::array::uniform16(-1e3f32..1e3))
    ) {
        for level in Level::available() {
            let (together, alone, largest) = dispatch_at(level, Reduce(&rows));
            prop_assert_eq!(together, alone);
            prop_assert!(rows[0].contains(&largest));
        }
    }

    #[test]
    fn partial_vectors_touch_nothing_else(count in 0usize..40) {
        for level in Level::available() {
            let inputs = vec![2.0; count];
            prop_assert_eq!(dispatch_at(level, Narrow(&inputs)), vec![bf16::from_f32(2.0); count]);
            prop_assert_eq!(dispatch_at(level, Load(&inputs)), inputs);
        }
    }
}
