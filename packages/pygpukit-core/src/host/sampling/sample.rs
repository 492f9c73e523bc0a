//! Drawing a token, filtered as transformers filters: temperature, top-k, top-p, min-p.

use super::super::HostKernel;
use super::super::pool::ThreadPool;
use super::super::scratch;
use super::super::simd::{Simd, WithSimd, dispatch, for_each_vector, math};
use super::super::view::{View, check_layout, expect_shape};
use super::argmax::{Largest, argmax};
use super::candidates::{Candidate, best, keep_heaviest};
use super::random::uniform;
use crate::dispatch::{KernelArgs, LaunchError, Param, Signature};
use crate::dtype::DType;

const LOGITS: usize = 0;
const POSITIONS: usize = 1;
const TEMPERATURE: usize = 2;
const TOP_K: usize = 3;
const TOP_P: usize = 4;
const MIN_P: usize = 5;
const SEEDS: usize = 6;
const OUT: usize = 7;

/// How one row is sampled.
struct Settings {
    temperature: f32,
    /// 0: all.
    top_k: usize,
    /// 1: all.
    top_p: f32,
    /// 0: all.
    min_p: f32,
    /// In [0, 1).
    random: f64,
}

impl Settings {
    /// Whether nothing but the most likely token can come out.
    fn is_greedy(&self) -> bool {
        self.temperature <= 0.0 || self.top_k == 1 || self.top_p <= 0.0 || self.min_p >= 1.0
    }

    /// Whether every token can come out.
    fn is_unfiltered(&self, vocabulary: usize) -> bool {
        (self.top_k == 0 || self.top_k >= vocabulary) && self.top_p >= 1.0 && self.min_p <= 0.0
    }
}

/// `out = exp((logits - largest) / temperature)`.
struct Weights<'a> {
    logits: &'a [f32],
    largest: f32,
    temperature: f32,
    out: &'a mut [f32],
}

impl WithSimd for Weights<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let largest = simd.splat(self.largest);
        let temperature = simd.splat(self.temperature);
        for_each_vector!(S, self.logits.len().min(self.out.len()), |start, count| {
            // SAFETY: the vector lies within both slices.
            unsafe {
                let logit = simd.load_some(self.logits.as_ptr().add(start), count);
                let exponent = simd.div(simd.sub(logit, largest), temperature);
                let weight = math::exp(simd, exponent);
                simd.store_some(self.out.as_mut_ptr().add(start), weight, count);
            }
        });
    }
}

/// The token at `random` of the total weight, counted in order.
fn draw(weights: impl Iterator<Item = (usize, f32)> + Clone, random: f64) -> Option<usize> {
    let total: f64 = weights.clone().map(|(_, weight)| f64::from(weight)).sum();
    let target = random * total;
    let mut sum = 0.0;
    let mut drawn = None;
    for (token, weight) in weights.filter(|&(_, weight)| weight > 0.0) {
        sum += f64::from(weight);
        drawn = Some(token);
        if sum > target {
            break;
        }
    }
    drawn
}

/// A token drawn from `logits`, or `None` where they are unsound.
fn sample(logits: &[f32], settings: &Settings) -> Option<usize> {
    if settings.is_greedy() {
        return argmax(logits);
    }
    let largest = dispatch(Largest(logits))?;
    if settings.top_k > 0 && settings.top_k < logits.len() {
        let mut candidates = best(logits, settings.top_k, true);
        let values: Vec<f32> = candidates.iter().map(|candidate| candidate.value).collect();
        let mut weights = vec![0.0; values.len()];
        let temperature = settings.temperature;
        dispatch(Weights { logits: &values, largest, temperature, out: &mut weights });
        for (candidate, weight) in candidates.iter_mut().zip(weights) {
            candidate.value = weight;
        }
        return draw_filtered(candidates, settings);
    }
    let mut weights = scratch::take(logits.len());
    dispatch(Weights { logits, largest, temperature: settings.temperature, out: &mut weights });
    let weights = weights.iter().copied().enumerate();
    if settings.is_unfiltered(logits.len()) {
        return draw(weights, settings.random);
    }
    let total: f64 = weights.clone().map(|(_, weight)| f64::from(weight)).sum();
    // Tokens that are this light weigh less than what top-p leaves out, even all together.
    let light = (1.0 - f64::from(settings.top_p)).max(0.0) * total / logits.len() as f64;
    let least = f64::from(settings.min_p).max(light);
    let candidates = weights
        .filter(|&(_, weight)| f64::from(weight) >= least)
        .map(|(token, value)| Candidate { token, value })
        .collect();
    draw_among(candidates, total, settings)
}

