//! Logits of every family and width of heads against the CPU, on the same made-up weights: as a prompt, in parts, and
//! token by token.
//!
//! The CPU multiplies the bf16 weights in f32 and keeps keys and values in f16; here activations, keys and values are
//! bf16, each rounding 2⁻⁹ at most, which over three layers and their some forty roundings of a row comes to about a
//! percent; in half precision to an eighth of that, beside which the CPU's own rounding of keys and values shows.

use edgewise_engine::decoder::{Arithmetic, Cpu, Cuda, Decoder, Half, LoadOptions};

use crate::support::{CUDA, CUDA_F16_FP8, CUDA_FP8, Sequence, decoder, devices, relative_error, shapes, tokens};

#[test]
fn logits_are_the_cpus_but_for_rounding() {
    for (attention, device) in devices(Half::Bf16) {
        println!("{attention:?}");
        logits_are_the_cpus(device, 2e-2);
    }
}

#[test]
fn logits_in_half_precision_are_the_cpus_but_for_rounding() {
    for (attention, device) in devices(Half::F16) {
        println!("{attention:?}");
        logits_are_the_cpus(device, 4e-3);
    }
}

/// Rounding keys and values to 4 significant bits outweighs all other rounding.
#[test]
fn logits_with_fp8_pages_are_the_cpus_but_for_rounding() {
    for device in [&*CUDA_FP8, &*CUDA_F16_FP8] {
        logits_are_the_cpus(device, 1e-1);
    }
}

fn logits_are_the_cpus(device: &Cuda, tolerance: f64) {
    let mut report = Vec::new();
    for (name, config) in shapes() {
        let (cpu, cuda) = (decoder(&config, Cpu { arithmetic: Arithmetic::F32 }), decoder(&config, device.clone()));
        let ids = tokens(450, 5);
        for end in [1, 31, 64, 65, 200, 449] {
            let expected = Sequence::new(&cpu, 512, usize::MAX).feed(&ids[..end]);
            let whole = Sequence::new(&cuda, 512, usize::MAX).feed(&ids[..end]);
            // The last tokens as if they had been generated.
            let prompt = end.saturating_sub(7).max(1);
            let mut stepwise = Sequence::new(&cuda, 512, prompt);
            let mut generated = stepwise.feed(&ids[..prompt]);
            for token in &ids[prompt..end] {
                generated = stepwise.feed(&[*token]);
            }
            for (how, logits) in [("at once", whole), ("stepwise", generated)] {
                report.push((relative_error(&logits, &expected), format!("{name}, {end} tokens {how}")));
            }
        }
    }
    report.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (error, what) in report.iter().take(8) {
        println!("{error:.2e} {what}");
    }
    assert!(report[0].0 < tolerance, "{report:?}");
    assert!(report.iter().all(|(error, _)| error.is_finite()));
}

#[test]
fn what_the_kernels_lack_is_refused_when_loading() {
    let refused = |config: &str| {
        let decoder = Decoder::with_random_weights(config, CUDA.clone(), &LoadOptions::default(), 0);
        decoder.expect_err("it is refused").to_string()
    };
    let (_, config) = shapes().remove(0);
    let narrow = refused(&config.replace("\"head_dim\":64", "\"head_dim\":32"));
    assert!(narrow.contains("32 dimensions") && narrow.contains("engine.device"), "{narrow}");
    let huge = refused(&config.replace("\"vocab_size\":512", "\"vocab_size\":1000000000"));
    assert!(huge.contains("are free") && huge.contains("billion parameters"), "{huge}");
}
