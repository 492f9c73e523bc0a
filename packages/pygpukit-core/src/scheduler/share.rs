//! Several models on one device: each has its quota of memory, and they take turns.

use std::num::NonZeroU32;

use super::config::{ConfigError, SchedulerConfig};
use super::plan::StepPlan;
use super::request::Micros;
use super::state::Scheduler;

/// One token of a model of weight 1.
const UNIT: u64 = 1 << 20;

/// The number of a model, in the order in which they were added.
pub type ModelId = usize;

/// The schedulers of the models of one device.
///
/// The quotas of all caches together never exceed the device's. Steps go by turns (start-time fair
/// queueing: Goyal et al. 1996, doi:10.1145/248157.248171): next is the model that has computed the fewest
/// tokens for its weight, among those that have something to run; one that had nothing catches up, it
/// doesn't collect credit.
pub struct Share {
    bytes: u64,
    models: Vec<Model>,
    /// What the model whose turn it last was had computed; never falls.
    turn: u64,
}

struct Model {
    scheduler: Scheduler,
    bytes: u64,
    weight: u64,
    /// Tokens for its weight.
    served: u64,
    busy: bool,
}

/// A model that can't be added.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ShareError {
    /// Its bounds allow no work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The caches together would be larger than allowed.
    #[error(
        "{pages} pages of {page_bytes} bytes are {needed} bytes, but of {bytes} only {free} are left; \
         lower the page quota of this model or of another"
    )]
    Quota {
        /// Pages of the model.
        pages: u32,
        /// Bytes of each.
        page_bytes: u64,
        /// Bytes of all.
        needed: u128,
        /// Bytes that all models may take.
        bytes: u64,
        /// Bytes that the others leave.
        free: u64,
    },
}

impl Share {
    /// No models yet; their caches may take `bytes` bytes.
    pub fn new(bytes: u64) -> Share {
        Share { bytes, models: Vec::new(), turn: 0 }
    }

    /// Adds a model whose pages, of keys and values of all layers, have `page_bytes` bytes each, and which
    /// computes `weight` tokens where one of weight 1 computes one.
    ///
    /// # Errors
    /// Its bounds allow no work, or its pages don't fit beside the others'.
    pub fn add(
        &mut self,
        config: SchedulerConfig,
        page_bytes: u64,
        weight: NonZeroU32,
    ) -> Result<ModelId, ShareError> {
        let scheduler = Scheduler::new(config)?;
        let needed = u128::from(config.pages) * u128::from(page_bytes);
        let (bytes, pages) = (self.bytes, config.pages);
        let free = bytes - self.models.iter().map(|model| model.bytes).sum::<u64>();
        if needed > u128::from(free) {
            return Err(ShareError::Quota { pages, page_bytes, needed, bytes, free });
        }
        self.models.push(Model {
            scheduler,
            bytes: needed as u64,
            weight: weight.get().into(),
            served: self.turn,
            busy: false,
        });
        Ok(self.models.len() - 1)
    }

    /// The scheduler of a model.
    ///
    /// # Panics
    /// If there is no such model.
    pub fn scheduler(&self, model: ModelId) -> &Scheduler {
        &self.models[model].scheduler
    }

    /// The scheduler of a model, to submit, cancel and complete.
    ///
    /// # Panics
    /// If there is no such model.
    pub fn scheduler_mut(&mut self, model: ModelId) -> &mut Scheduler {
        &mut self.models[model].scheduler
    }

    /// The next step, and whose it is; `None` if no model has anything to run or to tell.
    pub fn schedule(&mut self, now: Micros) -> Option<(ModelId, StepPlan)> {
        self.order().into_iter().find_map(|id| {
            let plan = self.schedule_model(id, now);
            (!plan.is_empty()).then_some((id, plan))
        })
    }

    /// Whose turn it is: of the models with requests or steps under way the one that has computed the
    /// fewest tokens for its weight.
    pub fn turn(&mut self) -> Option<ModelId> {
        self.order().first().copied()
    }

    /// The next step of a model, whosever turn it is; what it computes counts.
    ///
    /// # Panics
    /// If there is no such model.
    pub fn schedule_model(&mut self, model: ModelId, now: Micros) -> StepPlan {
        self.catch_up();
        let model = &mut self.models[model];
        let plan = model.scheduler.schedule(now);
        if !plan.rows.is_empty() {
            self.turn = self.turn.max(model.served);
            model.served += u64::from(plan.tokens()) * UNIT / model.weight;
        }
        plan
    }

    /// The models that have something to do, in the order of their turns.
    fn order(&mut self) -> Vec<ModelId> {
        self.catch_up();
        let mut order: Vec<ModelId> = (0..self.models.len()).collect();
        order.retain(|&id| self.models[id].busy);
        order.sort_by_key(|&id| (self.models[id].served, id));
        order
    }

    /// Lets models that have just got something to do begin where the others are.
    fn catch_up(&mut self) {
        for model in &mut self.models {
            let was_busy = std::mem::replace(&mut model.busy, model.scheduler.is_busy());
            if model.busy && !was_busy {
                model.served = model.served.max(self.turn);
            }
        }
    }
}