/// Draws from all the tokens that top-k has left.
fn draw_filtered(candidates: Vec<Candidate>, settings: &Settings) -> Option<usize> {
    let total = candidates.iter().map(|candidate| f64::from(candidate.value)).sum();
    draw_among(candidates, total, settings)
}

/// Draws from `candidates`, of a distribution that weighs `total`.
fn draw_among(mut candidates: Vec<Candidate>, total: f64, settings: &Settings) -> Option<usize> {
    if settings.top_p < 1.0 {
        keep_heaviest(&mut candidates, f64::from(settings.top_p) * total);
    }
    // The heaviest token weighs 1.
    candidates.retain(|candidate| candidate.value >= settings.min_p);
    candidates.sort_unstable_by_key(|candidate| candidate.token);
    draw(candidates.iter().map(|candidate| (candidate.token, candidate.value)), settings.random)
}

fn check(args: &KernelArgs<'_>) -> Result<(), LaunchError> {
    check_layout(args)?;
    for index in POSITIONS..=OUT {
        expect_shape(args, index, &args.tensor(LOGITS).shape[..1])?;
    }
    Ok(())
}

fn run(args: &KernelArgs<'_>) {
    let logits = View::<f32, 2>::of(args.tensor(LOGITS));
    let [temperature, top_p, min_p] =
        [TEMPERATURE, TOP_P, MIN_P].map(|index| View::<f32, 1>::of(args.tensor(index)));
    let [positions, top_k, out] =
        [POSITIONS, TOP_K, OUT].map(|index| View::<i32, 1>::of(args.tensor(index)));
    let seeds = View::<i64, 1>::of(args.tensor(SEEDS));
    ThreadPool::global().run(logits.length(0), |row| {
        let settings = Settings {
            temperature: temperature.get([row]),
            top_k: usize::try_from(top_k.get([row])).unwrap_or(0),
            top_p: top_p.get([row]),
            min_p: min_p.get([row]),
            random: uniform(seeds.get([row]), positions.get([row])),
        };
        // SAFETY: nobody writes to the logits meanwhile.
        let token = sample(unsafe { logits.slice(row) }, &settings);
        out.set([row], token.map_or(-1, |token| token as i32));
    });
}

/// `sample(logits (S,V), positions (S,), temperature (S,), top_k (S,) int32, top_p (S,), min_p (S,),
/// seeds (S,) int64, out (S,) int32)`: a token of each row, drawn with the random number of (seed,
/// position). Temperature 0, top_k 1 and top_p 0 give the most likely token; top_k 0, top_p 1 and
/// min_p 0 are off. -1 where a logit is NaN or +∞ or all are -∞.
pub(crate) const SAMPLE: HostKernel = HostKernel {
    signature: &Signature {
        name: "sample",
        params: &[
            Param::input("logits", &[DType::F32], 2),
            Param::input("positions", &[DType::I32], 1),
            Param::input("temperature", &[DType::F32], 1),
            Param::input("top_k", &[DType::I32], 1),
            Param::input("top_p", &[DType::F32], 1),
            Param::input("min_p", &[DType::F32], 1),
            Param::input("seeds", &[DType::I64], 1),
            Param::output("out", &[DType::I32], 1),
        ],
    },
    check,
    run,
};
