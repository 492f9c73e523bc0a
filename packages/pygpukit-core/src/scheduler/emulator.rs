//! A device and a model for tests: it keeps in every page what was written to it, chooses each token by
//! everything that its row's page table shows of the sequence, and checks each plan against what it
//! knows without asking the scheduler.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::*;

/// What the keys and values of a position depend on: every token up to there.
fn fold(before: u64, token: Token) -> u64 {
    let mut hasher = DefaultHasher::new();
    (before, token).hash(&mut hasher);
    hasher.finish()
}

/// The token behind a prefix, and whether it is the last.
fn choose(prefix: u64) -> Chosen {
    Chosen { token: (prefix % 7) as Token, stop: prefix.is_multiple_of(23) }
}

/// What a request gets alone, and how it ends.
pub(super) fn expected(request: &Request) -> (Vec<Token>, End) {
    let mut prefix =
        request.prompt.iter().fold(request.variant.into(), |prefix, &token| fold(prefix, token));
    let mut output = Vec::new();
    loop {
        let chosen = choose(prefix);
        output.push(chosen.token);
        prefix = fold(prefix, chosen.token);
        match chosen.stop {
            true => return (output, End::Stopped),
            false if output.len() as u32 == request.max_new_tokens => return (output, End::Length),
            false => {}
        }
    }
}

/// A request that has not ended.
struct Live {
    request: Request,
    /// Every token, those included whose outcome isn't reported.
    tokens: Vec<Token>,
    reported: usize,
    running: bool,
    computed: u32,
    pages: Vec<u32>,
}

/// The scheduler, the device under it, and what both have done.
pub(super) struct Emulator {
    pub(super) scheduler: Scheduler,
    pub(super) now: Micros,
    live: BTreeMap<RequestId, Live>,
    /// What each place of each page was last written with.
    memory: BTreeMap<(u32, u32), u64>,
    under_way: VecDeque<(StepPlan, Vec<Chosen>)>,
    /// How each request has ended, with its output.
    pub(super) ended: BTreeMap<RequestId, (Vec<Token>, End)>,
    /// Everything that the scheduler has decided.
    pub(super) plans: Vec<StepPlan>,
}

impl Emulator {
    pub(super) fn new(config: SchedulerConfig) -> Emulator {
        Emulator {
            scheduler: Scheduler::new(config).unwrap(),
            now: 0,
            live: BTreeMap::new(),
            memory: BTreeMap::new(),
            under_way: VecDeque::new(),
            ended: BTreeMap::new(),
            plans: Vec::new(),
        }
    }

    pub(super) fn submit(&mut self, request: Request) -> Result<RequestId, Refusal> {
        let id = self.scheduler.submit(request.clone(), self.now)?;
        let tokens = request.prompt.clone();
        let live = Live {
            reported: tokens.len(),
            tokens,
            request,
            running: false,
            computed: 0,
            pages: Vec::new(),
        };
        assert!(self.live.insert(id, live).is_none(), "{id:?} is given twice");
        Ok(id)
    }

    pub(super) fn cancel(&mut self, id: RequestId) {
        assert_eq!(self.scheduler.cancel(id), self.live.remove(&id).is_some());
    }

