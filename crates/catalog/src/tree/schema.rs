//! The tables of trees, added by schema version 3.

/// `scope` of the part above documents; keys of documents begin at 1.
pub(super) const COLLECTION: i64 = 0;

/// `kind` of a member that is a chunk.
pub(super) const LEAF: i64 = 0;

/// `kind` of a member that is a node.
pub(super) const NODE: i64 = 1;

/// Seals of rows that stand alone are in the row; a part's seal covers its nodes and their members.
pub(crate) const TABLES: &str = "
CREATE TABLE summaries (
    row         INTEGER PRIMARY KEY,
    key         BLOB    NOT NULL UNIQUE CHECK (length(key) = 32),
    text        TEXT    NOT NULL,
    method      TEXT    NOT NULL,
    tokens      INTEGER NOT NULL CHECK (tokens >= 0),
    vector      BLOB    NOT NULL,
    usage       TEXT    NOT NULL,
    regenerated INTEGER NOT NULL CHECK (regenerated >= 0),
    unsupported TEXT    NOT NULL,
    seal        BLOB    NOT NULL
) STRICT;

-- AUTOINCREMENT: as of chunks.
CREATE TABLE tree_nodes (
    row      INTEGER PRIMARY KEY AUTOINCREMENT,
    node     BLOB    NOT NULL UNIQUE CHECK (length(node) = 32),
    scope    INTEGER NOT NULL CHECK (scope >= 0),  -- key of the document; 0: above documents
    ordinal  INTEGER NOT NULL CHECK (ordinal >= 0), -- its place in the part
    level    INTEGER NOT NULL CHECK (level >= 1),
    summary  BLOB    NOT NULL REFERENCES summaries (key),
    added_in INTEGER NOT NULL
) STRICT;
CREATE INDEX tree_nodes_by_scope ON tree_nodes (scope, ordinal);
CREATE INDEX tree_nodes_by_version ON tree_nodes (added_in);
CREATE INDEX tree_nodes_by_summary ON tree_nodes (summary);

-- Above documents, members may be gone; ids of content stay, to tell an update what belonged together.
CREATE TABLE tree_members (
    parent  INTEGER NOT NULL REFERENCES tree_nodes (row) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL CHECK (ordinal >= 0),
    kind    INTEGER NOT NULL CHECK (kind IN (0, 1)),
    id      BLOB    NOT NULL CHECK (length(id) = 32),
    target  INTEGER NOT NULL,                      -- a chunk's id, or the row of a node
    PRIMARY KEY (parent, ordinal)
) STRICT, WITHOUT ROWID;

CREATE TABLE tree_parts (
    scope       INTEGER PRIMARY KEY CHECK (scope >= 0),
    root_kind   INTEGER CHECK (root_kind IN (0, 1)),
    root        BLOB    CHECK ((root IS NULL) = (root_kind IS NULL)),
    root_target INTEGER CHECK ((root IS NULL) = (root_target IS NULL)),
    changed     INTEGER NOT NULL CHECK (changed >= 0),
    summariser  TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    seal        BLOB    NOT NULL
) STRICT;

-- The tree of the text that a document had before it was written again: JSON, without summaries.
CREATE TABLE tree_former (
    document INTEGER PRIMARY KEY REFERENCES documents (key) ON DELETE CASCADE,
    part     TEXT    NOT NULL,
    seal     BLOB    NOT NULL
) STRICT;

CREATE TABLE tree_tombstones (
    row        INTEGER PRIMARY KEY,
    added_in   INTEGER NOT NULL,
    removed_in INTEGER NOT NULL
) STRICT;
CREATE INDEX tree_tombstones_by_version ON tree_tombstones (removed_in);

CREATE TABLE tree_tombstone_seals (
    removed_in INTEGER PRIMARY KEY,
    hash       BLOB    NOT NULL
) STRICT;

CREATE TABLE tree_state (
    one                INTEGER PRIMARY KEY CHECK (one = 1),
    version            INTEGER NOT NULL CHECK (version >= 0),
    collection_current INTEGER NOT NULL CHECK (collection_current IN (0, 1))
) STRICT;
INSERT INTO tree_state VALUES (1, 0, 0);

CREATE TABLE jobs (
    row      INTEGER PRIMARY KEY,
    id       TEXT    NOT NULL UNIQUE,
    kind     TEXT    NOT NULL,
    state    TEXT    NOT NULL,
    done     INTEGER NOT NULL CHECK (done >= 0),
    total    INTEGER NOT NULL CHECK (total >= 0),
    detail   TEXT    NOT NULL,
    error    TEXT,
    created  TEXT    NOT NULL,
    started  TEXT,
    updated  TEXT    NOT NULL,
    finished TEXT,
    seal     BLOB    NOT NULL
) STRICT;
";

/// Sealed with the description of the collection; `?1` is 1.
pub(crate) const VERSION: &str = "SELECT version, collection_current FROM tree_state WHERE one = ?1";

pub(super) const SUMMARY_SEAL: [&str; 1] =
    ["SELECT key, text, method, tokens, vector, usage, regenerated, unsupported FROM summaries WHERE row = ?1"];

pub(crate) const PART_SEAL: [&str; 3] = [
    "SELECT scope, root_kind, root, root_target, changed, summariser, version FROM tree_parts WHERE scope = ?1",
    "SELECT row, node, ordinal, level, summary, added_in FROM tree_nodes WHERE scope = ?1 ORDER BY row",
    "SELECT m.parent, m.ordinal, m.kind, m.id, m.target FROM tree_nodes n JOIN tree_members m ON m.parent = n.row \
     WHERE n.scope = ?1 ORDER BY m.parent, m.ordinal",
];

pub(super) const FORMER_SEAL: [&str; 1] = ["SELECT document, part FROM tree_former WHERE document = ?1"];

pub(super) const TOMBSTONE_SEAL: [&str; 1] =
    ["SELECT row, added_in FROM tree_tombstones WHERE removed_in = ?1 ORDER BY row"];

pub(crate) const JOB_SEAL: [&str; 1] = [
    "SELECT id, kind, state, done, total, detail, error, created, started, updated, finished FROM jobs WHERE row = ?1",
];
