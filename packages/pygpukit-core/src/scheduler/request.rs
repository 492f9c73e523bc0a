//! What is asked of a scheduler, and how that ends.

use slotmap::new_key_type;

/// Microseconds since some moment that the caller has chosen.
pub type Micros = u64;

/// The id of a token.
pub type Token = u32;

/// Whose request it is.
pub type TenantId = u64;

new_key_type! {
    /// A request of one scheduler; never given to another again.
    pub struct RequestId;
}

/// One sequence to continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it begins with: at least one token.
    pub prompt: Vec<Token>,
    /// Tokens to generate at most, at least one.
    pub max_new_tokens: u32,
    /// Whose it is.
    pub tenant: TenantId,
    /// Among the requests of its tenant the higher goes first.
    pub priority: i32,
    /// When nobody wants the rest any more.
    pub deadline: Option<Micros>,
    /// Pages are shared only within a variant of the model, whose keys and values of the same tokens are
    /// alike.
    pub variant: u32,
}

impl Request {
    /// A request of tenant 0, priority 0 and variant 0 without a deadline.
    pub fn new(prompt: Vec<Token>, max_new_tokens: u32) -> Request {
        Request { prompt, max_new_tokens, tenant: 0, priority: 0, deadline: None, variant: 0 }
    }
}

/// How a request has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Whoever ran it said that its last token ends it.
    Stopped,
    /// It has as many tokens as it may have.
    Length,
    /// Its deadline has passed.
    Expired,
}

/// Why a request isn't taken.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// There is nothing to continue.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// There is nothing to do.
    #[error("max_new_tokens is 0; expected at least 1")]
    NothingToGenerate,
    /// It could never run, however long it waited.
    #[error(
        "the prompt of {prompt} tokens and up to {new} new ones need {needed} tokens, more than the \
         {capacity} that the context and the page quota allow; shorten the prompt or lower \
         max_new_tokens"
    )]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens to generate.
        new: u32,
        /// Tokens in all.
        needed: u64,
        /// Tokens that fit.
        capacity: u32,
    },
    /// Too many are waiting already; later there may be room.
    #[error("{waiting} requests are waiting, as many as may; try again later")]
    QueueFull {
        /// How many there are.
        waiting: u32,
    },
    /// Nobody wants it any more.
    #[error("the deadline, {deadline} µs, has passed at {now} µs")]
    DeadlinePassed {
        /// The request's.
        deadline: Micros,
        /// When it was submitted.
        now: Micros,
    },
}
