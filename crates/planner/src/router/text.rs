//! Text as a sparse vector: signed, hashed n-grams (Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask
//! Learning").
//!
//! Words and pairs of words, and 3- to 4-grams of characters inside words, which carry over to inflected and compounded
//! words. Each n-gram falls into one of [`BUCKETS`] with a sign, both from its FNV-1a hash; the vector has length 1. The
//! hash is part of the router file's format: it must never change for one format number.

use std::collections::BTreeMap;

use unicode_segmentation::UnicodeSegmentation;

/// Buckets that n-grams fall into.
pub const BUCKETS: usize = 1024;

/// Longest part of a text that is looked at, in characters: a pasted document is no question.
const MOST_CHARS: usize = 2000;

/// Bucket and value, by rising bucket.
pub type Sparse = Vec<(u32, f32)>;

/// The n-grams of `text`; empty for a text without words.
pub fn ngrams(text: &str) -> Sparse {
    let text: String = text.chars().take(MOST_CHARS).collect::<String>().to_lowercase();
    let words: Vec<&str> = text.unicode_words().collect();
    let mut counts: BTreeMap<u32, f32> = BTreeMap::new();
    let mut add = |space: &str, parts: &[&str], weight: f32| {
        let hash = hash(space, parts);
        let bucket = (hash % BUCKETS as u64) as u32;
        *counts.entry(bucket).or_insert(0.0) += if hash >> 63 == 0 { weight } else { -weight };
    };
    for word in &words {
        add("w", &[word], 1.0);
        let padded: Vec<char> = format!(" {word} ").chars().collect();
        for n in 3..=4 {
            for gram in padded.windows(n) {
                // Far more of these than words: together they weigh about as much.
                add("c", &[&gram.iter().collect::<String>()], 0.3);
            }
        }
    }
    for pair in words.windows(2) {
        add("w", pair, 1.0);
    }
    let length = counts.values().map(|value| value * value).sum::<f32>().sqrt();
    if length == 0.0 {
        return Vec::new();
    }
    counts.into_iter().filter(|(_, value)| *value != 0.0).map(|(bucket, value)| (bucket, value / length)).collect()
}

/// Hashes of the words of `text`, each once.
pub fn word_hashes(text: &str) -> Vec<u32> {
    let text: String = text.chars().take(MOST_CHARS).collect::<String>().to_lowercase();
    let mut hashes: Vec<u32> = text.unicode_words().map(|word| (hash("w", &[word]) & 0xffff_ffff) as u32).collect();
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

/// FNV-1a, 64 bits, with MurmurHash3's finalizer so that the top bit is as good as the low ones.
fn hash(space: &str, parts: &[&str]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in [space].iter().chain(parts) {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_hash_is_part_of_the_format() {
        assert_eq!(hash("w", &["harbour"]), hash("w", &["harbour"]));
        assert_ne!(hash("w", &["a", "b"]), hash("w", &["ab"]));
        // Fixed values: another hash would make every shipped file wrong without anything noticing.
        assert_eq!(word_hashes("Harbour, harbour!"), word_hashes("harbour"));
        assert_eq!(word_hashes("harbour"), [FIXED]);
    }

    const FIXED: u32 = 0xd0a0eda3;

    #[test]
    fn likeness_follows_the_words() {
        let dot = |a: &str, b: &str| -> f32 {
            let b: BTreeMap<u32, f32> = ngrams(b).into_iter().collect();
            ngrams(a).iter().map(|(at, value)| value * b.get(at).copied().unwrap_or(0.0)).sum()
        };
        let question = "When was the harbour founded?";
        assert!((dot(question, question) - 1.0).abs() < 1e-5);
        assert!(dot(question, "When was the city founded?") > dot(question, "Summarise all themes.") + 0.2);
        assert!(dot("Hafengründung", "Hafengründungen") > 0.4, "inflected words are alike");
        assert!(ngrams(" ?! ").is_empty());
    }

    proptest! {
        #[test]
        fn vectors_have_length_one_or_are_empty(text in "\\PC{0,300}") {
            let vector = ngrams(&text);
            let length: f32 = vector.iter().map(|(_, value)| value * value).sum();
            prop_assert!(vector.is_empty() || (length - 1.0).abs() < 1e-3);
            prop_assert!(vector.windows(2).all(|pair| pair[0].0 < pair[1].0));
            prop_assert!(vector.iter().all(|(bucket, _)| (*bucket as usize) < BUCKETS));
        }
    }
}
