//! The contract of an embedder.

use edgewise_model_api::Embedder;

use super::TEXTS;

/// Rounding between batches of different shape, on single-precision kernels.
const ROUNDING: f32 = 2e-3;

/// Checks shape, unit length, determinism, order, independence of the batch, and the refusal of too long inputs.
#[track_caller]
pub fn embedder(embedder: &dyn Embedder) {
    let info = embedder.info();
    assert!(info.dimension > 0 && info.max_tokens > 2, "{info:?}");
    assert!(!info.digest.is_empty(), "the digest identifies the weights");

    assert!(embedder.embed(&[]).expect("no texts is no error").is_empty());
    let together = embedder.embed(TEXTS).expect("any short text can be embedded");
    assert_eq!(together.len(), TEXTS.len(), "one vector a text");
    for (text, vector) in TEXTS.iter().zip(&together) {
        assert_eq!(vector.len(), info.dimension, "{text:?}");
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((norm - 1.0).abs() < 1e-3, "length {norm} of the vector of {text:?}");
        let alone = embedder.embed(&[text]).expect("a text that embeds in a batch embeds alone");
        let difference = alone[0].iter().zip(vector).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference < ROUNDING, "{text:?} depends on its batch: {difference}");
    }
    assert_eq!(together, embedder.embed(TEXTS).unwrap(), "embedding is deterministic");

    let long = "word ".repeat(info.max_tokens + 1);
    assert!(embedder.embed(&[&long]).is_err(), "an input over {} tokens is an error, not cut", info.max_tokens);
}
