//! The scheduler of one model.

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU32;

use slotmap::SlotMap;

use super::config::{ConfigError, SchedulerConfig};
use super::pages::{PageId, PagePool};
use super::plan::{Admission, Chosen, OutcomeError, Row, StepPlan};
use super::prefix::ContentId;
use super::rank::Rank;
use super::request::{End, Micros, Refusal, Request, RequestId, TenantId};
use super::requests::{Entry, Stage};
use super::tenants::Tenants;

/// Decides what runs in each step of one model. See the [module](super) for how.
pub struct Scheduler {
    config: SchedulerConfig,
    requests: SlotMap<RequestId, Entry>,
    /// Those with pages, by rank.
    running: Vec<RequestId>,
    /// Those whose last row is in the newest plan; they keep their pages until the next.
    leaving: Vec<RequestId>,
    tenants: Tenants,
    pages: PagePool,
    deadlines: BTreeSet<(Micros, RequestId)>,
    /// Whose the rows of the newest plan are.
    rows: Vec<RequestId>,
    /// The steps that haven't been completed, with the requests that each chooses a token for.
    under_way: VecDeque<(u64, Vec<RequestId>)>,
    next_step: u64,
    submitted: u64,
    counts: Counts,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    preemptions: u64,
    computed: u64,
    cached: u64,
}

/// What a scheduler holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that wait.
    pub waiting: u32,
    /// Requests with pages.
    pub running: u32,
    /// Requests that have not ended, those included whose last outcome is missing.
    pub requests: u32,
    /// Pages that requests use.
    pub pages_in_use: u32,
    /// Pages that nobody uses but that are kept for requests that begin alike.
    pub pages_cached: u32,
    /// Times that a request had to give up its pages.
    pub preemptions: u64,
    /// Tokens that plans have computed.
    pub computed_tokens: u64,
    /// Tokens that were found in the cache instead.
    pub cached_tokens: u64,
}

impl Scheduler {
    /// # Errors
    /// The bounds allow no work at all.
    pub fn new(config: SchedulerConfig) -> Result<Scheduler, ConfigError> {
        config.check()?;
        Ok(Scheduler {
            config,
            requests: SlotMap::with_key(),
            running: Vec::new(),
            leaving: Vec::new(),
            tenants: Tenants::new(),
            pages: PagePool::new(config.pages, config.cached_pages),
            deadlines: BTreeSet::new(),
            rows: Vec::new(),
            under_way: VecDeque::new(),
            next_step: 0,
            submitted: 0,
            counts: Counts::default(),
        })
    }

    /// The bounds.
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// Takes a request.
    ///
    /// # Errors
    /// It can never run, nobody wants it any more, or too many are waiting.
    pub fn submit(&mut self, request: Request, now: Micros) -> Result<RequestId, Refusal> {
        self.check(&request, now)?;
        let (tenant, deadline) = (request.tenant, request.deadline);
        let boost = self.config.priority_boost;
        let rank = Rank::new(now, request.priority, boost, self.submitted);
        self.submitted += 1;
        let id = self.requests.insert(Entry::new(request, rank));
        self.deadlines.extend(deadline.map(|deadline| (deadline, id)));
        self.tenants.enter(tenant);
        self.tenants.wait(tenant, rank, id);
        Ok(id)
    }

    fn check(&self, request: &Request, now: Micros) -> Result<(), Refusal> {
        let (prompt, new) = (request.prompt.len(), request.max_new_tokens);
        let needed = prompt as u64 + u64::from(new);
        let capacity = self.config.capacity();
        let waiting = self.tenants.waiting();
        match request.deadline {
            _ if prompt == 0 => Err(Refusal::EmptyPrompt),
            _ if new == 0 => Err(Refusal::NothingToGenerate),
            _ if needed > u64::from(capacity) => {
                Err(Refusal::TooLong { prompt, new, needed, capacity })
            }
            Some(deadline) if deadline <= now => Err(Refusal::DeadlinePassed { deadline, now }),
            _ if waiting >= self.config.max_waiting => Err(Refusal::QueueFull { waiting }),
            _ => Ok(()),
        }
    }

    /// Ends a request, wherever it is. Returns whether it had not ended before.
    pub fn cancel(&mut self, request: RequestId) -> bool {
        let exists = self.requests.contains_key(request);
        if exists {
            self.end(request);
        }
        exists
    }

    /// From now on `tenant` is served `weight` tokens where others, of weight 1, are served one.
    pub fn set_weight(&mut self, tenant: TenantId, weight: NonZeroU32) {
        self.tenants.set_weight(tenant, weight);
    }

