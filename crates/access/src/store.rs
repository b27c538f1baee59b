//! The file of keys, and what of it is held in memory.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rusqlite::{Connection, Row, params};
use serde_json::json;

use edgewise_types::TenantId;

use crate::{
    AccessError, CreatedKey, KeyId, KeyRecord, KeyState, NewKey, PublishedPrefix, Refused,
    audit::{self, Action, AuditEvent},
    key::{self, Digest},
    published, schema, sessions,
    tokens::Counted,
};

/// How often the time a key was last used is written.
const USES_EVERY: i64 = 60_000_000;

const COLUMNS: &str = "id, digest, name, tenant, scopes, limits, created_us, expires_us, revoked_us, last_used_us";

struct Stored {
    record: Arc<KeyRecord>,
    digest: Digest,
}

pub(crate) struct Session {
    pub(crate) key: KeyId,
    expires_us: i64,
}

/// The file's content.
#[derive(Default)]
pub(crate) struct Known {
    keys: HashMap<KeyId, Stored>,
    pub(crate) sessions: HashMap<Digest, Session>,
    pub(crate) published: Arc<Vec<PublishedPrefix>>,
}

impl Known {
    fn read(connection: &Connection) -> Result<Self, AccessError> {
        let mut keys = HashMap::new();
        let mut select = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM keys"))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let stored = stored(row)?;
            keys.insert(stored.record.id.clone(), stored);
        }
        let mut sessions = HashMap::new();
        let mut select = connection.prepare_cached("SELECT digest, key, expires_us FROM sessions")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let (digest, key): (Digest, String) = (row.get(0)?, row.get(1)?);
            sessions.insert(digest, Session { key: key.parse()?, expires_us: row.get(2)? });
        }
        Ok(Self { keys, sessions, published: Arc::new(published::read(connection)?) })
    }

    fn active(&self, now: jiff::Timestamp) -> HashSet<KeyId> {
        let active = self.keys.values().filter(|stored| stored.record.state(now) == KeyState::Active);
        active.map(|stored| stored.record.id.clone()).collect()
    }
}

/// What [`AccessStore::refresh`] found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// A key came, ended, or expired since the last time.
    pub keys: bool,
    /// What is published changed.
    pub published: bool,
}

/// What a refresh compares with the last.
struct Noticed {
    active: HashSet<KeyId>,
    published: Arc<Vec<PublishedPrefix>>,
    edits: u64,
}

/// The keys. Share it in an `Arc`; calls from several threads take turns only where they write.
pub struct AccessStore {
    connection: Mutex<Connection>,
    known: RwLock<Arc<Known>>,
    /// What the last refresh saw.
    noticed: Mutex<Noticed>,
    /// Changes this process made itself: a key that came and went between two refreshes is a change too.
    edits: AtomicU64,
    /// The file's version as of the last look.
    version: Mutex<i64>,
    /// When keys were last used, not yet written.
    uses: Mutex<HashMap<KeyId, i64>>,
    counted: Mutex<Counted>,
}

