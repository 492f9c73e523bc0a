//! `rope_angles` and `append_kv`.

use super::super::simd::at_each_level;
use super::norm::norm64;
use super::*;

#[test]
fn angles_are_sines_and_cosines_of_float32_products() {
    let positions = [0.0, 1.0, 4095.0, 131_071.0];
    let inv_freq: Vec<f32> = (0..13).map(|i| 10_000f32.powf(-i as f32 / 13.0)).collect();
    let out = Tensor::empty::<f32>(&[4, 2, 13]);
    let args = [
        Tensor::new::<i32>(&[4], positions),
        Tensor::new::<f32>(&[13], inv_freq.iter().map(|&f| f64::from(f))),
    ];
    launch("rope_angles", &[args[0].arg(), args[1].arg(), out.arg(), ArgValue::Float(1.5)])
        .unwrap();
    let angle = |position: f64, f: f32| f64::from(position as f32 * f);
    let expected: Vec<f64> = positions
        .iter()
        .flat_map(|&p| {
            let cos = inv_freq.iter().map(move |&f| 1.5 * angle(p, f).cos());
            cos.chain(inv_freq.iter().map(move |&f| 1.5 * angle(p, f).sin()))
        })
        .collect();
    assert_close(&out.values::<f32>(), &expected, 2e-7, "angles");
}

struct Case {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    rotated: usize,
    interleaved: bool,
    norms: bool,
}

const PAGE: usize = 3;
/// Sequence and position of a token, and the page and row that they lead to.
type Place = (f64, f64, Option<(usize, usize)>);
const PLACES: [Place; 6] = [
    (0.0, 0.0, Some((4, 0))),
    (0.0, 4.0, Some((1, 1))),
    (1.0, 5.0, Some((0, 2))),
    (1.0, 6.0, None),
    (2.0, 0.0, None),
    (0.0, -1.0, None),
];
const TABLES: [f64; 4] = [4.0, 1.0, -1.0, 0.0];

fn rotate64(head: &mut [f64], cos: &[f64], sin: &[f64], interleaved: bool) {
    let count = cos.len();
    for i in 0..count {
        let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + count) };
        let (x, y) = (head[a], head[b]);
        head[a] = x * cos[i] - y * sin[i];
        head[b] = y * cos[i] + x * sin[i];
    }
}

fn check(case: &Case, level: &str) {
    let mut random = Random(case.dim as u64);
    let (tokens, dim) = (PLACES.len(), case.dim);
    let all_heads = case.heads + 2 * case.kv_heads;
    let qkv = random.tensor::<f32>(&[tokens, all_heads * dim]);
    let angles = random.tensor::<f32>(&[tokens, 2, case.rotated / 2]);
    let cache_shape = [5, case.kv_heads, PAGE, dim];
    let cache = || Tensor::new::<f32>(&cache_shape, vec![7.0; cache_shape.iter().product()]);
    let (k_cache, v_cache) = (cache(), cache());
    let (q_weight, k_weight) = (random.tensor::<bf16>(&[dim]), random.tensor::<f32>(&[dim]));
    let positions = Tensor::new::<i32>(&[tokens], PLACES.map(|(_, position, _)| position));
    let sequences = Tensor::new::<i32>(&[tokens], PLACES.map(|(sequence, _, _)| sequence));
    let tables = Tensor::new::<i32>(&[2, 2], TABLES);
    let out = Tensor::empty::<f32>(&[tokens, case.heads, dim]);
    let norm = |weight: &Tensor| {
        let weight = if case.norms { weight.arg() } else { ArgValue::None };
        let kind = ArgValue::Int(i64::from(case.norms));
        [kind, weight, ArgValue::None, ArgValue::Float(1e-6), ArgValue::Float(0.0)]
    };
    let mut args = vec![qkv.arg()];
    args.push(if case.rotated > 0 { angles.arg() } else { ArgValue::None });
    args.extend([&positions, &sequences, &tables, &k_cache, &v_cache].map(Tensor::arg));
    args.extend(norm(&q_weight));
    args.extend(norm(&k_weight));
    args.push(out.arg());
    let numbers = [case.heads as i64, i64::from(case.interleaved)];
    args.extend(numbers.map(ArgValue::Int));
    launch("append_kv", &args).unwrap();

    let (qkv, angles) = (qkv.values::<f32>(), angles.values::<f32>());
    let half = case.rotated / 2;
    let head = |token: usize, index: usize, weight: Option<Vec<f64>>| {
        let x = &qkv[(token * all_heads + index) * dim..][..dim];
        let Some(weight) = weight else { return x.to_vec() };
        let kind = i64::from(case.norms);
        let mut head = norm64(x, kind, Some(&weight), None, 1e-6, 0.0);
        let angles = &angles[token * 2 * half..][..2 * half];
        rotate64(&mut head, &angles[..half], &angles[half..], case.interleaved);
        head
    };
    let mut expected_q = Vec::new();
    let mut expected_k = vec![7.0; cache_shape.iter().product()];
    let mut expected_v = expected_k.clone();
    for (token, (_, _, place)) in PLACES.into_iter().enumerate() {
        for index in 0..case.heads {
            expected_q.extend(head(token, index, Some(q_weight.values::<bf16>())));
        }
        let Some((page, row)) = place else { continue };
        for kv in 0..case.kv_heads {
            let at = ((page * case.kv_heads + kv) * PAGE + row) * dim;
            let (k, v) = (case.heads + kv, case.heads + case.kv_heads + kv);
            expected_k[at..at + dim].copy_from_slice(&head(
                token,
                k,
                Some(k_weight.values::<f32>()),
            ));
            expected_v[at..at + dim].copy_from_slice(&head(token, v, None));
        }
    }
    assert_close(&out.values::<f32>(), &expected_q, 1e-6, level);
    assert_close(&k_cache.values::<f32>(), &expected_k, 1e-6, level);
    assert_close(&v_cache.values::<f32>(), &expected_v, 0.0, level);
}

#[test]
fn heads_are_normalised_rotated_and_written_into_pages() {
    at_each_level(|level| {
        for interleaved in [false, true] {
            for (dim, rotated) in [(64, 64), (40, 12), (7, 6), (16, 0)] {
                for norms in [false, true] {
                    let case = Case { heads: 4, kv_heads: 2, dim, rotated, interleaved, norms };
                    check(&case, level.name());
                }
            }
        }
    });
}
