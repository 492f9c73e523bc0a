//! `attention`: windows, caps, groups, pages, prompts and long contexts.

use super::super::simd::at_each_level;
use super::*;

/// Sequences with contexts of their own over one paged cache.
struct Case {
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    tables: Tensor,
    positions: Vec<usize>,
    sequences: Vec<usize>,
    page_size: usize,
    window: usize,
    soft_cap: f64,
    sinks: Option<Tensor>,
}

const SCALE: f64 = 1.7;

/// Sizes of a case: heads, key/value heads, dimension, page size.
#[derive(Clone, Copy)]
struct Sizes(usize, usize, usize, usize);

impl Case {
    /// Tokens at `positions` of `sequences`. What no query sees in the cache is NaN.
    fn new(seed: u64, sizes: Sizes, tokens: &[(usize, usize)]) -> Case {
        let Sizes(heads, kv_heads, dim, page_size) = sizes;
        let mut random = Random(seed);
        let rows = tokens.iter().map(|token| token.0).max().map_or(1, |last| last + 1);
        let longest = tokens.iter().map(|token| token.1 + 1).max().unwrap_or(1);
        let columns = longest.div_ceil(page_size);
        let pages = rows * columns;
        let mut order: Vec<usize> = (0..pages).collect();
        (0..pages).for_each(|i| order.swap(i, random.below(pages)));
        let shape = [pages, kv_heads, page_size, dim];
        let length = |row: usize| {
            tokens.iter().filter(|token| token.0 == row).map(|token| token.1 + 1).max()
        };
        let mut written = vec![false; pages * page_size];
        for row in 0..rows {
            for position in 0..length(row).unwrap_or(0) {
                let page = order[row * columns + position / page_size];
                written[page * page_size + position % page_size] = true;
            }
        }
        let mut cache = || {
            let values: Vec<f64> = (0..shape.iter().product())
                .map(|i| {
                    let (page, row) = (i / dim / page_size / kv_heads, i / dim % page_size);
                    let number = random.number();
                    if written[page * page_size + row] { number } else { f64::NAN }
                })
                .collect();
            Tensor::new::<f32>(&shape, values)
        };
        let (k_cache, v_cache) = (cache(), cache());
        Case {
            q: random.tensor::<f32>(&[tokens.len(), heads, dim]),
            k_cache,
            v_cache,
            tables: Tensor::new::<i32>(&[rows, columns], order.iter().map(|&page| page as f64)),
            positions: tokens.iter().map(|token| token.1).collect(),
            sequences: tokens.iter().map(|token| token.0).collect(),
            page_size,
            window: 0,
            soft_cap: 0.0,
            sinks: None,
        }
    }

    fn launch(&self, q: &Tensor, sequences: &[f64], positions: &[f64]) -> Tensor {
        let tokens = sequences.len();
        let indices = [positions, sequences]
            .map(|values| Tensor::new::<i32>(&[tokens], values.iter().copied()));
        let out = Tensor::empty::<f32>(&[tokens, q.shape[1] * q.shape[2]]);
        let mut args = [q, &self.k_cache, &self.v_cache, &self.tables].map(Tensor::arg).to_vec();
        args.extend(indices.each_ref().map(Tensor::arg));
        args.push(out.arg());
        args.push(ArgValue::Float(SCALE));
        args.push(ArgValue::Int(self.window as i64));
        args.push(ArgValue::Float(self.soft_cap));
        args.push(self.sinks.as_ref().map_or(ArgValue::None, Tensor::arg));
        args.push(ArgValue::Int(-1));
        launch("attention", &args).unwrap();
        out
    }

    fn run(&self) -> Tensor {
        let floats = |values: &[usize]| values.iter().map(|&v| v as f64).collect::<Vec<_>>();
        self.launch(&self.q, &floats(&self.sequences), &floats(&self.positions))
    }

    fn token(&self, token: usize) -> Tensor {
        let (heads, dim) = (self.q.shape[1], self.q.shape[2]);
        let values = &self.q.values::<f32>()[token * heads * dim..][..heads * dim];
        let q = Tensor::new::<f32>(&[1, heads, dim], values.iter().copied());
        self.launch(&q, &[self.sequences[token] as f64], &[self.positions[token] as f64])
    }

    fn expected(&self) -> Vec<f64> {
        let (heads, dim, kv_heads) = (self.q.shape[1], self.q.shape[2], self.k_cache.shape[1]);
        let [q, k, v] = [&self.q, &self.k_cache, &self.v_cache].map(Tensor::values::<f32>);
        let tables = self.tables.read::<i32>();
        let mut out = Vec::new();
        for token in 0..self.positions.len() {
            let position = self.positions[token];
            let first =
                if self.window == 0 { 0 } else { (position + 1).saturating_sub(self.window) };
            for head in 0..heads {
                let kv = head / (heads / kv_heads);
                let row = |cache: &[f64], position: usize| -> Vec<f64> {
                    let columns = self.tables.shape[1];
                    let index = self.sequences[token] * columns + position / self.page_size;
                    let page = tables[index] as usize;
                    let row = (page * kv_heads + kv) * self.page_size + position % self.page_size;
                    cache[row * dim..][..dim].to_vec()
                };
                let q = &q[(token * heads + head) * dim..][..dim];
                let weights: Vec<f64> = (first..=position)
                    .map(|position| {
                        let dot: f64 = q.iter().zip(row(&k, position)).map(|(q, k)| q * k).sum();
                        let score = dot * SCALE;
                        if self.soft_cap > 0.0 {
                            (score / self.soft_cap).tanh() * self.soft_cap
                        } else {
                            score
                        }
                    })
                    .map(f64::exp)
                    .collect();
                let sink =
                    self.sinks.as_ref().map_or(0.0, |sinks| sinks.values::<f32>()[head].exp());
                let total = weights.iter().sum::<f64>() + sink;
                let mut sum = vec![0.0; dim];
                for (weight, position) in weights.iter().zip(first..) {
                    for (sum, v) in sum.iter_mut().zip(row(&v, position)) {
                        *sum += weight * v / total;
                    }
                }
                out.extend(sum);
            }
        }
        out
    }

