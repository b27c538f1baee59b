//! Whose records, budgets and events a caller sees.
//!
//! The operator (an administrator of the tenant `local`) sees everybody's, or those of the tenant asked for; everybody else
//! sees those of the own tenant, whatever is asked for. Beside it, what one request of the caller may use.

use edgewise_planner::{Budget, Ceiling, Origin};
use edgewise_types::CollectionName;

use crate::{Whose, caller::Caller};

impl Caller {
    /// The tenant whose records to show; `None` shows all.
    pub(crate) fn shown(&self, asked: Option<String>) -> Option<String> {
        if self.is_operator() { asked } else { Some(self.tenant.0.to_string()) }
    }

    /// Public id of its key, as records have it.
    pub(crate) fn key_name(&self) -> Option<String> {
        self.key.as_ref().map(ToString::to_string)
    }

    /// What one request may use, if its key says so.
    pub(crate) fn ceilings(&self) -> Vec<Ceiling> {
        let budget = Budget {
            max_cost: self.limits.max_cost,
            max_input_tokens: self.limits.max_input_tokens.map(|most| usize::try_from(most).unwrap_or(usize::MAX)),
            max_latency_ms: self.limits.max_latency_ms,
        };
        let none = budget == Budget::default();
        if none { Vec::new() } else { vec![Ceiling { origin: Origin::Key, budget }] }
    }

    /// Who pays for its work.
    pub(crate) fn pays(&self, collection: Option<&CollectionName>) -> Whose {
        Whose { tenant: self.tenant.clone(), key: self.key_name(), collection: collection.cloned() }
    }
}
