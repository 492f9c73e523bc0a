//! From logits to the next token: penalties, sampling, log-probabilities, and the step forward.

mod argmax;
mod candidates;
mod logprobs;
mod penalize;
mod random;
mod sample;
mod step;

pub(super) use argmax::ARGMAX;
pub(super) use logprobs::TOP_LOGPROBS;
pub(super) use penalize::PENALIZE;
pub(super) use sample::SAMPLE;
pub(super) use step::ADVANCE;
