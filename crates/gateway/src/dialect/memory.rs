//! What the planner needs to go on with a conversation, for clients that only send texts back.
//!
//! The native API gives the client a [`Turn`] to send back. Clients of other dialects send questions and answers as plain
//! messages, so the server remembers the turns behind them, under a hash of tenant, collection and every text of the
//! conversation. It is bounded in bytes and forgets after an hour without use; what it has forgotten, or what the client
//! changed, is continued as a plain exchange without sources. So a lost entry costs warmth and never correctness.

use std::{sync::Arc, time::Duration};

use edgewise_planner::{Answer, MAX_TURNS, Route, Turn};
use edgewise_types::{CollectionName, Generation, TenantId};
use moka::sync::Cache;

use crate::state::AppState;

use super::task::CollectionTask;

/// Bytes of turns remembered in all.
const CAPACITY: u64 = 32 * 1024 * 1024;

/// How long a conversation is remembered after its last use: as long as its prefix may be kept.
const IDLE: Duration = Duration::from_secs(3600);

/// A conversation's texts, hashed. Two of them never share one: lengths go in too, and 32 bytes do not collide.
type Key = [u8; 32];

/// Remembered turns. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Memory {
    turns: Cache<Key, Arc<Vec<Turn>>>,
}

impl Default for Memory {
    fn default() -> Self {
        let weigh = |_: &Key, turns: &Arc<Vec<Turn>>| {
            let text: usize = turns.iter().map(|turn| turn.question.len() + turn.answer.len()).sum();
            let sources: usize = turns.iter().map(|turn| turn.sources.len() * 200).sum();
            u32::try_from(64 + text + sources).unwrap_or(u32::MAX)
        };
        Self { turns: Cache::builder().max_capacity(CAPACITY).weigher(weigh).time_to_idle(IDLE).build() }
    }
}

fn key<'a>(tenant: &TenantId, collection: &CollectionName, exchanges: impl Iterator<Item = (&'a str, &'a str)>) -> Key {
    let mut hasher = blake3::Hasher::new();
    let mut field = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    field(&tenant.0);
    field(collection.as_str());
    for (question, answer) in exchanges {
        field(question);
        field(answer);
    }
    *hasher.finalize().as_bytes()
}

/// The turns behind `exchanges`, questions and answers oldest first; at most as many as the planner reads, the latest.
pub(crate) fn turns(
    state: &AppState,
    tenant: &TenantId,
    collection: &CollectionName,
    exchanges: &[(String, String)],
) -> Vec<Turn> {
    let texts = |n: usize| exchanges[..n].iter().map(|(question, answer)| (question.as_str(), answer.as_str()));
    let known = (1..=exchanges.len())
        .rev()
        .find_map(|n| state.memory().turns.get(&key(tenant, collection, texts(n))).map(|turns| (n, turns)));
    let (n, mut turns) = known.map_or((0, Vec::new()), |(n, turns)| (n, turns.as_ref().clone()));
    for (question, answer) in &exchanges[n..] {
        let continues = turns.last().map_or(0, |before| before.continues + 1);
        turns.push(Turn {
            question: question.clone(),
            answer: answer.clone(),
            route: Route::Passages,
            sources: Vec::new(),
            generation: Generation::default(),
            continues,
            recap: false,
            attempt: None,
        });
    }
    let beyond = turns.len().saturating_sub(MAX_TURNS);
    turns.drain(..beyond);
    for (index, turn) in turns.iter_mut().enumerate() {
        turn.continues = turn.continues.min(index);
    }
    turns
}

/// Remembers `answer` to `task`.
pub(crate) fn keep(
    state: &AppState,
    tenant: &TenantId,
    collection: &CollectionName,
    task: &CollectionTask,
    answer: &Answer,
) {
    let mut all = turns(state, tenant, collection, &task.exchanges);
    all.push(answer.turn.clone());
    let before = task.exchanges.iter().map(|(question, answer)| (question.as_str(), answer.as_str()));
    let now = (task.question.as_str(), answer.text.as_str());
    state.memory().turns.insert(key(tenant, collection, before.chain([now])), Arc::new(all));
}
