//! Repetition, presence and frequency penalties.

use super::super::HostKernel;
use super::super::pool::ThreadPool;
use super::super::view::{View, check_layout, expect_shape};
use crate::dispatch::{KernelArgs, LaunchError, Param, Signature};
use crate::dtype::DType;

const LOGITS: usize = 0;
const HISTORY: usize = 1;
const POSITIONS: usize = 2;
const PROMPT_LENGTHS: usize = 3;
const PENALTIES: usize = 4;

/// The penalties of one row.
#[derive(Clone, Copy)]
struct Penalties {
    repetition: f32,
    presence: f32,
    frequency: f32,
}

impl Penalties {
    fn are_off(self) -> bool {
        self.repetition == 1.0 && self.presence == 0.0 && self.frequency == 0.0
    }

    /// The logit of a token that was generated `count` times.
    fn apply(self, logit: f32, count: u32) -> f32 {
        let repeated = if logit > 0.0 { logit / self.repetition } else { logit * self.repetition };
        let presence = if count > 0 { self.presence } else { 0.0 };
        repeated - presence - self.frequency * count as f32
    }
}

/// The distinct tokens of a history that have a logit, each with how often it was generated.
fn counted(history: &[i32], prompt: usize, vocabulary: usize) -> Vec<(usize, u32)> {
    let mut tokens: Vec<(usize, u32)> = history
        .iter()
        .enumerate()
        .filter_map(|(place, &id)| Some((usize::try_from(id).ok()?, u32::from(place >= prompt))))
        .filter(|&(id, _)| id < vocabulary)
        .collect();
    tokens.sort_unstable();
    tokens.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        kept.1 += if same { next.1 } else { 0 };
        same
    });
    tokens
}

fn check(args: &KernelArgs<'_>) -> Result<(), LaunchError> {
    check_layout(args)?;
    let rows = args.tensor(LOGITS).shape[0];
    expect_shape(args, HISTORY, &[rows, args.tensor(HISTORY).shape[1]])?;
    expect_shape(args, POSITIONS, &[rows])?;
    expect_shape(args, PROMPT_LENGTHS, &[rows])?;
    expect_shape(args, PENALTIES, &[rows, 3])
}

fn run(args: &KernelArgs<'_>) {
    let logits = View::<f32, 2>::of(args.tensor(LOGITS));
    let history = View::<i32, 2>::of(args.tensor(HISTORY));
    let positions = View::<i32, 1>::of(args.tensor(POSITIONS));
    let prompt_lengths = View::<i32, 1>::of(args.tensor(PROMPT_LENGTHS));
    let penalties = View::<f32, 2>::of(args.tensor(PENALTIES));
    ThreadPool::global().run(logits.length(0), |row| {
        let penalties = Penalties {
            repetition: penalties.get([row, 0]),
            presence: penalties.get([row, 1]),
            frequency: penalties.get([row, 2]),
        };
        if penalties.are_off() {
            return;
        }
        let length = usize::try_from(positions.get([row]) + 1).unwrap_or(0);
        let prompt = usize::try_from(prompt_lengths.get([row])).unwrap_or(0);
        // SAFETY: nobody writes to the history meanwhile.
        let history = unsafe { history.slice(row) };
        let history = &history[..length.min(history.len())];
        for (token, count) in counted(history, prompt, logits.length(1)) {
            let logit = logits.get([row, token]);
            logits.set([row, token], penalties.apply(logit, count));
        }
    });
}

/// `penalize(logits (S,V), history (S,C) int32, positions (S,), prompt_lengths (S,), penalties
/// (S,3))`, in place. `history[s, :positions[s] + 1]` are the tokens so far, of which the first
/// `prompt_lengths[s]` are the prompt. For each distinct token of the history the logit is divided by
/// the repetition penalty where positive, else multiplied by it (Keskar et al. 2019,
/// arXiv:1909.05858); for each that was generated, the presence penalty and the frequency penalty
/// times its count are subtracted. The columns of `penalties` are repetition, presence, frequency.
pub(crate) const PENALIZE: HostKernel = HostKernel {
    signature: &Signature {
        name: "penalize",
        params: &[
            Param::inout("logits", &[DType::F32], 2),
            Param::input("history", &[DType::I32], 2),
            Param::input("positions", &[DType::I32], 1),
            Param::input("prompt_lengths", &[DType::I32], 1),
            Param::input("penalties", &[DType::F32], 2),
        ],
    },
    check,
    run,
};