    /// From now on hands out the first `pages` pages only, where the memory behind the others isn't there
    /// yet; at least as many as have ever been handed out. Until all are there, requests may have to wait
    /// for ever.
    pub fn provide(&mut self, pages: u32) {
        self.pages.provide(pages.min(self.config.pages));
    }

    /// Forgets everything: requests, steps under way, cached pages, weights and counters. All pages can be
    /// handed out again.
    pub fn clear(&mut self) {
        let mut requests = std::mem::take(&mut self.requests);
        requests.clear();
        let fresh = Scheduler::new(self.config).expect("the bounds have been checked");
        // What went by these numbers before is never taken for something new.
        *self = Scheduler { requests, next_step: self.next_step, ..fresh };
    }

    /// Chooses what runs in the next step.
    pub fn schedule(&mut self, now: Micros) -> StepPlan {
        let mut plan = StepPlan { step: self.next_step, ..StepPlan::default() };
        let preemptions = self.counts.preemptions;
        self.retire();
        self.expire(now, &mut plan);
        self.admit_outranking(&mut plan);
        self.plan_decoding(&mut plan);
        let mut budget = self.config.step_tokens - plan.rows.len() as u32;
        self.plan_prompts(&mut plan, &mut budget);
        if self.counts.preemptions == preemptions {
            self.admit(&mut plan, &mut budget);
        }
        let same = plan.rows.iter().map(|row| row.request).eq(self.rows.iter().copied());
        plan.repeats = same && plan.rows.iter().all(|row| row.count == 1 && row.samples);
        if !same {
            self.rows = plan.rows.iter().map(|row| row.request).collect();
        }
        if !plan.rows.is_empty() {
            self.under_way.push_back((plan.step, plan.sampled().collect()));
            self.next_step += 1;
            self.counts.computed += u64::from(plan.tokens());
            self.counts.cached +=
                plan.admitted.iter().map(|admission| u64::from(admission.cached)).sum::<u64>();
        }
        plan
    }

    /// Takes what the oldest step under way has chosen: a token for each row that samples, in order.
    /// Returns the requests that have ended.
    ///
    /// # Errors
    /// It is another step, or there are more or fewer tokens; then nothing has changed.
    pub fn complete(
        &mut self,
        step: u64,
        chosen: &[Chosen],
    ) -> Result<Vec<(RequestId, End)>, OutcomeError> {
        match self.under_way.front() {
            Some((oldest, requests)) if *oldest == step => {
                let expected = requests.len();
                if chosen.len() != expected {
                    return Err(OutcomeError::Count { step, expected, found: chosen.len() });
                }
            }
            oldest => {
                let expected = oldest.map(|&(step, _)| step);
                return Err(OutcomeError::Step { expected, found: step });
            }
        }
        let (_, requests) = self.under_way.pop_front().expect("just looked at");
        let mut ended = Vec::new();
        for (request, chosen) in requests.into_iter().zip(chosen) {
            // Cancelled ones, and those that an earlier step has ended, are gone.
            let Some(entry) = self.requests.get_mut(request) else { continue };
            entry.pending -= 1;
            entry.tokens.push(chosen.token);
            if chosen.stop || entry.tokens.len() as u32 == entry.limit {
                ended.push((request, if chosen.stop { End::Stopped } else { End::Length }));
                self.end(request);
            } else {
                self.offer(request);
            }
        }
        Ok(ended)
    }

    /// The pages of a request in the order of its positions; none while it waits.
    pub fn pages(&self, request: RequestId) -> &[u32] {
        self.requests.get(request).map_or(&[], |entry| &entry.pages)
    }

    /// What it holds and has done.
    pub fn stats(&self) -> Stats {
        Stats {
            waiting: self.tenants.waiting(),
            running: self.running.len() as u32,
            requests: self.requests.len() as u32,
            pages_in_use: self.pages.in_use(),
            pages_cached: self.pages.idle(),
            preemptions: self.counts.preemptions,
            computed_tokens: self.counts.computed,
            cached_tokens: self.counts.cached,
        }
    }

    /// Whether requests have not ended or steps are under way.
    pub fn is_busy(&self) -> bool {
        !self.requests.is_empty() || !self.under_way.is_empty()
    }

    /// Frees what those held whose last row was in the plan before.
    fn retire(&mut self) {
        for request in std::mem::take(&mut self.leaving) {
            if self.requests.contains_key(request) {
                self.stop_running(request, Stage::Leaving);
            }
        }
    }

    fn expire(&mut self, now: Micros, plan: &mut StepPlan) {
        while let Some(&(deadline, request)) = self.deadlines.first()
            && deadline <= now
        {
            self.end(request);
            plan.expired.push(request);
        }
    }

