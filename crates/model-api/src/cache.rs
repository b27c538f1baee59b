//! What a generator tells of its prefix cache.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_types::{TenantId, Usage};

use crate::{Boundary, Retention};

/// Why the tokens behind the resident prefix of a prompt were not resident, as far as its tenant may know: nothing here
/// depends on what other tenants sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum MissReason {
    /// The prompt is shorter than what is worth keeping.
    BelowMinimum,
    /// A prompt like it is cached up to here.
    DivergedAt {
        /// The first token that differs.
        token: usize,
        /// The segment it is in: the number of boundaries of the prompt at or before it.
        segment: usize,
    },
    /// It was retained, and its time is over.
    Expired,
    /// It was cached, and its pages were needed for something else.
    Evicted,
    /// Nothing like it was ever cached.
    NeverWritten,
    /// Another request computes it right now.
    InFlight,
}

impl MissReason {
    /// Its name without details, for labels of metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::BelowMinimum => "below_minimum",
            Self::DivergedAt { .. } => "diverged_at",
            Self::Expired => "expired",
            Self::Evicted => "evicted",
            Self::NeverWritten => "never_written",
            Self::InFlight => "in_flight",
        }
    }
}

/// What the engine's cache holds of a prompt right now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PrefixState {
    /// Leading tokens whose keys and values are resident. At most the prompt's length minus one: the last token is
    /// always computed, since its logits are needed.
    pub resident_tokens: usize,
    /// How many of these are in host memory and have to be brought to the device first.
    pub host_tokens: usize,
    /// Why there are not more; `None` when all that can be resident is, or when the engine does not say.
    pub miss: Option<MissReason>,
}

/// How the tokens of a prompt are counted when `resident` of them are in the cache: computed tokens before the last
/// boundary of an hour are written for an hour, those after it and before the last of five minutes for five minutes, and
/// the rest is plain input. Boundaries before `min_prefix_tokens` are not kept, so nothing is written for them.
///
/// This is the only definition: what is predicted and what is billed can't differ but by residency.
pub fn prompt_usage(
    prompt_tokens: usize,
    boundaries: &[Boundary],
    resident: usize,
    min_prefix_tokens: usize,
    output_tokens: usize,
) -> Usage {
    let resident = resident.min(prompt_tokens);
    let last = |retention| {
        let kept = |b: &&Boundary| b.retention == retention && b.at >= min_prefix_tokens;
        let at = boundaries.iter().filter(kept).map(|b| b.at).max().unwrap_or(0);
        at.min(prompt_tokens).max(resident)
    };
    let hour = last(Retention::OneHour);
    let five_minutes = last(Retention::FiveMinutes).max(hour);
    Usage {
        input_tokens: prompt_tokens - five_minutes,
        cache_read_tokens: resident,
        cache_write_5m_tokens: five_minutes - hour,
        cache_write_1h_tokens: hour - resident,
        output_tokens,
    }
}

/// A prefix the engine was asked to keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RetainedPrefix {
    /// Its name, never used twice by one engine.
    pub id: u64,
    /// Id of the longest other prefix that it begins with, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its length.
    pub tokens: usize,
    /// Pages it takes, those it shares with others included.
    pub pages: usize,
    /// How long it is kept after each use.
    pub retention: Retention,
    /// Seconds until it expires, unless it is used before.
    pub expires_in_s: f64,
    /// Requests that read it.
    pub hits: u64,
}

/// The cache of keys and values as a whole. Pages free, used and cached add up to the total.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CacheState {
    /// Tokens a page holds.
    pub page_tokens: usize,
    /// Bytes of a page, keys and values of all layers.
    pub page_bytes: usize,
    /// Pages planned at start.
    pub pages_total: usize,
    /// Pages that hold nothing.
    pub pages_free: usize,
    /// Pages of requests that run.
    pub pages_used: usize,
    /// Pages no request uses, kept for reuse.
    pub pages_cached: usize,
    /// Pages, used or cached, of retained prefixes.
    pub pages_retained: usize,
    /// Page-sized slots of host memory.
    pub host_pages_total: usize,
    /// Those that hold something.
    pub host_pages_used: usize,
    /// Prompt tokens found resident since the start.
    pub hit_tokens: u64,
    /// Prompt tokens not found, by the name of the reason. For the operator: here is also `other_tenant`, which no
    /// tenant is told.
    pub miss_tokens: BTreeMap<String, u64>,
    /// Pages evicted, by cause.
    pub evicted_pages: BTreeMap<String, u64>,
    /// What is retained.
    pub prefixes: Vec<RetainedPrefix>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boundary(at: usize, hour: bool) -> Boundary {
        Boundary { at, retention: if hour { Retention::OneHour } else { Retention::FiveMinutes } }
    }

    #[test]
    fn writes_are_counted_up_to_the_last_boundary_of_each_kind() {
        let usage = |resident, min_tokens, boundaries: &[Boundary]| {
            let u = prompt_usage(100, boundaries, resident, min_tokens, 7);
            (u.cache_read_tokens, u.cache_write_1h_tokens, u.cache_write_5m_tokens, u.input_tokens)
        };
        assert_eq!(usage(0, 0, &[]), (0, 0, 0, 100));
        assert_eq!(usage(0, 0, &[boundary(40, true), boundary(70, false)]), (0, 40, 30, 30));
        assert_eq!(usage(0, 0, &[boundary(40, false), boundary(70, true)]), (0, 70, 0, 30));
        assert_eq!(usage(50, 0, &[boundary(40, true), boundary(70, false)]), (50, 0, 20, 30));
        assert_eq!(usage(80, 0, &[boundary(40, true), boundary(70, false)]), (80, 0, 0, 20));
        assert_eq!(usage(0, 50, &[boundary(40, true), boundary(70, false)]), (0, 0, 70, 30), "40 is too short to keep");
    }

    #[test]
    fn the_classes_add_up_to_the_prompt() {
        for (prompt, resident, min_tokens) in [(1, 0, 0), (100, 0, 0), (100, 99, 0), (100, 55, 60), (100, 500, 0)] {
            for (first, second) in [(0, 0), (30, 70), (70, 30), (100, 200), (55, 60)] {
                for hours in [(false, false), (true, false), (false, true), (true, true)] {
                    let boundaries = [boundary(first, hours.0), boundary(second, hours.1)];
                    let usage = prompt_usage(prompt, &boundaries, resident, min_tokens, 1);
                    assert_eq!(usage.prompt_tokens(), prompt, "{boundaries:?} {resident} {min_tokens}");
                }
            }
        }
    }
}
