//! A prompt behind a cached prefix against the same prompt cold, with every attention of prompts: bit for bit with our
//! own kernel, within rounding with candle-flash-attn, whose kernels for rows and for pages differ.

use edgewise_engine::{
    PromptAttention,
    decoder::{Backend, Half},
};

use crate::support::{Sequence, decoder, devices, relative_error, shapes, tokens};

/// Tokens of the prompt: an odd number, behind the last whole page and block of either kernel.
const LENGTH: usize = 447;
/// Where the prefix ends: on pages' boundaries, beside them, between, and at the last token but one.
const PREFIXES: [usize; 9] = [1, 31, 63, 64, 65, 128, 200, 384, 446];

#[test]
fn a_cached_prompt_is_a_cold_one_but_for_rounding() {
    // As much as a row differs from the CPU's: every layer rounds anew.
    for (half, tolerance) in [(Half::Bf16, 2e-2), (Half::F16, 2e-3)] {
        for (attention, device) in devices(half) {
            let (mut worst, mut differing, mut all) = (0.0f64, 0, 0);
            for (name, config) in shapes() {
                let decoder = decoder(&config, device.clone());
                let ids = tokens(LENGTH, 9);
                let cold = Sequence::new(&decoder, 512, usize::MAX).feed(&ids);
                for prefix in PREFIXES {
                    let mut sequence = Sequence::new(&decoder, 512, usize::MAX);
                    sequence.feed(&ids[..prefix]);
                    let cached = sequence.feed(&ids[prefix..]);
                    let error = relative_error(&cached, &cold);
                    let differ = cached.iter().zip(&cold).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                    (worst, differing, all) = (worst.max(error), differing + differ, all + cold.len());
                    match attention {
                        PromptAttention::Own => assert_eq!(differ, 0, "{name} behind {prefix} tokens"),
                        PromptAttention::FlashAttn => {
                            assert!(error < tolerance, "{name} behind {prefix} tokens: {error}");
                        }
                    }
                }
            }
            println!("{attention:?}, {half:?}: {differing} of {all} logits differ, by {worst:.2e} at most");
        }
    }
}

/// Only where the first part ends decides which kernel computes a row; how the rest is cut changes no bit.
#[test]
fn how_the_rest_of_a_prompt_is_cut_changes_nothing() {
    for half in [Half::Bf16, Half::F16] {
        for (attention, device) in devices(half) {
            for (name, config) in shapes() {
                let decoder = decoder(&config, device.clone());
                let ids = tokens(LENGTH, 4);
                let feed = |cuts: &[usize]| {
                    let mut sequence = Sequence::new(&decoder, 512, usize::MAX);
                    let parts = cuts.iter().zip(cuts.iter().skip(1)).map(|(from, to)| sequence.feed(&ids[*from..*to]));
                    parts.last().unwrap()
                };
                let expected = feed(&[0, 50, LENGTH]);
                for cuts in [&[0, 50, 51, LENGTH][..], &[0, 50, 64, 129, LENGTH], &[0, 50, 300, 446, LENGTH]] {
                    let found = feed(cuts);
                    let differing = found.iter().zip(&expected).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                    assert_eq!(differing, 0, "{attention:?}, {half:?}, {name}, cut at {cuts:?}");
                }
            }
        }
    }
}

#[test]
fn pages_of_different_attention_are_told_apart() {
    let formats: Vec<String> = devices(Half::Bf16).iter().map(|(_, device)| device.kv_format()).collect();
    for (i, format) in formats.iter().enumerate() {
        assert!(!formats[..i].contains(format), "{formats:?}");
    }
}
