//! Whose records, budgets and events a caller sees.
//!
//! The operator (an administrator of the tenant `local`) sees everybody's, or those of the tenant asked for; everybody else
//! sees those of the own tenant, whatever is asked for.

/// The tenant to show; `None` shows all.
pub(crate) fn visible(asked: Option<String>) -> Option<String> {
    asked
}

/// The tenant that budgets are set for.
pub(crate) fn owner() -> &'static str {
    "local"
}
