//! `rms_norm`, `layer_norm`, `activation` and `soft_cap`.

use super::super::activation::Activation;
use super::super::simd::at_each_level;
use super::linear::activation64;
use super::*;

/// A row normalised in float64; kind 0 is none, 1 RMS, 2 layer.
pub(super) fn norm64(
    x: &[f64],
    kind: i64,
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
    eps: f64,
    offset: f64,
) -> Vec<f64> {
    if kind == 0 {
        return x.to_vec();
    }
    let length = x.len() as f64;
    let mean = if kind == 2 { x.iter().sum::<f64>() / length } else { 0.0 };
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / length;
    let normalised = x.iter().map(|x| (x - mean) / (variance + eps).sqrt());
    normalised
        .enumerate()
        .map(|(i, y)| y * weight.map_or(1.0, |w| w[i] + offset) + bias.map_or(0.0, |b| b[i]))
        .collect()
}

#[test]
fn norms_are_right() {
    at_each_level(|level| {
        for (seed, (tokens, columns)) in
            [(1, 1), (3, 7), (5, 16), (2, 33), (40, 576)].into_iter().enumerate()
        {
            for (name, kind) in [("rms_norm", 1), ("layer_norm", 2)] {
                let mut random = Random(seed as u64);
                let x = random.tensor::<f32>(&[tokens, columns]);
                let residual = random.tensor::<f32>(&[tokens, columns]);
                let weight = random.tensor::<bf16>(&[columns]);
                let bias = random.tensor::<f16>(&[columns]);
                let (out, sum) = (Tensor::empty::<f32>(&x.shape), Tensor::empty::<f32>(&x.shape));
                let args = [
                    x.arg(),
                    residual.arg(),
                    weight.arg(),
                    bias.arg(),
                    sum.arg(),
                    out.arg(),
                    ArgValue::Float(1e-5),
                    ArgValue::Float(1.0),
                ];
                launch(name, &args).unwrap();
                let both = x.read::<f32>().into_iter().zip(residual.read::<f32>());
                let h: Vec<f64> = both.map(|(x, y)| f64::from(x + y)).collect();
                assert_eq!(sum.values::<f32>(), h);
                let (weight, bias) = (any_values(&weight), any_values(&bias));
                let expected: Vec<f64> = h
                    .chunks(columns)
                    .flat_map(|row| norm64(row, kind, Some(&weight), Some(&bias), 1e-5, 1.0))
                    .collect();
                let context = format!("{level} {name} {tokens}x{columns}");
                assert_close(&out.values::<f32>(), &expected, 2e-6, &context);
            }
        }
    });
}

#[test]
fn layer_norm_keeps_its_precision_far_from_zero() {
    at_each_level(|level| {
        let mut random = Random(9);
        let values: Vec<f64> = (0..500).map(|_| 1000.0 + random.number()).collect();
        let x = Tensor::new::<f32>(&[1, 500], values);
        let (out, none) = (Tensor::empty::<f32>(&[1, 500]), ArgValue::None);
        let args = [
            x.arg(),
            none.clone(),
            none.clone(),
            none.clone(),
            none,
            out.arg(),
            ArgValue::Float(1e-5),
            ArgValue::Float(0.0),
        ];
        launch("layer_norm", &args).unwrap();
        let expected = norm64(&x.values::<f32>(), 2, None, None, 1e-5, 0.0);
        assert_close(&out.values::<f32>(), &expected, 2e-4, level.name());
    });
}

#[test]
fn a_sum_needs_a_residual_and_shapes_must_fit() {
    let x = Random(0).tensor::<f32>(&[2, 5]);
    let (out, short) = (Tensor::empty::<f32>(&[2, 5]), Tensor::empty::<f32>(&[4]));
    let mut args = vec![ArgValue::None; 6];
    args.extend([ArgValue::Float(1e-5), ArgValue::Float(0.0)]);
    (args[0], args[4], args[5]) = (x.arg(), out.arg(), out.arg());
    assert!(refusal("rms_norm", &args).contains("argument sum: expected None"));
    (args[4], args[2]) = (ArgValue::None, short.arg());
    assert!(refusal("rms_norm", &args).contains("argument weight: expected shape [5], found [4]"));
}

#[test]
fn activations_and_soft_cap_are_right_and_work_in_place() {
    at_each_level(|level| {
        for activation in Activation::ALL {
            let values: Vec<f64> = (0..90).map(|i| f64::from(i as f32) / 4.0 - 11.0).collect();
            let x = Tensor::new::<f32>(&[6, 15], values.iter().copied());
            let args = [x.arg(), x.arg(), ArgValue::Int(activation as i64)];
            launch("activation", &args).unwrap();
            let expected: Vec<f64> =
                values.iter().map(|&value| activation64(activation, value)).collect();
            let found = x.values::<f32>();
            for (found, expected) in found.iter().zip(&expected) {
                let error = (found - expected).abs() / expected.abs().max(1.0);
                assert!(error < 5e-7, "{level} {activation:?}: {found} {expected}");
            }
        }
        let x = Tensor::new::<f32>(&[1, 19], (0..19).map(|i| f64::from(i) * 10.0 - 90.0));
        let out = Tensor::empty::<f32>(&[1, 19]);
        launch("soft_cap", &[x.arg(), out.arg(), ArgValue::Float(30.0)]).unwrap();
        let expected: Vec<f64> =
            x.values::<f32>().iter().map(|x| 30.0 * (x / 30.0).tanh()).collect();
        assert_close(&out.values::<f32>(), &expected, 1e-6, level.name());
        let args = [x.arg(), out.arg(), ArgValue::Float(0.0)];
        assert!(refusal("soft_cap", &args).contains("argument cap: expected a positive number"));
    });
}
