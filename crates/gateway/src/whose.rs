//! Whose records, budgets and events a caller sees.
//!
//! The operator (an administrator of the tenant `local`) sees everybody's, or those of the tenant asked for; everybody else
//! sees those of the own tenant, whatever is asked for.

use crate::caller::Caller;

/// The tenant to show; `None` shows all.
pub(crate) fn visible(caller: &Caller, asked: Option<String>) -> Option<String> {
    if caller.is_operator() { asked } else { Some(owner(caller)) }
}

/// The tenant whose budgets the caller sets.
pub(crate) fn owner(caller: &Caller) -> String {
    caller.tenant.0.to_string()
}
