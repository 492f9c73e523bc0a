//! `route`, `expert_linear` and `combine_experts`.

use super::super::simd::at_each_level;
use super::*;

const EXPERTS: usize = 5;
const CHOICES: usize = 2;

#[test]
fn each_row_goes_through_its_expert_at_every_level() {
    at_each_level(|level| {
        let cases = [
            (1, 40, 7, DType::BF16),
            (19, 33, 20, DType::BF16),
            (1, 64, 7, DType::Q4_1),
            (19, 96, 20, DType::Q8_0),
        ];
        for (tokens, inputs, outputs, dtype) in cases {
            let mut random = Random(11);
            let x = random.tensor::<f32>(&[tokens, inputs]);
            let shape = [EXPERTS, 2 * outputs, inputs];
            let weight = match dtype {
                DType::BF16 => random.tensor::<bf16>(&shape),
                _ => Tensor::blocks(&mut random, dtype, &shape),
            };
            let chosen: Vec<usize> = (0..tokens * CHOICES).map(|_| random.below(EXPERTS)).collect();
            let experts =
                Tensor::new::<i32>(&[tokens, CHOICES], chosen.iter().map(|&expert| expert as f64));
            let out = Tensor::empty::<f32>(&[tokens * CHOICES, outputs]);
            let mut args = vec![x.arg(), weight.arg(), ArgValue::None, experts.arg(), out.arg()];
            args.extend([ArgValue::Int(5), ArgValue::Int(1)]);
            args.extend([ArgValue::Float(0.0), ArgValue::Float(0.0)]);
            launch("expert_linear", &args).unwrap();
            let (x, weight) = (x.values::<f32>(), any_values(&weight));
            let dot = |token: usize, row: usize| -> f64 {
                let (x, w) = (&x[token * inputs..][..inputs], &weight[row * inputs..][..inputs]);
                x.iter().zip(w).map(|(x, w)| x * w).sum()
            };
            let expected: Vec<f64> = (0..tokens * CHOICES * outputs)
                .map(|index| {
                    let (row, column) = (index / outputs, index % outputs);
                    let first = chosen[row] * 2 * outputs + column;
                    dot(row / CHOICES, first).max(0.0) * dot(row / CHOICES, first + outputs)
                })
                .collect();
            assert_close(&out.values::<f32>(), &expected, 1e-4, &format!("{level} {dtype}"));
        }
    });
}

/// One token of one expert, whose sums are its input times 1 and times 2: (gate, other).
fn clamped(x: f64, bias: [f64; 2]) -> f64 {
    let (x, bias) = (Tensor::new::<f32>(&[1, 1], [x]), Tensor::new::<f32>(&[1, 2], bias));
    let weight = Tensor::new::<f32>(&[1, 2, 1], [1.0, 2.0]);
    let (experts, out) = (Tensor::new::<i32>(&[1, 1], [0.0]), Tensor::empty::<f32>(&[1, 1]));
    let mut args = vec![x.arg(), weight.arg(), bias.arg(), experts.arg(), out.arg()];
    args.extend([ArgValue::Int(0), ArgValue::Int(1)]);
    args.extend([ArgValue::Float(1.702), ArgValue::Float(7.0)]);
    launch("expert_linear", &args).unwrap();
    out.values::<f32>()[0]
}

#[test]
fn a_clamped_swiglu_keeps_gate_and_other_within_its_limit() {
    at_each_level(|level| {
        for (x, bias) in [
            (1.0_f64, [0.5_f64, -0.25]),
            (9.0, [0.0, 0.0]),
            (-9.0, [1.0, 2.0]),
            (-40.0, [39.0, 0.0]),
        ] {
            let gate = (x + bias[0]).min(7.0);
            let other = (2.0 * x + bias[1]).clamp(-7.0, 7.0);
            let expected = gate / (1.0 + (-1.702 * gate).exp()) * (other + 1.0);
            assert_close(&[clamped(x, bias)], &[expected], 1e-6, &format!("{level:?} {x}"));
        }
        assert!(clamped(f64::NAN, [0.0; 2]).is_nan());
    });
}

#[test]
fn an_activation_is_clamped_only_where_it_is_gated() {
    let one = Tensor::new::<f32>(&[1, 1, 1], [1.0]);
    let (x, experts) = (Tensor::new::<f32>(&[1, 1], [1.0]), Tensor::new::<i32>(&[1, 1], [0.0]));
    let out = Tensor::empty::<f32>(&[1, 1]);
    let mut args = vec![x.arg(), one.arg(), ArgValue::None, experts.arg(), out.arg()];
    args.extend([ArgValue::Int(0), ArgValue::Int(0), ArgValue::Float(1.0), ArgValue::Float(7.0)]);
    let reason = refusal("expert_linear", &args);
    assert!(reason.contains("argument limit: expected 0, no limit"), "{reason}");
}

#[test]
fn routes_are_the_largest_of_the_softmax() {
    let logits = Tensor::new::<f32>(&[2, 4], [0.0, 2.0, 1.0, 2.0, -1.0, -3.0, -2.0, -4.0]);
    let weights = Tensor::empty::<f32>(&[2, 2]);
    let experts = Tensor::new::<i32>(&[2, 2], [9.0; 4]);
    let args = [logits.arg(), weights.arg(), experts.arg(), ArgValue::Int(1)];
    launch("route", &args).unwrap();
    assert_eq!(experts.read::<i32>(), [1, 3, 0, 2]);
    let second = 1.0 / (1.0 + (-1.0f64).exp());
    assert_close(&weights.values::<f32>(), &[0.5, 0.5, second, 1.0 - second], 1e-6, "weights");
}
