//! `edgewise keys`: works on the file of keys itself, beside a running server or without one.

use edgewise_access::{AccessStore, KeyId, KeyRecord, KeyState, Limits, NewKey};
use jiff::Timestamp;
use serde_json::json;

use crate::{
    app::App,
    args::{CreateKey, Expiry, Keys},
    error::CliError,
    output,
};

pub(crate) fn run(command: &Keys, app: &App) -> Result<(), CliError> {
    let store = app.access()?;
    match command {
        Keys::Create(args) => create(args, &store),
        Keys::List { all, json } => list(&store, *all, *json),
        Keys::Revoke { id, json } => revoke(&store, id, *json),
        Keys::Audit { recent, json } => audit(&store, *recent, *json),
    }
}

/// Who runs this command, for the audit log.
fn actor() -> String {
    let name = ["USER", "LOGNAME", "USERNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    format!("cli:{}", name.filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".to_owned()))
}

fn create(args: &CreateKey, store: &AccessStore) -> Result<(), CliError> {
    let now = Timestamp::now();
    let expires_at = match &args.expires {
        None => None,
        Some(Expiry::At(at)) => Some(*at),
        Some(Expiry::After(span)) => Some(
            now.checked_add(*span).map_err(|error| CliError::Usage(format!("--expires is out of range: {error}")))?,
        ),
    };
    let first = !store.has_keys();
    let made = store.create(
        NewKey {
            name: args.name.clone(),
            tenant: args.tenant.clone(),
            scopes: args.scope.iter().copied().collect(),
            expires_at,
            limits: Limits {
                requests_per_minute: args.requests_per_minute,
                concurrent_requests: args.concurrent_requests,
                tokens_per_day: args.tokens_per_day,
                max_input_tokens: args.max_input_tokens,
                max_cost: args.max_cost,
                max_latency_ms: args.max_latency_ms,
            },
        },
        &actor(),
        now,
    )?;
    if args.json {
        return output::json(&json!({"key": made.key, "record": made.record}));
    }
    // The key alone on standard output, so that a script can take it.
    output::line(&made.key)?;
    let record = &made.record;
    output::note(&format!(
        "key {} for tenant {}: {}; shown this once, so keep it now",
        record.id,
        record.tenant,
        limits(record)
    ));
    if first {
        output::note(
            "from now on the server answers only with a key; clients send it as Authorization: Bearer or x-api-key",
        );
    }
    Ok(())
}

/// Scopes, limits and end of a key in one phrase.
fn limits(record: &KeyRecord) -> String {
    let Limits { requests_per_minute, concurrent_requests, tokens_per_day, max_input_tokens, max_cost, max_latency_ms } =
        record.limits;
    let mut said = vec![record.scopes.to_string()];
    said.extend(requests_per_minute.map(|n| format!("{n} requests/min")));
    said.extend(concurrent_requests.map(|n| format!("{n} at once")));
    said.extend(tokens_per_day.map(|n| format!("{n} tokens/day")));
    said.extend(max_input_tokens.map(|n| format!("prompts to {n} tokens")));
    said.extend(max_cost.map(|usd| format!("${usd} a request")));
    said.extend(max_latency_ms.map(|ms| format!("{ms} ms a request")));
    said.extend(record.expires_at.map(|at| format!("until {}", time(at))));
    said.join(", ")
}

fn time(at: Timestamp) -> String {
    at.strftime("%F %T").to_string()
}

fn list(store: &AccessStore, all: bool, json: bool) -> Result<(), CliError> {
    let now = Timestamp::now();
    let mut keys = store.list();
    keys.retain(|key| all || key.state(now) == KeyState::Active);
    if json {
        let keys: Vec<serde_json::Value> = keys
            .iter()
            .map(|key| {
                let mut value = json!(key);
                value["state"] = json!(key.state(now));
                value
            })
            .collect();
        return output::json(&json!({"keys": keys}));
    }
    if keys.is_empty() {
        return Ok(output::line(match store.has_keys() {
            true => "no key works; --all lists those that did",
            false => {
                "there are no keys: the server answers everybody on this machine. `edgewise keys create` makes one"
            }
        })?);
    }
    let rows = keys.iter().map(|key| {
        let state = key.state(now);
        let used = key.last_used_at.map_or_else(|| "never".to_owned(), time);
        let shown = if state == KeyState::Active { output::good(state.as_str()) } else { output::dim(state.as_str()) };
        vec![
            key.id.to_string(),
            key.tenant.to_string(),
            key.name.clone(),
            limits(key),
            time(key.created_at),
            used,
            shown,
        ]
    });
    let header = ["key", "tenant", "name", "may", "made", "last used", "state"];
    Ok(output::line(&output::table(&header, &[], rows.collect()))?)
}

fn revoke(store: &AccessStore, id: &KeyId, json: bool) -> Result<(), CliError> {
    let now = Timestamp::now();
    store.revoke(id, &actor(), now)?;
    if json {
        return output::json(&json!({"id": id, "revoked_at": now}));
    }
    output::line(&format!("revoked {id}: within a second no server takes it, and its running answers end"))?;
    if !store.has_working_key(now) {
        output::note("no key works any more: nobody is answered until you make one with `edgewise keys create`");
    }
    Ok(())
}

fn audit(store: &AccessStore, recent: usize, json: bool) -> Result<(), CliError> {
    let entries = store.audit_log(recent)?;
    if json {
        return output::json(&json!({"entries": entries}));
    }
    if entries.is_empty() {
        return Ok(output::line("nothing was logged yet")?);
    }
    let rows = entries.iter().map(|entry| {
        let key = entry.key.as_ref().map_or_else(|| "–".to_owned(), ToString::to_string);
        let tenant = entry.tenant.as_ref().map_or_else(|| "–".to_owned(), ToString::to_string);
        let detail = match &entry.detail {
            serde_json::Value::Object(fields) => {
                let shown = fields.iter().filter(|(_, value)| !value.is_null());
                shown.map(|(name, value)| format!("{name} {}", plain(value))).collect::<Vec<_>>().join(", ")
            }
            other => plain(other),
        };
        let action = match entry.count {
            1 => entry.action.as_str().to_owned(),
            n => format!("{} ×{n}", entry.action.as_str()),
        };
        vec![time(entry.at), entry.actor.clone(), action, key, tenant, detail]
    });
    let header = ["time", "who", "what", "key", "tenant", "detail"];
    Ok(output::line(&output::table(&header, &[], rows.collect()))?)
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
