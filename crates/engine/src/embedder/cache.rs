//! Vectors of texts seen before.
//!
//! The key is BLAKE3 of the text, keyed with the model's digest. Its 256 bits are the whole comparison: no two texts
//! with the same key are known or can be searched for (collision resistance of 128 bits), so keeping and comparing the
//! texts would only cost memory. Keyed, because a vector of another model must never be found.
//!
//! Invariants: memory stays within the bound given; what is found is, bit for bit, what was put in.

use std::sync::Arc;

use edgewise_telemetry::names;
use moka::sync::Cache;

/// What an entry takes besides its vector: key, reference counts, the library's own record.
const ENTRY_BYTES: usize = 256;

/// The name of a text in the cache.
pub(super) type Key = [u8; 32];

/// A bounded cache.
pub(super) struct Vectors {
    model: [u8; 32],
    entries: Cache<Key, Arc<[f32]>>,
}

impl Vectors {
    /// A cache of at most about `bytes` bytes for the model of this digest.
    pub(super) fn new(digest: &str, bytes: u64) -> Self {
        let weight = |_: &Key, vector: &Arc<[f32]>| {
            u32::try_from(ENTRY_BYTES + size_of_val::<[f32]>(vector)).unwrap_or(u32::MAX)
        };
        let entries = Cache::builder().max_capacity(bytes).weigher(weight).build();
        Self { model: blake3::derive_key("edgewise embedding cache, version 1", digest.as_bytes()), entries }
    }

    pub(super) fn key(&self, text: &str) -> Key {
        *blake3::keyed_hash(&self.model, text.as_bytes()).as_bytes()
    }

    /// The vectors that are there, and the counters of hits and misses.
    pub(super) fn find(&self, keys: &[Key]) -> Vec<Option<Arc<[f32]>>> {
        let found: Vec<_> = keys.iter().map(|key| self.entries.get(key)).collect();
        let hits = found.iter().flatten().count();
        metrics::counter!(names::EMBED_CACHE_HITS_TOTAL).increment(hits as u64);
        metrics::counter!(names::EMBED_CACHE_MISSES_TOTAL).increment((found.len() - hits) as u64);
        found
    }

    pub(super) fn insert(&self, key: Key, vector: Arc<[f32]>) {
        self.entries.insert(key, vector);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_texts_and_models_apart() {
        let (one, other) = (Vectors::new("one", 1000), Vectors::new("other", 1000));
        assert_eq!(one.key("a"), one.key("a"));
        assert_ne!(one.key("a"), one.key("b"));
        assert_ne!(one.key("a"), other.key("a"));
    }

    #[test]
    fn memory_is_bounded_and_contents_are_exact() {
        let bytes = 100_000;
        let cache = Vectors::new("model", bytes);
        let vector: Arc<[f32]> = (0..384).map(|i| (i as f32).sin() / 3.0).collect();
        for i in 0..5000 {
            cache.insert(cache.key(&i.to_string()), vector.clone());
        }
        cache.entries.run_pending_tasks();
        assert!(cache.entries.weighted_size() <= bytes);
        let keys: Vec<Key> = (0..5000).map(|i| cache.key(&i.to_string())).collect();
        let found: Vec<_> = cache.find(&keys).into_iter().flatten().collect();
        assert!(!found.is_empty() && found.len() < 60);
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(found.iter().all(|v| bits(v) == bits(&vector)));
    }
}
