//! `argmax`, `penalize`, `sample`, `top_logprobs`, `advance`.

use std::collections::BTreeMap;

use super::super::simd::at_each_level;
use super::*;

fn ints(values: &[i32]) -> Tensor {
    Tensor::new::<i32>(&[values.len()], values.iter().map(|&value| f64::from(value)))
}

fn floats(values: &[f32]) -> Tensor {
    Tensor::new::<f32>(&[values.len()], values.iter().map(|&value| f64::from(value)))
}

fn matrix(rows: &[Vec<f32>]) -> Tensor {
    let values = rows.iter().flatten().map(|&value| f64::from(value));
    Tensor::new::<f32>(&[rows.len(), rows[0].len()], values)
}

fn argmax(logits: &Tensor) -> Vec<i32> {
    let out = Tensor::empty::<i32>(&[logits.shape[0]]);
    launch("argmax", &[logits.arg(), out.arg()]).unwrap();
    out.read::<i32>()
}

#[test]
fn argmax_takes_the_first_of_equals_and_refuses_unsound_rows() {
    at_each_level(|level| {
        for length in [1, 7, 16, 50, 1000] {
            for place in [0, length / 2, length - 1] {
                let mut rows = vec![vec![-5.0; length]; 6];
                (rows[0][place], rows[0][length - 1]) = (3.0, 3.0);
                rows[1][place] = f32::NAN;
                rows[2][place] = f32::INFINITY;
                rows[3] = vec![f32::NEG_INFINITY; length];
                rows[4] = vec![f32::NEG_INFINITY; length];
                rows[4][place] = -9.0;
                rows[5].fill(-f32::MAX);
                let found = argmax(&matrix(&rows));
                let place = place as i32;
                assert_eq!(found, [place, -1, -1, -1, place, 0], "{level} {length}");
            }
        }
    });
}

#[test]
fn penalties_count_each_token_once_or_as_often_as_generated() {
    let logits = matrix(&[vec![2.0, -2.0, 1.0, 0.5], vec![1.0; 4], vec![4.0; 4]]);
    let history = [1, 0, 2, 2, 3, 0, 0, 0, 0, 0, 0, 99, -1, 1, 1];
    let args = [
        Tensor::new::<i32>(&[3, 5], history.map(f64::from)),
        ints(&[3, 4, 3]),
        ints(&[2, 2, 0]),
        matrix(&[vec![2.0, 0.25, 0.125], vec![1.0, 0.0, 0.0], vec![1.0, 1.0, 0.5]]),
    ];
    let mut values = vec![logits.arg()];
    values.extend(args.iter().map(Tensor::arg));
    launch("penalize", &values).unwrap();
    // Row 0: the prompt is [1, 0], generated [2, 2]; 3 lies past the position.
    let expected = [1.0, -4.0, 0.5 - 0.25 - 0.25, 0.5, 1.0, 1.0, 1.0, 1.0];
    assert_eq!(logits.values::<f32>()[..8], expected);
    // Row 2: everything is generated, and ids outside of the vocabulary are passed over.
    assert_eq!(logits.values::<f32>()[8..], [4.0 - 1.5, 4.0 - 1.5, 4.0, 4.0]);
}

/// Settings of one row.
#[derive(Clone, Copy)]
struct Settings {
    temperature: f32,
    top_k: i32,
    top_p: f32,
    min_p: f32,
}

const OFF: Settings = Settings { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };

/// Samples the same logits once for each position.
fn sample(logits: &[f32], settings: Settings, draws: usize, seed: i64) -> Vec<i32> {
    let args = [
        matrix(&vec![logits.to_vec(); draws]),
        ints(&(0..draws as i32).collect::<Vec<_>>()),
        floats(&vec![settings.temperature; draws]),
        ints(&vec![settings.top_k; draws]),
        floats(&vec![settings.top_p; draws]),
        floats(&vec![settings.min_p; draws]),
        Tensor::new::<i64>(&[draws], vec![seed as f64; draws]),
        Tensor::empty::<i32>(&[draws]),
    ];
    launch("sample", &args.each_ref().map(Tensor::arg)).unwrap();
    args[7].read::<i32>()
}

/// The distribution that transformers' processors leave, in their order.
fn distribution(logits: &[f32], settings: Settings) -> BTreeMap<i32, f64> {
    let mut kept: Vec<(i32, f64)> = logits
        .iter()
        .enumerate()
        .map(|(token, &logit)| (token as i32, f64::from(logit) / f64::from(settings.temperature)))
        .collect();
    kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if settings.top_k > 0 && (settings.top_k as usize) < kept.len() {
        let last = kept[settings.top_k as usize - 1].1;
        kept.retain(|token| token.1 >= last);
    }
    let normalise = |kept: &mut Vec<(i32, f64)>| {
        let total: f64 = kept.iter().map(|token| token.1).sum();
        kept.iter_mut().for_each(|token| token.1 /= total);
    };
    kept.iter_mut().for_each(|token| token.1 = token.1.exp());
    normalise(&mut kept);
    if settings.top_p < 1.0 {
        let mut heavier = 0.0;
        kept.retain(|token| {
            let keep = heavier < f64::from(settings.top_p);
            heavier += token.1;
            keep
        });
        normalise(&mut kept);
    }
    let heaviest = kept[0].1;
    kept.retain(|token| token.1 >= f64::from(settings.min_p) * heaviest);
    normalise(&mut kept);
    kept.into_iter().collect()
}

