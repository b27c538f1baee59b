//! Waiting tasks: first in, first out within a tenant; between tenants, whoever was served least.
//!
//! Service is counted in tokens, a generated one twice, since it takes a pass over the weights by itself. A tenant that
//! comes back does not catch up on what it did not ask for: its counter is lifted to the least of those active (the
//! virtual token counter of Sheng et al. 2024, "Fairness in Serving Large Language Models"). So between two tenants that
//! both have work all the time, the counters differ by no more than a step's work.

use std::collections::{BTreeMap, VecDeque};

use edgewise_types::TenantId;

use super::task::{Task, TaskId};

/// Counted for a token prefilled.
pub(crate) const PREFILL: u64 = 1;
/// Counted for a token generated.
pub(crate) const DECODE: u64 = 2;

#[derive(Debug, Default)]
struct Tenant {
    served: u64,
    waiting: VecDeque<Task>,
    /// Tasks that run.
    running: usize,
}

/// Waiting tasks by tenant, and the tokens each tenant was served.
#[derive(Debug, Default)]
pub(crate) struct FairQueue {
    tenants: BTreeMap<TenantId, Tenant>,
}

impl FairQueue {
    fn tenant(&mut self, tenant: &TenantId) -> &mut Tenant {
        if !self.tenants.contains_key(tenant) {
            // Counters of tenants without work are kept only as long as they are ahead of everybody's.
            let floor = self.floor();
            self.tenants.retain(|_, t| t.is_active() || t.served > floor);
            self.tenants.insert(tenant.clone(), Tenant { served: floor, ..Tenant::default() });
        }
        self.tenants.entry(tenant.clone()).or_default()
    }

    /// The least counter of the tenants that have work.
    fn floor(&self) -> u64 {
        let active = self.tenants.values().filter(|tenant| tenant.is_active());
        active.map(|tenant| tenant.served).min().unwrap_or(0)
    }

    /// Appends a new task.
    pub(crate) fn push(&mut self, task: Task) {
        let floor = self.floor();
        if self.tenants.values().all(|tenant| !tenant.is_active()) {
            self.tenants.clear();
        }
        let tenant = self.tenant(&task.tenant);
        if !tenant.is_active() {
            tenant.served = tenant.served.max(floor);
        }
        tenant.waiting.push_back(task);
    }

    /// Puts back a running task, before all younger ones.
    pub(crate) fn put_back(&mut self, task: Task) {
        let tenant = self.tenant(&task.tenant);
        tenant.running = tenant.running.saturating_sub(1);
        let at = tenant.waiting.partition_point(|waiting| waiting.id < task.id);
        tenant.waiting.insert(at, task);
    }

    /// The oldest waiting task of a tenant.
    pub(crate) fn head(&self, tenant: &TenantId) -> Option<&Task> {
        self.tenants.get(tenant)?.waiting.front()
    }

    /// Takes the oldest waiting task of a tenant, to be run.
    pub(crate) fn start(&mut self, tenant: &TenantId) -> Option<Task> {
        let tenant = self.tenants.get_mut(tenant)?;
        let task = tenant.waiting.pop_front()?;
        tenant.running += 1;
        Some(task)
    }

    /// Notes another running task of a tenant, which never waited.
    pub(crate) fn forked(&mut self, tenant: &TenantId) {
        self.tenant(tenant).running += 1;
    }

    /// Notes the end of a running task.
    pub(crate) fn ended(&mut self, tenant: &TenantId) {
        let tenant = self.tenant(tenant);
        tenant.running = tenant.running.saturating_sub(1);
    }

    /// Counts service.
    pub(crate) fn charge(&mut self, tenant: &TenantId, tokens: u64) {
        match self.tenants.get_mut(tenant) {
            Some(tenant) => tenant.served += tokens,
            None => self.tenant(tenant).served += tokens,
        }
    }

    /// Tenants with work, the least served first; among equals, those of which nothing waits, then by age of what does.
    pub(crate) fn order(&self) -> Vec<TenantId> {
        let active = self.tenants.iter().filter(|(_, tenant)| tenant.is_active());
        let key = |tenant: &Tenant| (tenant.served, tenant.waiting.front().map(|task| task.id));
        let mut order: Vec<_> = active.map(|(id, tenant)| (key(tenant), id)).collect();
        order.sort();
        order.into_iter().map(|(_, id)| id.clone()).collect()
    }

    /// Removes a waiting task.
    pub(crate) fn remove(&mut self, id: TaskId) -> Option<Task> {
        self.tenants.values_mut().find_map(|tenant| {
            let at = tenant.waiting.iter().position(|task| task.id == id)?;
            tenant.waiting.remove(at)
        })
    }

    /// Waiting tasks.
    pub(crate) fn len(&self) -> usize {
        self.tenants.values().map(|tenant| tenant.waiting.len()).sum()
    }

    /// Waiting tasks of a tenant.
    #[cfg(test)]
    pub(crate) fn waiting(&self, tenant: &TenantId) -> usize {
        self.tenants.get(tenant).map_or(0, |tenant| tenant.waiting.len())
    }

    /// What a tenant was served, in its counter's terms.
    #[cfg(test)]
    pub(crate) fn served(&self, tenant: &TenantId) -> u64 {
        self.tenants.get(tenant).map_or(0, |tenant| tenant.served)
    }
}

impl Tenant {
    fn is_active(&self) -> bool {
        self.running > 0 || !self.waiting.is_empty()
    }
}