impl std::fmt::Debug for AccessStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessStore").finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AccessStore {
    /// Opens the keys at `path`, or makes the file, readable by its owner only, and its folder.
    ///
    /// # Errors
    /// If that fails.
    pub fn open(path: &Path, now: jiff::Timestamp) -> Result<Self, AccessError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|source| AccessError::Io { path: folder.to_owned(), source })?;
        }
        // SQLite gives its other files the permissions of this one.
        let mut options = std::fs::File::options();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(path).map_err(|source| AccessError::Io { path: path.to_owned(), source })?;
        let open = |source| AccessError::Open { path: path.to_owned(), source };
        let connection = Connection::open(path).map_err(open)?;
        // Another process may be writing: wait rather than fail.
        connection.busy_timeout(Duration::from_secs(5)).map_err(open)?;
        connection.pragma_update(None, "journal_mode", "wal").map_err(open)?;
        connection.pragma_update(None, "synchronous", "full").map_err(open)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(open)?;
        Self::with_schema(connection, path, now)
    }

    /// Keys that end with the process.
    ///
    /// # Errors
    /// If SQLite fails.
    pub fn in_memory(now: jiff::Timestamp) -> Result<Self, AccessError> {
        Self::with_schema(Connection::open_in_memory()?, Path::new(":memory:"), now)
    }

    fn with_schema(mut connection: Connection, path: &Path, now: jiff::Timestamp) -> Result<Self, AccessError> {
        schema::migrate(&mut connection, path)?;
        let version = data_version(&connection)?;
        let known = Arc::new(Known::read(&connection)?);
        let counted = Counted::read(&connection, now)?;
        Ok(Self {
            noticed: Mutex::new(Noticed {
                active: known.active(now),
                published: Arc::clone(&known.published),
                edits: 0,
            }),
            edits: AtomicU64::new(0),
            known: RwLock::new(known),
            version: Mutex::new(version),
            uses: Mutex::default(),
            counted: Mutex::new(counted),
            connection: Mutex::new(connection),
        })
    }

    /// A panic elsewhere cannot leave a transaction half done: the connection is usable.
    pub(crate) fn connection(&self) -> MutexGuard<'_, Connection> {
        locked(&self.connection)
    }

    pub(crate) fn counted(&self) -> MutexGuard<'_, Counted> {
        locked(&self.counted)
    }

    pub(crate) fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file again.
    pub(crate) fn reload(&self) -> Result<(), AccessError> {
        let known = Arc::new(Known::read(&self.connection())?);
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }

    /// Makes a key. It is on disk when this returns.
    ///
    /// # Errors
    /// [`AccessError::Invalid`]; if it can't be written.
    pub fn create(&self, new: NewKey, actor: &str, now: jiff::Timestamp) -> Result<CreatedKey, AccessError> {
        new.check(now)?;
        let (id, key, digest) = key::generate();
        let limits = serde_json::to_string(&new.limits).map_err(|error| AccessError::Invalid(error.to_string()))?;
        let NewKey { name, tenant, scopes, expires_at, limits: given } = new;
        {
            let mut connection = self.connection();
            let transaction = connection.transaction()?;
            transaction.execute(
                &format!("INSERT INTO keys ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, NULL, NULL)"),
                params![
                    id.as_str(),
                    digest,
                    name,
                    tenant.0.as_ref(),
                    scopes.to_string(),
                    limits,
                    now.as_microsecond(),
                    expires_at.map(jiff::Timestamp::as_microsecond),
                ],
            )?;
            let event = AuditEvent {
                actor: actor.to_owned(),
                action: Action::KeyCreated,
                key: Some(id.clone()),
                tenant: Some(tenant.clone()),
                detail: json!({"name": name, "scopes": scopes, "expires_at": expires_at, "limits": given}),
            };
            audit::write(&transaction, now, &event, 1)?;
            transaction.commit()?;
        }
        self.reload()?;
        self.edits.fetch_add(1, Ordering::AcqRel);
        let record = KeyRecord {
            id,
            name,
            tenant,
            scopes,
            limits: given,
            created_at: now,
            expires_at,
            revoked_at: None,
            last_used_at: None,
        };
        Ok(CreatedKey { record, key })
    }

    /// Ends a key, for good, with its sessions. It is on disk when this returns.
    ///
    /// # Errors
    /// [`AccessError::UnknownKey`], [`AccessError::AlreadyRevoked`]; if it can't be written.
    pub fn revoke(&self, id: &KeyId, actor: &str, now: jiff::Timestamp) -> Result<(), AccessError> {
        {
            let mut connection = self.connection();
            let transaction = connection.transaction()?;
            let changed = transaction.execute(
                "UPDATE keys SET revoked_us = ?2 WHERE id = ?1 AND revoked_us IS NULL",
                params![id.as_str(), now.as_microsecond()],
            )?;
            let known: i64 =
                transaction.query_row("SELECT count(*) FROM keys WHERE id = ?1", [id.as_str()], |row| row.get(0))?;
            match (known, changed) {
                (0, _) => return Err(AccessError::UnknownKey { id: id.clone() }),
                (_, 0) => return Err(AccessError::AlreadyRevoked { id: id.clone() }),
                _ => {}
            }
            transaction.execute("DELETE FROM sessions WHERE key = ?1", [id.as_str()])?;
            let event = AuditEvent {
                actor: actor.to_owned(),
                action: Action::KeyRevoked,
                key: Some(id.clone()),
                tenant: None,
                detail: json!({}),
            };
            audit::write(&transaction, now, &event, 1)?;
            transaction.commit()?;
        }
        self.reload()?;
        self.edits.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Every key that ever was, newest first.
    pub fn list(&self) -> Vec<KeyRecord> {
        let known = self.known();
        let mut keys: Vec<KeyRecord> = known.keys.values().map(|stored| (*stored.record).clone()).collect();
        let uses = locked(&self.uses);
        for key in &mut keys {
            let used = uses.get(&key.id).and_then(|us| at(*us).ok());
            key.last_used_at = key.last_used_at.max(used);
        }
        keys.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        keys
    }

    /// Whether a key was ever made: from then on, every request needs one.
    pub fn has_keys(&self) -> bool {
        !self.known.read().unwrap_or_else(PoisonError::into_inner).keys.is_empty()
    }

    /// Whether some key works at `now`.
    pub fn has_working_key(&self, now: jiff::Timestamp) -> bool {
        self.known().keys.values().any(|stored| stored.record.state(now) == KeyState::Active)
    }

    /// Whether this key works at `now`.
    pub fn works(&self, id: &KeyId, now: jiff::Timestamp) -> bool {
        self.known().keys.get(id).is_some_and(|stored| stored.record.state(now) == KeyState::Active)
    }

    /// The key's record, if the whole key `presented` is right and works at `now`. Does no I/O. A key that does not exist
    /// is hashed and compared like one that does.
    ///
    /// # Errors
    /// Why not.
    pub fn verify(&self, presented: &str, now: jiff::Timestamp) -> Result<Arc<KeyRecord>, Refused> {
        let (id, secret) = key::split(presented).ok_or(Refused::Malformed)?;
        let digest = key::digest(&id, secret);
        let known = self.known();
        let found = known.keys.get(&id);
        // No secret has this digest.
        const NOBODY: Digest = [0; blake3::OUT_LEN];
        let right = key::same(&digest, found.map_or(&NOBODY, |stored| &stored.digest));
        match found {
            Some(stored) if right => self.admit(&stored.record, now),
            _ => Err(Refused::Unknown),
        }
    }

    /// As [`Self::verify`], for the token of a session.
    ///
    /// # Errors
    /// Why not.
    pub fn verify_session(&self, token: &str, now: jiff::Timestamp) -> Result<Arc<KeyRecord>, Refused> {
        let known = self.known();
        // Whoever finds a token whose digest begins like a stored one has found a collision of BLAKE3 in part: what the
        // look-up's time tells is of no use.
        let session = known.sessions.get(&sessions::digest(token)).ok_or(Refused::Unknown)?;
        if session.expires_us <= now.as_microsecond() {
            return Err(Refused::Expired(session.key.clone()));
        }
        let stored = known.keys.get(&session.key).ok_or(Refused::Unknown)?;
        self.admit(&stored.record, now)
    }

    fn admit(&self, record: &Arc<KeyRecord>, now: jiff::Timestamp) -> Result<Arc<KeyRecord>, Refused> {
        match record.state(now) {
            KeyState::Revoked => Err(Refused::Revoked(record.id.clone())),
            KeyState::Expired => Err(Refused::Expired(record.id.clone())),
            KeyState::Active => {
                locked(&self.uses).insert(record.id.clone(), now.as_microsecond());
                Ok(Arc::clone(record))
            }
        }
    }

    /// Notices what other processes changed and what expired, and writes what was counted. To be called a few times a
    /// second.
    ///
    /// # Errors
    /// If the file can't be read or written; what was known before then stays in force.
    pub fn refresh(&self, now: jiff::Timestamp) -> Result<Refreshed, AccessError> {
        let version = data_version(&self.connection())?;
        if std::mem::replace(&mut *locked(&self.version), version) != version {
            self.reload()?;
        }
        let known = self.known();
        let now_seen = Noticed {
            active: known.active(now),
            published: Arc::clone(&known.published),
            edits: self.edits.load(Ordering::Acquire),
        };
        let refreshed = {
            let mut noticed = locked(&self.noticed);
            let refreshed = Refreshed {
                keys: noticed.edits != now_seen.edits || noticed.active != now_seen.active,
                published: noticed.published != now_seen.published,
            };
            *noticed = now_seen;
            refreshed
        };
        self.write_uses(&known, now)?;
        self.write_tokens(now)?;
        Ok(refreshed)
    }

    /// Writes when keys were last used, those that were not written for a minute.
    fn write_uses(&self, known: &Known, now: jiff::Timestamp) -> Result<(), AccessError> {
        let due: Vec<(KeyId, i64)> = {
            let uses = locked(&self.uses);
            let written = |id: &KeyId| {
                known.keys.get(id).and_then(|stored| stored.record.last_used_at).map(jiff::Timestamp::as_microsecond)
            };
            let due = uses.iter().filter(|(id, us)| written(id).is_none_or(|last| **us - last >= USES_EVERY));
            due.map(|(id, us)| (id.clone(), *us)).collect()
        };
        if due.is_empty() || now.as_microsecond() == 0 {
            return Ok(());
        }
        {
            let mut connection = self.connection();
            let transaction = connection.transaction()?;
            for (id, us) in &due {
                transaction.execute("UPDATE keys SET last_used_us = ?2 WHERE id = ?1", params![id.as_str(), us])?;
            }
            transaction.commit()?;
        }
        self.reload()
    }
}

