//! Budgets: how many retained pages of a tenant are safe from eviction.
//!
//! Every page under retention is charged to the account of whoever may read it: its tenant, or the public. Budgets
//! reserved by name are always granted whole. The rest, up to the limit, is granted page by page to the other tenants
//! in the order their pages come, each at most the default; what a tenant gives back can be granted to another's next
//! page. Accounts stay, one per tenant ever seen: tenants are configured, not invented by requests.

use std::collections::{BTreeSet, HashMap};

use edgewise_types::TenantId;

use crate::Reserved;

/// Index of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AccountId(pub(crate) u32);

/// Of pages that all tenants share.
pub(crate) const PUBLIC: AccountId = AccountId(0);

#[derive(Debug)]
struct Account {
    tenant: Option<TenantId>,
    by_name: bool,
    budget: usize,
    granted: usize,
    retained: usize,
}

/// All accounts.
#[derive(Debug)]
pub(crate) struct Budgets {
    accounts: Vec<Account>,
    by_tenant: HashMap<TenantId, AccountId>,
    reserved: Reserved,
    /// What may still be granted to tenants without a name in the reservations.
    grantable: usize,
    over: BTreeSet<AccountId>,
}

impl Budgets {
    /// Only the public account.
    pub(crate) fn new(reserved: Reserved) -> Self {
        let budget = reserved.public;
        Self {
            accounts: vec![Account { tenant: None, by_name: true, budget, granted: budget, retained: 0 }],
            by_tenant: HashMap::new(),
            grantable: reserved.limit.saturating_sub(reserved.promised()),
            over: BTreeSet::new(),
            reserved,
        }
    }

    pub(crate) fn find(&self, tenant: &TenantId) -> Option<AccountId> {
        self.by_tenant.get(tenant).copied()
    }

    /// Opens an account for a tenant that has none.
    pub(crate) fn add(&mut self, tenant: &TenantId) -> AccountId {
        let id = AccountId(self.accounts.len() as u32);
        let named = self.reserved.tenants.get(tenant);
        let budget = *named.unwrap_or(&self.reserved.default);
        let granted = named.copied().unwrap_or(0);
        let tenant = tenant.clone();
        self.by_tenant.insert(tenant.clone(), id);
        self.accounts.push(Account { tenant: Some(tenant), by_name: named.is_some(), budget, granted, retained: 0 });
        id
    }

    /// Whose it is; none is the public.
    pub(crate) fn tenant(&self, id: AccountId) -> Option<&TenantId> {
        self.accounts[id.0 as usize].tenant.as_ref()
    }

    /// A page on the device came under retention.
    pub(crate) fn charge(&mut self, id: AccountId) {
        let account = &mut self.accounts[id.0 as usize];
        account.retained += 1;
        if !account.by_name && account.granted < account.budget.min(account.retained) && self.grantable > 0 {
            account.granted += 1;
            self.grantable -= 1;
        }
        self.note(id);
    }

    /// It no longer is, or is no longer on the device.
    pub(crate) fn discharge(&mut self, id: AccountId) {
        let account = &mut self.accounts[id.0 as usize];
        account.retained -= 1;
        if !account.by_name && account.granted > account.retained {
            account.granted -= 1;
            self.grantable += 1;
        }
        self.note(id);
    }

    fn note(&mut self, id: AccountId) {
        let account = &self.accounts[id.0 as usize];
        if account.retained > account.granted {
            self.over.insert(id);
        } else {
            self.over.remove(&id);
        }
    }

    /// Accounts with more retained pages than they were granted.
    pub(crate) fn over(&self) -> impl Iterator<Item = AccountId> {
        self.over.iter().copied()
    }

    /// All accounts.
    pub(crate) fn all(&self) -> impl Iterator<Item = AccountId> + use<> {
        (0..self.accounts.len() as u32).map(AccountId)
    }

    /// Retained pages of all accounts.
    pub(crate) fn retained(&self) -> usize {
        self.accounts.iter().map(|account| account.retained).sum()
    }

    /// Retained pages of one account.
    #[cfg(test)]
    pub(crate) fn retained_of(&self, id: AccountId) -> usize {
        self.accounts[id.0 as usize].retained
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unnamed_tenants_share_what_is_not_promised() {
        let tenants = HashMap::from([(TenantId("named".into()), 3)]);
        let mut budgets = Budgets::new(Reserved { public: 1, tenants, default: 4, limit: 9 });
        let [named, a, b] = ["named", "a", "b"].map(|name| budgets.add(&TenantId(name.into())));
        // 9 - 1 - 3 = 5 pages for a and b: 4 to a, 1 to b.
        (0..5).for_each(|_| budgets.charge(a));
        (0..2).for_each(|_| budgets.charge(b));
        (0..3).for_each(|_| budgets.charge(named));
        assert_eq!(budgets.over().collect::<Vec<_>>(), [a, b]);
        // a is still over by none of these, b gets what a gives back.
        (0..3).for_each(|_| budgets.discharge(a));
        assert_eq!(budgets.over().collect::<Vec<_>>(), [b]);
        budgets.charge(b);
        assert_eq!(budgets.over().collect::<Vec<_>>(), [b]);
        budgets.discharge(b);
        assert_eq!(budgets.over().count(), 0);
        budgets.charge(named);
        assert_eq!(budgets.over().collect::<Vec<_>>(), [named]);
        budgets.charge(PUBLIC);
        assert_eq!(budgets.over().collect::<Vec<_>>(), [named]);
        budgets.charge(PUBLIC);
        assert_eq!(budgets.over().collect::<Vec<_>>(), [PUBLIC, named]);
        assert_eq!(budgets.retained(), 2 + 2 + 4 + 2);
    }
}
