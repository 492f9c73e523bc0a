//! From logits to the next token: penalties, sampling, log-probabilities, and the step forward.

mod argmax;
mod candidates;
mod logprobs;
mod penalize;
mod random;
mod sample;
mod step;

pub(crate) use argmax::ARGMAX;
pub(crate) use logprobs::TOP_LOGPROBS;
pub(crate) use penalize::PENALIZE;
pub(crate) use sample::SAMPLE;
pub(crate) use step::ADVANCE;
