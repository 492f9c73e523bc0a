//! A request on its way.

use super::config::SchedulerConfig;
use super::pages::PageId;
use super::prefix::ContentId;
use super::rank::Rank;
use super::request::{Micros, Request, TenantId, Token};

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// In its tenant's queue, without pages.
    Waiting,
    /// With pages.
    Running,
    /// Its last token has been planned; only the outcome is missing. Without pages.
    Leaving,
}

/// What a scheduler knows of a request.
pub(super) struct Entry {
    /// Prompt and what was chosen, as far as that is known.
    pub(super) tokens: Vec<Token>,
    /// Tokens that are planned to be chosen but not known yet.
    pub(super) pending: u32,
    /// Tokens at most.
    pub(super) limit: u32,
    pub(super) tenant: TenantId,
    pub(super) priority: i32,
    pub(super) deadline: Option<Micros>,
    pub(super) rank: Rank,
    pub(super) stage: Stage,
    pub(super) pages: Vec<PageId>,
    /// Positions whose keys and values are in the pages, once all plans have run.
    pub(super) computed: u32,
    /// Positions that the tenant has been charged for, or got for nothing.
    pub(super) charged: u32,
    /// What precedes the first page.
    pub(super) start: ContentId,
    /// Pages whose content others can find, and the content of the last.
    pub(super) offered: u32,
    pub(super) content: ContentId,
    /// Pages that whoever runs the plans has been told of.
    pub(super) told: u32,
    /// Requests that were admitted before it although it was their elder.
    pub(super) overtaken: u32,
}

impl Entry {
    pub(super) fn new(request: Request, rank: Rank) -> Entry {
        let Request { prompt, max_new_tokens, tenant, priority, deadline, variant } = request;
        Entry {
            limit: prompt.len() as u32 + max_new_tokens,
            tokens: prompt,
            pending: 0,
            tenant,
            priority,
            deadline,
            rank,
            stage: Stage::Waiting,
            pages: Vec::new(),
            computed: 0,
            charged: 0,
            offered: 0,
            start: ContentId::start(variant),
            content: ContentId::start(variant),
            told: 0,
            overtaken: 0,
        }
    }

    /// Positions that can be computed: those of all tokens, but for the last that it may have.
    pub(super) fn end(&self) -> u32 {
        (self.tokens.len() as u32 + self.pending).min(self.limit - 1)
    }

    /// Positions that can be computed and aren't.
    pub(super) fn due(&self) -> u32 {
        self.end() - self.computed
    }

    /// Whether the next page to offer is full, and its tokens are all known.
    pub(super) fn can_offer(&self, config: &SchedulerConfig) -> bool {
        let full = (self.offered + 1) * config.page_size;
        full <= self.computed && full as usize <= self.tokens.len()
    }

    /// The tokens of a page.
    pub(super) fn page_tokens(&self, index: u32, config: &SchedulerConfig) -> &[Token] {
        let start = (index * config.page_size) as usize;
        &self.tokens[start..start + config.page_size as usize]
    }

    /// Notes that `count` more positions are planned; returns how many of them to charge for.
    pub(super) fn advance(&mut self, count: u32) -> u32 {
        self.computed += count;
        let charge = self.computed.saturating_sub(self.charged);
        self.charged = self.charged.max(self.computed);
        charge
    }
}
