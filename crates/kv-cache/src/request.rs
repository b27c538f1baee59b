//! What a request asks of the cache, and what it learns.

use std::time::Duration;

use edgewise_types::TenantId;

use crate::{Move, Sequence};

/// How long a prefix is kept after its last use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ttl {
    /// Five minutes.
    FiveMinutes,
    /// One hour.
    OneHour,
}

impl Ttl {
    /// As a duration.
    pub fn duration(self) -> Duration {
        match self {
            Self::FiveMinutes => Duration::from_secs(5 * 60),
            Self::OneHour => Duration::from_secs(60 * 60),
        }
    }

    /// What is asked to stay longer is also given up later, when something retained has to go.
    pub fn priority(self) -> Priority {
        match self {
            Self::FiveMinutes => Priority::Normal,
            Self::OneHour => Priority::High,
        }
    }
}

/// Order in which retained pages beyond a budget are given up: lower ones first, by last use among equals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// Kept for five minutes.
    Normal,
    /// Kept for an hour.
    High,
}

/// The end of a prefix that is to be retained: tokens `..at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    /// Tokens before the boundary.
    pub at: usize,
    /// How long to keep them after their last use.
    pub ttl: Ttl,
}

/// A prompt looking for its prefix.
#[derive(Debug, Clone, Copy)]
pub struct OpenRequest<'a> {
    /// Whose request it is.
    pub tenant: &'a TenantId,
    /// The whole prompt.
    pub prompt: &'a [u32],
    /// Leading tokens that are the operator's own and the same for everybody. Their whole pages are shared by all
    /// tenants; everything after them is private to the tenant. It is part of the identity of what follows: the same
    /// tokens under another `public_tokens` are another prefix.
    pub public_tokens: usize,
    /// Ends of stable prefixes, in any order.
    pub boundaries: &'a [Boundary],
}

/// What is resident of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lookup {
    /// Leading tokens whose keys and values are held, at most all but the last.
    pub resident: usize,
    /// How many of them have to come back from host memory first.
    pub host: usize,
    /// Leading tokens that an open sequence is computing and is going to publish; 0 when that is no more than
    /// `resident`. It pays to wait for them.
    pub coming: usize,
    /// Why not all of the stable prefix is resident.
    pub miss: Option<Miss>,
}

/// A sequence that holds the resident prefix of its prompt.
#[derive(Debug)]
#[must_use = "a sequence holds pages until it is closed"]
pub struct Opened {
    /// The sequence. Goes back through [`crate::KvCache::close`] or [`crate::KvCache::preempt`].
    pub sequence: Sequence,
    /// Tokens it holds.
    pub resident: usize,
    /// Leading tokens that an earlier sequence is computing and is going to publish, see [`Lookup::coming`].
    pub coming: usize,
    /// To be executed, in order, before the next forward pass.
    pub moves: Vec<Move>,
    /// Why not all of the stable prefix is resident.
    pub miss: Option<Miss>,
}

/// A sequence looked up again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refreshed {
    /// Tokens it holds now.
    pub resident: usize,
    /// Leading tokens that an earlier sequence is computing and is going to publish, see [`Lookup::coming`]. Only
    /// sequences opened earlier count, so two never wait for each other.
    pub coming: usize,
    /// To be executed, in order, before the next forward pass.
    pub moves: Vec<Move>,
}

/// Why a stable prefix isn't resident, as far as its tenant may know: nothing here depends on what other tenants sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// The prompt is shorter than the cache takes.
    BelowMinimum,
    /// Something else was written after a common beginning.
    DivergedAt {
        /// The first token that differs.
        token: usize,
        /// The segment it is in: segment `i` ends at the `i`-th boundary in order of position, the last one with the
        /// prompt.
        segment: usize,
    },
    /// It was retained, the time ran out, and then its pages were needed.
    Expired,
    /// Its pages were needed.
    Evicted,
    /// It hasn't been seen, as far back as the cache remembers.
    NeverWritten,
    /// Another sequence is computing it right now.
    InFlight,
}

/// Kinds of [`Miss`], for the operator's statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MissReason {
    /// [`Miss::BelowMinimum`].
    BelowMinimum,
    /// [`Miss::DivergedAt`].
    DivergedAt,
    /// [`Miss::Expired`].
    Expired,
    /// [`Miss::Evicted`].
    Evicted,
    /// [`Miss::NeverWritten`].
    NeverWritten,
    /// The same tokens are resident, but they are another tenant's. Counted for the operator only; there is no such
    /// [`Miss`], since it would tell a tenant what others sent. The tenant is told what would be true without others.
    OtherTenant,
    /// [`Miss::InFlight`].
    InFlight,
}

impl MissReason {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::BelowMinimum,
        Self::DivergedAt,
        Self::Expired,
        Self::Evicted,
        Self::NeverWritten,
        Self::OtherTenant,
        Self::InFlight,
    ];

    /// As in metrics and ledgers.
    pub fn name(self) -> &'static str {
        match self {
            Self::BelowMinimum => "below_minimum",
            Self::DivergedAt => "diverged_at",
            Self::Expired => "expired",
            Self::Evicted => "evicted",
            Self::NeverWritten => "never_written",
            Self::OtherTenant => "other_tenant",
            Self::InFlight => "in_flight",
        }
    }
}

impl Miss {
    /// Its kind.
    pub fn reason(self) -> MissReason {
        match self {
            Self::BelowMinimum => MissReason::BelowMinimum,
            Self::DivergedAt { .. } => MissReason::DivergedAt,
            Self::Expired => MissReason::Expired,
            Self::Evicted => MissReason::Evicted,
            Self::NeverWritten => MissReason::NeverWritten,
            Self::InFlight => MissReason::InFlight,
        }
    }
}
