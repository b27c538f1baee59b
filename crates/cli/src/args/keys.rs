//! Arguments of `edgewise keys`.

use clap::{Args, Subcommand};

use edgewise_access::{KeyId, Scope, tenant_name};
use edgewise_types::{Money, TenantId};

fn tenant(text: &str) -> Result<TenantId, String> {
    tenant_name(text).map_err(|error| error.to_string())
}

fn scope(text: &str) -> Result<Scope, String> {
    text.parse().map_err(|error: edgewise_access::AccessError| error.to_string())
}

fn key_id(text: &str) -> Result<KeyId, String> {
    // A whole key does too, as far as its id: it is what people have at hand.
    let id = text.get(..16).filter(|_| text.len() > 16 && text.starts_with("ewk_")).unwrap_or(text);
    id.parse().map_err(|error: edgewise_access::AccessError| error.to_string())
}

/// When a key ends: a time, or a span from now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expiry {
    /// At this time.
    At(jiff::Timestamp),
    /// After this long.
    After(jiff::SignedDuration),
}

fn expiry(text: &str) -> Result<Expiry, String> {
    if let Ok(at) = text.parse() {
        return Ok(Expiry::At(at));
    }
    let days =
        text.strip_suffix('d').and_then(|days| days.parse::<i64>().ok()).filter(|days| (1..=36_500).contains(days));
    match (days, text.parse::<jiff::SignedDuration>()) {
        (Some(days), _) => Ok(Expiry::After(jiff::SignedDuration::from_hours(24 * days))),
        (None, Ok(span)) if span.is_positive() => Ok(Expiry::After(span)),
        _ => Err("give a span such as 90d or 12h, or a time such as 2027-01-01T00:00:00Z".to_owned()),
    }
}

/// Arguments of `keys create`.
#[derive(Debug, Args)]
pub(crate) struct CreateKey {
    /// What to call it in lists
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) name: String,
    /// Whose collections, caches and records it reaches; `local` is the server's own
    #[arg(long, value_name = "NAME", default_value = "local", value_parser = tenant)]
    pub(crate) tenant: TenantId,
    /// What it may do: query (ask, search, read), ingest (change collections), admin (what others asked, and what is kept
    /// and spent)
    #[arg(long, value_name = "SCOPES", value_delimiter = ',', default_value = "query,ingest", value_parser = scope)]
    pub(crate) scope: Vec<Scope>,
    /// When it ends by itself: a span such as 90d, or a time
    #[arg(long, value_name = "WHEN", value_parser = expiry)]
    pub(crate) expires: Option<Expiry>,
    /// Most requests a minute
    #[arg(long, value_name = "N")]
    pub(crate) requests_per_minute: Option<u32>,
    /// Most requests at once
    #[arg(long, value_name = "N")]
    pub(crate) concurrent_requests: Option<u32>,
    /// Most tokens a day, read and written
    #[arg(long, value_name = "N")]
    pub(crate) tokens_per_day: Option<u64>,
    /// Longest prompt of a request, in tokens
    #[arg(long, value_name = "N")]
    pub(crate) max_input_tokens: Option<u64>,
    /// Most a request may cost, in dollars
    #[arg(long, value_name = "USD")]
    pub(crate) max_cost: Option<Money>,
    /// Longest predicted time of a request, in milliseconds
    #[arg(long, value_name = "MS")]
    pub(crate) max_latency_ms: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Commands on keys. They work on the file of keys itself; a running server takes changes up within a second.
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make a key and print it, the only time it is shown
    Create(CreateKey),
    /// List keys
    List {
        /// Also those that are revoked or expired
        #[arg(long)]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End a key, for good
    Revoke {
        /// Its id, such as ewk_7h2k9q0v4m1x
        #[arg(value_parser = key_id)]
        id: KeyId,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show who made and revoked keys, who was refused, and what administrators did
    Audit {
        /// Entries to show
        #[arg(long, default_value_t = 20)]
        recent: usize,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_keys_end_is_a_time_or_a_span() {
        assert_eq!(expiry("90d").unwrap(), Expiry::After(jiff::SignedDuration::from_hours(90 * 24)));
        assert_eq!(expiry("12h").unwrap(), Expiry::After(jiff::SignedDuration::from_hours(12)));
        assert_eq!(expiry("2027-01-01T00:00:00Z").unwrap(), Expiry::At("2027-01-01T00:00:00Z".parse().unwrap()));
        for bad in ["", "soon", "0d", "-3d", "-1h", "2027"] {
            assert!(expiry(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_is_named_by_its_id_or_by_itself() {
        let id = "ewk_0123456789ab";
        assert_eq!(key_id(id).unwrap().as_str(), id);
        assert_eq!(key_id(&format!("{id}_secret")).unwrap().as_str(), id);
        assert!(key_id("ewk_0123").is_err() && key_id("é").is_err());
    }
}
