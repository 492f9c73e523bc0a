//! The log-probabilities of the chosen and of the most likely tokens.

use super::super::HostKernel;
use super::super::pool::ThreadPool;
use super::super::simd::{Simd, WithSimd, dispatch, for_each_vector, math};
use super::super::view::{View, check_layout, expect_shape};
use super::candidates::{best, best_first};
use crate::dispatch::{KernelArgs, LaunchError, Param, Signature};
use crate::dtype::DType;

/// The logarithm of the sum of the exponentials, shifted by the largest logit.
struct LogSumExp<'a>(&'a [f32]);

impl WithSimd for LogSumExp<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let largest = self.0.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for part in self.0.chunks(PART) {
            let mut weights = [0.0; PART];
            for_each_vector!(S, part.len(), |start, count| {
                // SAFETY: the vector lies within both slices.
                unsafe {
                    let logit = simd.load_some(part.as_ptr().add(start), count);
                    let weight = math::exp(simd, simd.sub(logit, simd.splat(largest)));
                    simd.store_some(weights.as_mut_ptr().add(start), weight, count);
                }
            });
            sum += weights.iter().map(|&weight| f64::from(weight)).sum::<f64>();
        }
        f64::from(largest) + sum.ln()
    }
}

const PART: usize = 256;

const LOGITS: usize = 0;
const IDS: usize = 1;
const VALUES: usize = 2;
const INDICES: usize = 3;

fn check(args: &KernelArgs<'_>) -> Result<(), LaunchError> {
    check_layout(args)?;
    let (rows, vocabulary) = (args.tensor(LOGITS).shape[0], args.tensor(LOGITS).shape[1]);
    let columns = args.tensor(VALUES).shape[1];
    if columns == 0 || columns - 1 > vocabulary {
        let reason = format!("expected 1 to {} columns, found {columns}", vocabulary + 1);
        return Err(args.refuse(VALUES, reason));
    }
    expect_shape(args, IDS, &[rows])?;
    expect_shape(args, VALUES, &[rows, columns])?;
    expect_shape(args, INDICES, &[rows, columns])
}

fn run(args: &KernelArgs<'_>) {
    let logits = View::<f32, 2>::of(args.tensor(LOGITS));
    let ids = View::<i32, 1>::of(args.tensor(IDS));
    let values = View::<f32, 2>::of(args.tensor(VALUES));
    let indices = View::<i32, 2>::of(args.tensor(INDICES));
    ThreadPool::global().run(logits.length(0), |row| {
        // SAFETY: nobody writes to the logits meanwhile.
        let logits = unsafe { logits.slice(row) };
        let total = dispatch(LogSumExp(logits));
        let logprob = |logit: f32| (f64::from(logit) - total) as f32;
        let id = ids.get([row]);
        let own = usize::try_from(id).ok().and_then(|id| logits.get(id));
        values.set([row, 0], own.map_or(f32::NAN, |&logit| logprob(logit)));
        indices.set([row, 0], id);
        let mut top = best(logits, values.length(1) - 1, false);
        top.sort_unstable_by(best_first);
        for (column, candidate) in top.into_iter().enumerate() {
            values.set([row, column + 1], logprob(candidate.value));
            indices.set([row, column + 1], candidate.token as i32);
        }
    });
}

/// `top_logprobs(logits (S,V), ids (S,), values (S,k+1), indices (S,k+1) int32)`: the natural
/// logarithms of softmax probabilities, of `ids` in the first column (NaN where there is no such
/// token), then of the `k` most likely tokens, best first.
pub(crate) const TOP_LOGPROBS: HostKernel = HostKernel {
    signature: &Signature {
        name: "top_logprobs",
        params: &[
            Param::input("logits", &[DType::F32], 2),
            Param::input("ids", &[DType::I32], 1),
            Param::output("values", &[DType::F32], 2),
            Param::output("indices", &[DType::I32], 2),
        ],
    },
    check,
    run,
};