    /// Admits the request whose turn it is in the place of those of its tenant that it outranks by
    /// priority, if that makes enough room.
    fn admit_outranking(&mut self, plan: &mut StepPlan) {
        let Some((tenant, request)) = self.tenants.next() else { return };
        self.tenants.put_back(tenant);
        let Entry { priority, rank, pending, .. } = self.requests[request];
        if pending > 0 || self.has_room() && self.missing_pages(request) == 0 {
            return;
        }
        let victims = self.outranked(request, tenant, priority, rank);
        for &victim in &victims {
            self.preempt(victim, plan);
        }
        if !victims.is_empty() {
            let admitted = self.try_admit(request, plan);
            debug_assert!(admitted, "the victims held what was missing");
        }
    }

    /// The fewest running requests, the last of rank first, that `request` outranks and whose places and
    /// pages it needs; none if they don't hold enough.
    fn outranked(
        &self,
        request: RequestId,
        tenant: TenantId,
        priority: i32,
        rank: Rank,
    ) -> Vec<RequestId> {
        let entry = &self.requests[request];
        let cached = self.cached_pages(entry);
        let mut missing = self.missing_beside(entry, &cached);
        let mut victims = Vec::new();
        for &id in self.running.iter().rev() {
            if missing == 0 && (!victims.is_empty() || self.has_room()) {
                return victims;
            }
            let other = &self.requests[id];
            if other.tenant != tenant || other.priority >= priority || other.rank < rank {
                continue;
            }
            // What both begin with, the request needs itself.
            let shared = cached.iter().zip(&other.pages).take_while(|(a, b)| a.0 == **b).count();
            let own = other.pages[shared..].iter().filter(|&&page| self.pages.users(page) == 1);
            missing = missing.saturating_sub(own.count() as u32);
            victims.push(id);
        }
        if missing == 0 { victims } else { Vec::new() }
    }

    /// Plans the next token of every running request that is due for one.
    fn plan_decoding(&mut self, plan: &mut StepPlan) {
        let mut index = 0;
        while let Some(&request) = self.running.get(index) {
            if self.requests[request].due() == 1 && self.make_room(request, plan) {
                self.plan_row(request, 1, plan);
            }
            index += 1;
        }
    }

    /// Sees to it that there is a page for the next position, taken if need be from the running request
    /// of the last rank. Returns whether `request` itself still runs. Those before it keep their pages.
    fn make_room(&mut self, request: RequestId, plan: &mut StepPlan) -> bool {
        let entry = &self.requests[request];
        if entry.computed < entry.pages.len() as u32 * self.config.page_size {
            return true;
        }
        loop {
            if let Some(page) = self.pages.take() {
                self.requests[request].pages.push(page);
                return true;
            }
            let &victim = self.running.last().expect("request runs");
            self.preempt(victim, plan);
            if victim == request {
                return false;
            }
        }
    }

    /// Plans chunks of the prompts of running requests.
    fn plan_prompts(&mut self, plan: &mut StepPlan, budget: &mut u32) {
        for index in 0..self.running.len() {
            let request = self.running[index];
            // One that has decoded is due for one token again.
            let due = self.requests[request].due();
            if *budget == 0 {
                return;
            }
            if due > 1 {
                let count = due.min(*budget);
                *budget -= count;
                self.plan_row(request, count, plan);
            }
        }
    }

    /// Admits waiting requests, each with the first chunk of its prompt.
    fn admit(&mut self, plan: &mut StepPlan, budget: &mut u32) {
        let mut passed: Vec<(TenantId, RequestId)> = Vec::new();
        while *budget > 0
            && self.has_room()
            && let Some((tenant, request)) = self.tenants.next()
        {
            if self.requests[request].pending == 0 && self.try_admit(request, plan) {
                for &(_, other) in &passed {
                    self.requests[other].overtaken += 1;
                }
                let count = self.requests[request].due().min(*budget);
                *budget -= count;
                self.plan_row(request, count, plan);
                self.tenants.put_back(tenant);
                continue;
            }
            passed.push((tenant, request));
            if self.requests[request].overtaken >= self.config.max_overtakes {
                break;
            }
        }
        for (tenant, _) in passed {
            self.tenants.put_back(tenant);
        }
    }

    fn has_room(&self) -> bool {
        self.running.len() < self.config.max_running as usize
    }

    /// The pages of other requests that hold what `request` begins with, all but its last token, which has
    /// to be computed for what is chosen behind it.
    fn cached_pages(&self, entry: &Entry) -> Vec<(PageId, ContentId)> {
        let mut content = entry.start;
        let full = (entry.end() - 1) / self.config.page_size;
        (0..full)
            .map_while(|index| {
                let found = self.pages.find(content, entry.page_tokens(index, &self.config))?;
                content = found.1;
                Some(found)
            })
            .collect()
    }