    pub(super) fn live(&self) -> Vec<RequestId> {
        self.live.keys().copied().collect()
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Plans a step, checks it, and runs it; its outcome isn't reported yet.
    pub(super) fn schedule(&mut self) -> StepPlan {
        let due: Vec<RequestId> =
            self.live.keys().copied().filter(|&id| self.decodes(id)).collect();
        let plan = self.scheduler.schedule(self.now);
        self.follow(&plan);
        for id in due {
            let decoded = plan.rows.iter().any(|row| row.request == id);
            let left = plan.preempted.contains(&id) || plan.expired.contains(&id);
            assert!(decoded != left, "{id:?} could decode and does not: {plan:?}");
        }
        let idle = plan.rows.is_empty() && self.under_way.is_empty();
        assert!(!idle || self.live.is_empty(), "idle with {} requests", self.live.len());
        self.check_bounds(&plan);
        let chosen = self.run(&plan);
        if !plan.rows.is_empty() {
            self.under_way.push_back((plan.clone(), chosen));
        }
        self.check_stats();
        self.plans.push(plan.clone());
        plan
    }

    /// Reports the outcome of the oldest step under way.
    pub(super) fn complete(&mut self) {
        let Some((plan, chosen)) = self.under_way.pop_front() else { return };
        let ended = self.scheduler.complete(plan.step, &chosen).unwrap();
        let mut expected_ends = Vec::new();
        for (id, chosen) in plan.sampled().zip(chosen) {
            let Some(live) = self.live.get_mut(&id) else { continue };
            assert_eq!(live.tokens[live.reported], chosen.token);
            live.reported += 1;
            let output = live.reported - live.request.prompt.len();
            let full = output as u32 == live.request.max_new_tokens;
            if chosen.stop || full {
                let end = if chosen.stop { End::Stopped } else { End::Length };
                expected_ends.push((id, end));
                let live = self.live.remove(&id).unwrap();
                let output = live.tokens[live.request.prompt.len()..live.reported].to_vec();
                self.ended.insert(id, (output, end));
            }
        }
        assert_eq!(ended, expected_ends);
        self.check_stats();
    }

    /// Runs until everything has ended.
    pub(super) fn drain(&mut self) {
        let work: usize = self
            .live
            .values()
            .map(|live| live.request.prompt.len() + live.request.max_new_tokens as usize)
            .sum();
        // Each step computes a token; some more than once, after preemptions.
        for _ in 0..100 + 50 * work {
            if self.live.is_empty() && self.under_way.is_empty() {
                self.scheduler.schedule(self.now); // frees what the last plan's requests held
                assert!(!self.scheduler.is_busy());
                let stats = self.scheduler.stats();
                let left = (stats.waiting, stats.running, stats.requests, stats.pages_in_use);
                assert_eq!(left, (0, 0, 0, 0));
                return;
            }
            self.schedule();
            self.complete();
        }
        panic!("{} requests never end", self.live.len());
    }

    /// Whether a request runs and lacks nothing but its next token.
    fn decodes(&self, id: RequestId) -> bool {
        let live = &self.live[&id];
        let limit = live.request.prompt.len() as u32 + live.request.max_new_tokens;
        let end = (live.tokens.len() as u32).min(limit - 1);
        live.running && live.computed + 1 == end
    }

    /// Takes note of who runs and who doesn't any more.
    fn follow(&mut self, plan: &StepPlan) {
        for id in &plan.expired {
            let live = self.live.remove(id).expect("only unfinished requests expire");
            assert!(live.request.deadline.is_some_and(|deadline| deadline <= self.now));
            let output = live.tokens[live.request.prompt.len()..live.reported].to_vec();
            self.ended.insert(*id, (output, End::Expired));
        }
        let overdue = |live: &Live| live.request.deadline.is_some_and(|time| time <= self.now);
        assert!(!self.live.values().any(overdue));
        for id in &plan.preempted {
            let live = self.live.get_mut(id).unwrap();
            assert!(live.running);
            (live.running, live.computed) = (false, 0);
            live.pages.clear();
        }
        for &Admission { request, cached } in &plan.admitted {
            let live = self.live.get_mut(&request).unwrap();
            assert!(!live.running);
            assert_eq!(live.reported, live.tokens.len(), "it runs before its tokens are known");
            (live.running, live.computed) = (true, cached);
        }
    }

    fn check_bounds(&self, plan: &StepPlan) {
        let config = self.scheduler.config();
        assert!(plan.tokens() <= config.step_tokens);
        let running = self.live.values().filter(|live| live.running).count();
        assert!(running as u32 <= config.max_running + self.leaving());
        let before = self.plans.last().map_or(&[][..], |plan| &plan.rows);
        let requests = |rows: &[Row]| rows.iter().map(|row| row.request).collect::<Vec<_>>();
        let same = requests(before) == requests(&plan.rows);
        assert_eq!(plan.repeats, same && plan.rows.iter().all(|row| row.count == 1 && row.samples));
        let distinct: BTreeSet<_> = plan.rows.iter().map(|row| row.request).collect();
        assert_eq!(distinct.len(), plan.rows.len(), "two rows of one request");
        let used: BTreeSet<u32> =
            self.live.keys().flat_map(|&id| self.scheduler.pages(id)).copied().collect();
        assert!(used.iter().all(|&page| page < config.pages));
    }

    /// Requests for which only an outcome is missing.
    fn leaving(&self) -> u32 {
        let full = |live: &Live| {
            live.tokens.len() == live.request.prompt.len() + live.request.max_new_tokens as usize
        };
        self.live.values().filter(|live| full(live)).count() as u32
    }

    fn check_stats(&self) {
        let stats = self.scheduler.stats();
        assert_eq!(stats.requests as usize, self.live.len());
        let used: BTreeSet<u32> =
            self.live.keys().flat_map(|&id| self.scheduler.pages(id)).copied().collect();
        assert_eq!(stats.pages_in_use as usize, used.len());
        assert!(stats.pages_in_use + stats.pages_cached <= self.scheduler.config().pages);
        assert!(stats.pages_cached <= self.scheduler.config().cached_pages);
    }

    /// Writes and reads the pages as the kernels would; returns what is chosen.
    fn run(&mut self, plan: &StepPlan) -> Vec<Chosen> {
        // All rows write before any reads, as in a layer.
        for row in &plan.rows {
            self.write(row);
        }
        plan.rows.iter().filter(|row| row.samples).map(|row| self.read(row)).collect()
    }

    fn write(&mut self, row: &Row) {
        let pages = self.scheduler.pages(row.request).to_vec();
        let live = self.live.get_mut(&row.request).unwrap();
        assert!(live.running && row.count > 0);
        assert_eq!(row.start, live.computed, "positions are left out or computed twice");
        let known = row.first_new_page as usize;
        assert_eq!(pages[..known], live.pages[..known], "old pages have changed");
        assert!(known == live.pages.len() || known == 0);
        assert_eq!(known + row.new_pages as usize, pages.len());
        live.pages = pages;
        live.computed += row.count;
        assert!(live.computed as usize <= live.tokens.len());
        assert_eq!(row.samples, live.computed as usize == live.tokens.len());
        let size = self.scheduler.config().page_size;
        let mut prefix = live.tokens[..row.start as usize]
            .iter()
            .fold(live.request.variant.into(), |p, &t| fold(p, t));
        for position in row.start..row.start + row.count {
            prefix = fold(prefix, live.tokens[position as usize]);
            let page = live.pages[(position / size) as usize];
            self.memory.insert((page, position % size), prefix);
        }
    }

    fn read(&mut self, row: &Row) -> Chosen {
        let size = self.scheduler.config().page_size;
        let live = self.live.get_mut(&row.request).unwrap();
        let mut prefix = live.request.variant.into();
        for (position, &token) in live.tokens.iter().enumerate() {
            prefix = fold(prefix, token);
            let position = position as u32;
            let page = live.pages[(position / size) as usize];
            let found = self.memory.get(&(page, position % size));
            assert_eq!(found, Some(&prefix), "page {page} doesn't hold position {position}");
        }
        let chosen = choose(prefix);
        live.tokens.push(chosen.token);
        chosen
    }
}