/// Changes when another connection commits.
fn data_version(connection: &Connection) -> Result<i64, AccessError> {
    Ok(connection.pragma_query_value(None, "data_version", |row| row.get(0))?)
}

/// A time from its microseconds since 1970.
pub(crate) fn at(us: i64) -> Result<jiff::Timestamp, String> {
    jiff::Timestamp::from_microsecond(us).map_err(|error| error.to_string())
}

fn stored(row: &Row<'_>) -> Result<Stored, AccessError> {
    let id: String = row.get(0)?;
    let damaged = |reason: String| AccessError::Damaged { what: format!("key {id}"), reason };
    let time = |us: Option<i64>| us.map(at).transpose().map_err(damaged);
    let (tenant, scopes, limits): (String, String, String) = (row.get(3)?, row.get(4)?, row.get(5)?);
    let record = KeyRecord {
        id: id.parse()?,
        name: row.get(2)?,
        tenant: TenantId(tenant.into()),
        scopes: scopes.parse()?,
        limits: serde_json::from_str(&limits).map_err(|error| damaged(error.to_string()))?,
        created_at: at(row.get(6)?).map_err(damaged)?,
        expires_at: time(row.get(7)?)?,
        revoked_at: time(row.get(8)?)?,
        last_used_at: time(row.get(9)?)?,
    };
    Ok(Stored { record: Arc::new(record), digest: row.get(1)? })
}