    fn check(&self, context: &str) {
        let out = self.run();
        assert_close(&out.values::<f32>(), &self.expected(), 3e-6, context);
        let width = out.shape[1];
        for token in [0, self.positions.len() / 2, self.positions.len() - 1] {
            let alone = self.token(token).bits();
            assert_eq!(alone, out.bits()[token * width..][..width], "{context}: token {token}");
        }
    }
}

fn prompt(sequence: usize, positions: std::ops::Range<usize>) -> Vec<(usize, usize)> {
    positions.map(|position| (sequence, position)).collect()
}

#[test]
fn prompts_windows_caps_and_groups() {
    at_each_level(|level| {
        for (seed, (sizes, window, soft_cap)) in [
            (Sizes(3, 1, 64, 16), 0, 0.0),
            (Sizes(4, 4, 16, 5), 0, 3.0),
            (Sizes(6, 2, 33, 64), 9, 0.0),
            (Sizes(2, 2, 80, 1), 70, 2.0),
            (Sizes(1, 1, 5, 100), 1, 0.0),
        ]
        .into_iter()
        .enumerate()
        {
            let mut case = Case::new(seed as u64, sizes, &prompt(0, 0..150));
            (case.window, case.soft_cap) = (window, soft_cap);
            case.check(&format!("{level} case {seed}"));
        }
    });
}

#[test]
fn decoding_steps_of_several_sequences() {
    at_each_level(|level| {
        let tokens = [(2, 0), (0, 63), (1, 64), (3, 700)];
        let mut case = Case::new(11, Sizes(9, 3, 64, 16), &tokens);
        case.check(&format!("{level} full"));
        case.window = 100;
        case.check(&format!("{level} window"));
        let mut mixed = prompt(1, 30..41);
        mixed.extend([(0, 5), (2, 130)]);
        mixed.extend(prompt(3, 0..3));
        Case::new(12, Sizes(4, 2, 24, 8), &mixed).check(&format!("{level} mixed"));
    });
}

#[test]
fn sinks_take_their_share_of_the_weight() {
    at_each_level(|level| {
        // Next to nothing, a usual share, nearly all, all.
        let sinks = [-80.0, 0.5, 12.0, 500.0];
        for (window, tokens) in
            [(0, prompt(0, 0..150)), (9, prompt(0, 0..150)), (0, prompt(0, 1990..1993))]
        {
            let mut case = Case::new(15, Sizes(4, 2, 24, 16), &tokens);
            case.window = window;
            case.sinks = Some(Tensor::new::<f32>(&[4], sinks));
            case.check(&format!("{level} window {window}"));
        }
    });
}

#[test]
fn a_long_context_is_split_without_a_change_of_bits() {
    at_each_level(|level| {
        let case = Case::new(13, Sizes(3, 1, 32, 16), &prompt(0, 1990..2000));
        case.check(level.name());
    });
}

#[test]
fn what_is_not_there_gives_nan_and_nothing_else_does() {
    at_each_level(|_| {
        let mut case = Case::new(14, Sizes(2, 1, 16, 4), &prompt(0, 0..8));
        // A sink isn't something to see.
        case.sinks = Some(Tensor::new::<f32>(&[2], [0.0, 3.0]));
        let out = case.launch(
            &case.q,
            &[0.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            &[7.0, 0.0, 0.0, -1.0, 8.0, 2.0, 3.0, 100.0],
        );
        let missing = [false, true, true, true, true, false, false, true];
        for (row, missing) in out.read::<f32>().chunks(32).zip(missing) {
            assert!(row.iter().all(|value| value.is_nan() == missing));
        }
    });
}

#[test]
fn heads_must_fit_the_cache() {
    let mut random = Random(0);
    let q = random.tensor::<f32>(&[1, 3, 8]);
    let cache = random.tensor::<f32>(&[1, 2, 4, 8]);
    let tables = Tensor::new::<i32>(&[1, 1], [0.0]);
    let index = Tensor::new::<i32>(&[1], [0.0]);
    let out = Tensor::empty::<f32>(&[1, 24]);
    let mut args = [&q, &cache, &cache, &tables, &index, &index, &out].map(Tensor::arg).to_vec();
    args.extend([ArgValue::Float(1.0), ArgValue::Int(0), ArgValue::Float(0.0), ArgValue::None]);
    args.push(ArgValue::Int(-1));
    let reason = refusal("attention", &args);
    assert!(reason.contains("argument k_cache: expected (pages, key/value heads that divide 3"));
}