#[test]
fn draws_follow_the_filtered_distribution() {
    let mut random = Random(21);
    let logits: Vec<f32> = (0..40).map(|_| (random.number() * 3.0) as f32).collect();
    let draws = 4000;
    at_each_level(|level| {
        for settings in [
            OFF,
            Settings { temperature: 0.5, ..OFF },
            Settings { top_k: 5, ..OFF },
            Settings { top_k: 1000, temperature: 2.0, ..OFF },
            Settings { top_p: 0.6, ..OFF },
            Settings { min_p: 0.3, ..OFF },
            Settings { top_k: 12, top_p: 0.8, min_p: 0.2, temperature: 1.5 },
        ] {
            let expected = distribution(&logits, settings);
            let mut counts = BTreeMap::new();
            for token in sample(&logits, settings, draws, 7) {
                *counts.entry(token).or_insert(0u32) += 1;
            }
            for (token, &count) in &counts {
                assert!(expected.contains_key(token), "{level}: token {token} drawn {count} times");
            }
            // Pearson's statistic stays below its mean plus five standard deviations.
            let statistic: f64 = expected
                .iter()
                .map(|(token, p)| {
                    let wanted = p * draws as f64;
                    let count = f64::from(counts.get(token).copied().unwrap_or(0));
                    (count - wanted).powi(2) / wanted
                })
                .sum();
            let freedom = (expected.len() - 1) as f64;
            assert!(statistic < freedom + 5.0 * (2.0 * freedom).sqrt() + 1.0, "{statistic}");
        }
    });
}

#[test]
fn greedy_settings_take_the_first_of_the_best() {
    let mut logits = vec![0.0; 300];
    (logits[40], logits[50]) = (2.0, 2.0);
    for settings in [
        Settings { temperature: 0.0, ..OFF },
        Settings { top_k: 1, ..OFF },
        Settings { top_p: 0.0, ..OFF },
    ] {
        assert_eq!(sample(&logits, settings, 20, 3), vec![40; 20]);
    }
    logits[7] = f32::NAN;
    assert_eq!(sample(&logits, OFF, 2, 3), [-1, -1]);
    assert_eq!(sample(&logits, Settings { temperature: 0.0, ..OFF }, 1, 3), [-1]);
}

#[test]
fn a_draw_depends_on_seed_and_position_only() {
    let logits: Vec<f32> = (0..500).map(|i| (i % 13) as f32 * 0.1).collect();
    let many = sample(&logits, OFF, 64, 5);
    assert_eq!(sample(&logits, OFF, 10, 5), many[..10]);
    assert_ne!(sample(&logits, OFF, 64, 6), many);
    let top = Settings { top_k: 50, top_p: 0.9, ..OFF };
    assert_eq!(sample(&logits, top, 10, 5), sample(&logits, top, 64, 5)[..10]);
}

#[test]
fn log_probabilities_of_own_and_best_tokens() {
    at_each_level(|level| {
        let mut random = Random(2);
        let logits = random.tensor::<f32>(&[3, 700]);
        let ids = ints(&[5, 699, -1]);
        let (values, indices) = (Tensor::empty::<f32>(&[3, 5]), Tensor::empty::<i32>(&[3, 5]));
        launch("top_logprobs", &[&logits, &ids, &values, &indices].map(Tensor::arg)).unwrap();
        let (found, indices) = (values.values::<f32>(), indices.read::<i32>());
        for (row, logits) in logits.values::<f32>().chunks(700).enumerate() {
            let total = logits.iter().map(|x| x.exp()).sum::<f64>().ln();
            let mut order: Vec<usize> = (0..700).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            for (column, &token) in order[..4].iter().enumerate() {
                assert_eq!(indices[row * 5 + column + 1], token as i32, "{level}");
                assert!((found[row * 5 + column + 1] - (logits[token] - total)).abs() < 1e-6);
            }
            match [Some(5), Some(699), None][row] {
                Some(id) => assert!((found[row * 5] - (logits[id] - total)).abs() < 1e-6),
                None => assert!(found[row * 5].is_nan() && indices[row * 5] == -1),
            }
        }
    });
}

#[test]
fn a_step_forward_stays_within_the_history() {
    let args = [
        ints(&[7, 8, 9]),
        Tensor::empty::<i32>(&[3]),
        ints(&[0, 3, -1]),
        Tensor::new::<i32>(&[3, 4], [0.0; 12]),
    ];
    launch("advance", &args.each_ref().map(Tensor::arg)).unwrap();
    assert_eq!(args[1].read::<i32>(), [7, 8, 9]);
    assert_eq!(args[2].read::<i32>(), [1, 4, 0]);
    assert_eq!(args[3].read::<i32>(), [0, 7, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0]);
}
