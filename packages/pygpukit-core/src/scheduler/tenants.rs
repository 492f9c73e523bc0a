//! Fairness between tenants: who has been served how much, and whose turn it is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::num::NonZeroU32;

use super::rank::Rank;
use super::request::{RequestId, TenantId};

/// One token of a tenant of weight 1.
const UNIT: u64 = 1 << 20;

/// The tenants that have requests, and those that have been served more than their share.
pub(super) struct Tenants {
    tenants: BTreeMap<TenantId, Tenant>,
    weights: BTreeMap<TenantId, u32>,
    /// Each tenant with waiting requests once, by what it had been served at some time: perhaps less
    /// than by now, never more.
    queue: BinaryHeap<Reverse<(u64, TenantId)>>,
    /// What the tenant whose turn it last was had been served; never falls.
    turn: u64,
    /// Requests that have not ended, of all tenants.
    requests: u32,
    waiting: u32,
}

struct Tenant {
    weight: u32,
    /// Tokens for its weight.
    served: u64,
    /// Requests that have not ended.
    requests: u32,
    waiting: BTreeMap<Rank, RequestId>,
    queued: bool,
}

impl Tenants {
    pub(super) fn new() -> Tenants {
        Tenants {
            tenants: BTreeMap::new(),
            weights: BTreeMap::new(),
            queue: BinaryHeap::new(),
            turn: 0,
            requests: 0,
            waiting: 0,
        }
    }

    /// Requests that wait, of all tenants.
    pub(super) fn waiting(&self) -> u32 {
        self.waiting
    }

    /// From now on `tenant` is served `weight` tokens where others of weight 1 are served one.
    pub(super) fn set_weight(&mut self, tenant: TenantId, weight: NonZeroU32) {
        self.weights.insert(tenant, weight.get());
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            tenant.weight = weight.get();
        }
    }

    /// A new request of `tenant`.
    pub(super) fn enter(&mut self, tenant: TenantId) {
        let (turn, weights) = (self.turn, &self.weights);
        let entry = self.tenants.entry(tenant).or_insert_with(|| Tenant {
            weight: weights.get(&tenant).copied().unwrap_or(1),
            served: turn,
            requests: 0,
            waiting: BTreeMap::new(),
            queued: false,
        });
        if entry.requests == 0 {
            // Whoever was away starts level with the others.
            entry.served = entry.served.max(turn);
        }
        entry.requests += 1;
        self.requests += 1;
    }

    /// A request of `tenant` has ended; it doesn't wait.
    pub(super) fn leave(&mut self, tenant: TenantId) {
        self.get(tenant).requests -= 1;
        self.requests -= 1;
        if self.requests == 0 {
            self.tenants.clear();
            self.queue.clear();
        } else {
            self.forget(tenant);
        }
    }

    /// Drops what is known of a tenant that would be put level anyway if it came back.
    fn forget(&mut self, tenant: TenantId) {
        let entry = self.get(tenant);
        if entry.requests == 0 && !entry.queued && entry.served <= self.turn {
            self.tenants.remove(&tenant);
        }
    }

    pub(super) fn wait(&mut self, tenant: TenantId, rank: Rank, request: RequestId) {
        self.get(tenant).waiting.insert(rank, request);
        self.waiting += 1;
        self.put_back(tenant);
    }

    pub(super) fn stop_waiting(&mut self, tenant: TenantId, rank: Rank) {
        let removed = self.get(tenant).waiting.remove(&rank);
        self.waiting -= u32::from(removed.is_some());
    }

    /// `tenant` has been served `tokens` tokens.
    pub(super) fn charge(&mut self, tenant: TenantId, tokens: u32) {
        let tenant = self.get(tenant);
        tenant.served += u64::from(tokens) * UNIT / u64::from(tenant.weight);
    }

    /// The tenant whose turn it is, taken out of the queue, and its first request. `put_back` puts it
    /// back.
    pub(super) fn next(&mut self) -> Option<(TenantId, RequestId)> {
        while let Some(Reverse((known, id))) = self.queue.pop() {
            let tenant = self.get(id);
            let Some((_, &request)) = tenant.waiting.first_key_value() else {
                tenant.queued = false;
                self.forget(id);
                continue;
            };
            let served = tenant.served;
            if served > known {
                self.queue.push(Reverse((served, id)));
                continue;
            }
            tenant.queued = false;
            self.turn = self.turn.max(served);
            return Some((id, request));
        }
        None
    }

    /// Queues `tenant` if requests of it wait.
    pub(super) fn put_back(&mut self, tenant: TenantId) {
        let entry = self.get(tenant);
        if !entry.queued && !entry.waiting.is_empty() {
            entry.queued = true;
            let served = entry.served;
            self.queue.push(Reverse((served, tenant)));
        }
    }

    fn get(&mut self, tenant: TenantId) -> &mut Tenant {
        self.tenants.get_mut(&tenant).expect("it has entered and not left")
    }
}
