//! What bounds a scheduler.

use super::request::Micros;

/// The bounds of a [`Scheduler`](super::Scheduler).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Pages of the cache: the quota.
    pub pages: u32,
    /// Positions in a page.
    pub page_size: u32,
    /// Tokens that one step computes at most, of prompts and decoding requests together.
    pub step_tokens: u32,
    /// Requests that run at once.
    pub max_running: u32,
    /// Requests that wait at once; more are refused.
    pub max_waiting: u32,
    /// Tokens of a request at most, prompt and output together: the model's context.
    pub max_length: u32,
    /// Pages that stay free when a request is admitted beside others, for those to grow into.
    pub reserved_pages: u32,
    /// Pages that are kept at most for others that begin alike while nobody uses them.
    pub cached_pages: u32,
    /// How much waiting one level of priority is worth.
    pub priority_boost: Micros,
    /// Requests that may be admitted before one that was first but didn't fit.
    pub max_overtakes: u32,
}

impl SchedulerConfig {
    /// Sensible bounds for a cache of `pages` pages of `page_size` positions.
    pub fn new(pages: u32, page_size: u32) -> SchedulerConfig {
        SchedulerConfig {
            pages,
            page_size,
            step_tokens: 512,
            max_running: 256,
            max_waiting: 1 << 20,
            max_length: i32::MAX as u32,
            reserved_pages: pages / 64,
            cached_pages: pages,
            priority_boost: 600_000_000,
            max_overtakes: 32,
        }
    }

    /// Pages that hold `positions` positions.
    pub fn pages_for(&self, positions: u32) -> u32 {
        positions.div_ceil(self.page_size)
    }

    /// Tokens that a request can have at most: the context, or what all pages hold. The last token is
    /// never computed on, so it needs no place.
    pub fn capacity(&self) -> u32 {
        let positions = u64::from(self.pages) * u64::from(self.page_size);
        u64::from(self.max_length).min(positions + 1) as u32
    }

    /// # Errors
    /// Some bound allows no work at all.
    pub fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("pages", self.pages),
            ("page_size", self.page_size),
            ("max_running", self.max_running),
            ("max_waiting", self.max_waiting),
        ];
        for (field, found) in positive {
            if found == 0 {
                return Err(ConfigError { field, expected: "at least 1".to_owned(), found });
            }
        }
        let bounds = [
            // Or not every running request could decode in every step.
            ("step_tokens", self.step_tokens, self.max_running, "max_running"),
            ("max_length", self.max_length, 2, "a prompt and an output of one token"),
        ];
        for (field, found, least, why) in bounds {
            if found < least {
                let expected = format!("at least {least} ({why})");
                return Err(ConfigError { field, expected, found });
            }
        }
        Ok(())
    }
}

/// A bound that allows no work at all.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: expected {expected}, found {found}")]
pub struct ConfigError {
    /// The field of [`SchedulerConfig`].
    pub field: &'static str,
    /// What it should be.
    pub expected: String,
    /// What it is.
    pub found: u32,
}
