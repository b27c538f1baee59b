//! `edgewise usage budgets`.
//!
//! Budgets are in the ledger's file: a server that runs takes a change over within seconds.

use edgewise_ledger::{BudgetScope, BudgetStatus, Exhausted, Ledger, MoneyBudget};
use edgewise_types::{CollectionName, TenantId};

use crate::{
    args::{BudgetSet, Budgets},
    error::CliError,
    output,
};

pub(crate) fn run(command: &Budgets, ledger: &Ledger) -> Result<(), CliError> {
    let (now, owner) = (jiff::Timestamp::now(), TenantId::local());
    match command {
        Budgets::List { json } => {
            let budgets = ledger.budgets(now, None)?;
            if *json { output::json(&budgets) } else { list(&budgets) }
        }
        Budgets::Set(args) => {
            let BudgetSet { name, limit, period, tenant, key, collection, alert_at, webhook, hard } = args;
            let scope = BudgetScope { tenant: tenant.clone(), key: key.clone(), collection: collection.clone() };
            let budget = MoneyBudget {
                scope,
                period: *period,
                limit: *limit,
                alert_at: alert_at.clone(),
                webhook: webhook.clone(),
                hard: *hard,
            };
            ledger.set_budget(&owner.0, name, &budget, now)?;
            let what = if *hard { "refused" } else { "only told" };
            Ok(output::line(&format!("budget {name}: ${limit} a {}; beyond it work is {what}", period.as_str()))?)
        }
        Budgets::Delete { name } => {
            ledger.delete_budget(&owner.0, name, now)?;
            Ok(output::line(&format!("budget {name} deleted"))?)
        }
    }
}

/// Refuses work on `collection` in this process that a hard budget no longer pays for, as a server does.
pub(crate) fn admit(ledger: &Ledger, collection: &CollectionName) -> Result<(), CliError> {
    let (now, tenant) = (jiff::Timestamp::now(), TenantId::local());
    // Counts what is spent, which a server has a thread for.
    ledger.budgets(now, None)?;
    match ledger.exhausted(now, &tenant.0, None, Some(collection.as_str())) {
        None => Ok(()),
        Some(Exhausted { name, limit, period, until }) => Err(CliError::Busy(format!(
            "the budget `{name}` of ${limit} a {} is spent until {until}: wait, or raise it with `edgewise usage budgets set {name}`",
            period.as_str()
        ))),
    }
}

fn list(budgets: &[BudgetStatus]) -> Result<(), CliError> {
    if budgets.is_empty() {
        return Ok(output::line("no budgets; `edgewise usage budgets set NAME --limit DOLLARS` sets one")?);
    }
    let rows = budgets.iter().map(|status| {
        let BudgetStatus { name, scope, period, limit, hard, spent, forecast, to, .. } = status;
        let share = 100.0 * spent.as_dollars_lossy() / limit.as_dollars_lossy();
        let BudgetScope { tenant, key, collection } = scope;
        let scope: Vec<String> = [("tenant", tenant), ("key", key), ("collection", collection)]
            .into_iter()
            .filter_map(|(what, value)| value.as_ref().map(|value| format!("{what} {value}")))
            .collect();
        vec![
            name.clone(),
            if scope.is_empty() { "everything".to_owned() } else { scope.join(", ") },
            period.as_str().to_owned(),
            format!("${limit}"),
            format!("${spent}"),
            format!("{share:.0} %"),
            format!("${forecast}"),
            to.strftime("%F").to_string(),
            if *hard { "yes" } else { "no" }.to_owned(),
        ]
    });
    let header = ["name", "of", "period", "limit", "spent", "share", "expected", "until", "hard"];
    Ok(output::line(&output::table(&header, &[3, 4, 5, 6], rows.collect()))?)
}
