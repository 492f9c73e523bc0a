//! `route`, `expert_linear` and `combine_experts`.

use super::super::simd::at_each_level;
use super::*;

const EXPERTS: usize = 5;
const CHOICES: usize = 2;

#[test]
fn each_row_goes_through_its_expert_at_every_level() {
    at_each_level(|level| {
        for (tokens, inputs, outputs) in [(1, 40, 7), (19, 33, 20)] {
            let mut random = Random(11);
            let x = random.tensor::<f32>(&[tokens, inputs]);
            let weight = random.tensor::<bf16>(&[EXPERTS, 2 * outputs, inputs]);
            let chosen: Vec<usize> = (0..tokens * CHOICES).map(|_| random.below(EXPERTS)).collect();
            let experts =
                Tensor::new::<i32>(&[tokens, CHOICES], chosen.iter().map(|&expert| expert as f64));
            let out = Tensor::empty::<f32>(&[tokens * CHOICES, outputs]);
            let mut args = vec![x.arg(), weight.arg(), experts.arg(), out.arg()];
            args.extend([ArgValue::Int(5), ArgValue::Int(1)]);
            launch("expert_linear", &args).unwrap();
            let (x, weight) = (x.values::<f32>(), weight.values::<bf16>());
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
            assert_close(&out.values::<f32>(), &expected, 1e-4, &format!("{level:?}"));
        }
    });
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