    /// Pages that would have to become free before `request` could be admitted.
    fn missing_pages(&self, request: RequestId) -> u32 {
        let entry = &self.requests[request];
        self.missing_beside(entry, &self.cached_pages(entry))
    }

    fn missing_beside(&self, entry: &Entry, cached: &[(PageId, ContentId)]) -> u32 {
        let used = cached.iter().filter(|&&(page, _)| self.pages.users(page) > 0).count() as u32;
        let reserved = if self.running.is_empty() { 0 } else { self.config.reserved_pages };
        let needed = self.config.pages_for(entry.end()) - used;
        // Nothing can be reserved beside a request that needs nearly all pages.
        let wanted = needed.saturating_add(reserved).min(self.pages.quota()).max(needed);
        wanted.saturating_sub(self.pages.available())
    }

    /// Gives a waiting request pages for all its tokens, if there are enough.
    fn try_admit(&mut self, request: RequestId, plan: &mut StepPlan) -> bool {
        let cached = self.cached_pages(&self.requests[request]);
        if self.missing_beside(&self.requests[request], &cached) > 0 {
            return false;
        }
        for &(page, _) in &cached {
            self.pages.share(page);
        }
        let entry = &mut self.requests[request];
        entry.pages = cached.iter().map(|&(page, _)| page).collect();
        entry.offered = cached.len() as u32;
        entry.content = cached.last().map_or(entry.start, |&(_, content)| content);
        entry.computed = entry.offered * self.config.page_size;
        entry.charged = entry.charged.max(entry.computed);
        entry.told = 0;
        while entry.pages.len() < self.config.pages_for(entry.end()) as usize {
            entry.pages.push(self.pages.take().expect("counted before"));
        }
        entry.stage = Stage::Running;
        let (tenant, rank, computed) = (entry.tenant, entry.rank, entry.computed);
        self.tenants.stop_waiting(tenant, rank);
        let index = self.running.partition_point(|&other| self.requests[other].rank < rank);
        self.running.insert(index, request);
        plan.admitted.push(Admission { request, cached: computed });
        true
    }

    fn plan_row(&mut self, request: RequestId, count: u32, plan: &mut StepPlan) {
        let entry = &mut self.requests[request];
        let (start, told) = (entry.computed, entry.told);
        let charge = entry.advance(count);
        let pages = entry.pages.len() as u32;
        entry.told = pages;
        let samples = entry.due() == 0;
        if samples {
            entry.pending += 1;
            if entry.due() == 0 {
                self.leaving.push(request);
            }
        }
        let tenant = entry.tenant;
        self.tenants.charge(tenant, charge);
        self.offer(request);
        let new_pages = pages - told;
        plan.rows.push(Row { request, start, count, samples, first_new_page: told, new_pages });
    }

    /// Lets others find the pages of a request that have become full. They will be when later steps run.
    fn offer(&mut self, request: RequestId) {
        let entry = &mut self.requests[request];
        if entry.stage != Stage::Running {
            return;
        }
        while entry.can_offer(&self.config) {
            let tokens = entry.page_tokens(entry.offered, &self.config);
            let page = entry.pages[entry.offered as usize];
            entry.content = self.pages.offer(page, entry.content, tokens);
            entry.offered += 1;
        }
    }

    /// Takes a running request's pages; it is computed again later.
    fn preempt(&mut self, request: RequestId, plan: &mut StepPlan) {
        self.stop_running(request, Stage::Waiting);
        let entry = &self.requests[request];
        self.tenants.wait(entry.tenant, entry.rank, request);
        self.counts.preemptions += 1;
        match plan.admitted.iter().position(|admission| admission.request == request) {
            // It never began to run.
            Some(index) => drop(plan.admitted.remove(index)),
            None => plan.preempted.push(request),
        }
    }

    fn stop_running(&mut self, request: RequestId, next: Stage) {
        let entry = &mut self.requests[request];
        entry.stage = next;
        entry.computed = 0;
        entry.offered = 0;
        entry.content = entry.start;
        let (pages, rank) = (std::mem::take(&mut entry.pages), entry.rank);
        self.pages.release(&pages);
        let index = self.running.partition_point(|&other| self.requests[other].rank < rank);
        self.running.remove(index);
    }

    /// Forgets a request.
    fn end(&mut self, request: RequestId) {
        let Entry { stage, tenant, rank, deadline, .. } = self.requests[request];
        match stage {
            Stage::Waiting => self.tenants.stop_waiting(tenant, rank),
            Stage::Running => self.stop_running(request, Stage::Leaving),
            Stage::Leaving => {}
        }
        if let Some(deadline) = deadline {
            self.deadlines.remove(&(deadline, request));
        }
        self.tenants.leave(tenant);
        self.requests.remove(request);
    }
}
