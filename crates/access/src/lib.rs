//! API keys, tenants, scopes and the audit log: one SQLite file (write-ahead log, `synchronous=FULL`) that servers and
//! commands share.
//!
//! Invariants:
//! - A secret is shown once, when its key is made, and is not stored. What is stored is its BLAKE3 hash. A password hash
//!   (Argon2, scrypt) makes guessing slow where secrets are guessable; these are 256 random bits, which no one guesses at
//!   any speed, and a slow hash would hand every caller a way to spend the server's time.
//! - Digests are compared in constant time, and a key that does not exist costs the work of one that does.
//! - Keys are never deleted, only revoked: an id stays explained, and revoking the last key can't open a server again.
//! - What decides about a request is in memory ([`AccessStore::verify`] does no I/O); [`AccessStore::refresh`] notices what
//!   other processes changed.
//! - Whoever makes or revokes a key, and whoever is refused, is in the audit log.
//!
//! Deliberately not here: HTTP, clocks (times come from the caller), counting requests, and what a scope allows.

mod audit;
mod error;
mod key;
mod published;
mod schema;
mod scopes;
mod sessions;
mod store;
mod tokens;

pub use audit::{Action, AuditEntry, AuditEvent};
pub use error::AccessError;
pub use key::{CreatedKey, KeyId, KeyRecord, KeyState, Limits, NewKey, Refused, tenant_name};
pub use published::PublishedPrefix;
pub use scopes::{Scope, Scopes};
pub use sessions::{SESSION_TIME, SessionToken};
pub use store::{AccessStore, Refreshed};
