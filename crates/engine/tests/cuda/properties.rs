//! The promise the prefix cache rests on: a token's logits do not depend, bit for bit, on the batch it is in, on how its
//! sequence was cut into passes, nor on the pages that hold it; only on the tokens before it and on which of them were
//! generated. With candle-flash-attn for prompts, where they were cut counts, too.

use edgewise_engine::{
    PromptAttention,
    decoder::{BatchEntry, Cuda, CudaKv, Decoder},
};
use edgewise_kv_cache::PageId;
use proptest::prelude::*;

use crate::support::{CUDA_F16_FP8, CUDA_FP8, Sequence, VOCABULARY, all_devices, decoder, shapes, tokens};

const PAGES: u32 = 64;

/// A sequence that is fed in parts, one of them in each pass; the generated ones token by token.
#[derive(Debug, Clone)]
struct Plan {
    tokens: Vec<u32>,
    prompt: usize,
    parts: Vec<usize>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let tokens = prop::collection::vec(0..VOCABULARY, 1..420);
    (tokens, prop::collection::vec(1usize..200, 1..6), 0usize..9).prop_map(|(tokens, cuts, generated)| {
        let prompt = tokens.len().saturating_sub(generated).max(1);
        let mut parts = Vec::new();
        let mut left = prompt;
        for cut in cuts.into_iter().cycle() {
            if left == 0 {
                break;
            }
            parts.push(cut.min(left));
            left -= cut.min(left);
        }
        parts.extend(std::iter::repeat_n(1, tokens.len() - prompt));
        Plan { tokens, prompt, parts }
    })
}

/// Feeds all plans together, each on its own pages, and returns the logits after each part.
fn batched(decoder: &Decoder<Cuda>, kv: &mut CudaKv, tables: &[Vec<PageId>], plans: &[Plan]) -> Vec<Vec<Vec<f32>>> {
    let mut results = vec![Vec::new(); plans.len()];
    let mut held = vec![0; plans.len()];
    for pass in 0..plans.iter().map(|plan| plan.parts.len()).max().unwrap() {
        let running: Vec<usize> = (0..plans.len()).filter(|i| pass < plans[*i].parts.len()).collect();
        let entry = |i: &usize| BatchEntry {
            tokens: &plans[*i].tokens[held[*i]..][..plans[*i].parts[pass]],
            position: held[*i],
            pages: &tables[*i],
            logits: true,
            generated_from: plans[*i].prompt,
        };
        let batch: Vec<BatchEntry<'_>> = running.iter().map(entry).collect();
        let logits = decoder.forward(kv, &batch).unwrap();
        for (i, logits) in running.into_iter().zip(logits) {
            results[i].push(logits.unwrap());
            held[i] += plans[i].parts[pass];
        }
    }
    results
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]
    #[test]
    fn logits_depend_on_the_sequence_alone(
        model in 0..shapes().len(),
        device in 0..all_devices().len(),
        plans in prop::collection::vec(plan(), 1..8),
        order in Just((0..PAGES).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let (name, config) = shapes().swap_remove(model);
        let (attention, device) = all_devices().swap_remove(device);
        let decoder = decoder(&config, device.clone());
        let mut kv = decoder.allocate(order.len()).unwrap();
        let mut pages = order.iter().copied().map(PageId);
        let tables: Vec<Vec<PageId>> =
            plans.iter().map(|plan| pages.by_ref().take(plan.tokens.len().div_ceil(64)).collect()).collect();
        // Left-overs of another sequence in every page.
        let noise: Vec<u32> = (0..64 * 8).map(|i| i % VOCABULARY).collect();
        for pages in order.chunks(8) {
            let pages: Vec<PageId> = pages.iter().copied().map(PageId).collect();
            let (tokens, generated_from) = (&noise[..pages.len() * 64], usize::MAX);
            let entry = BatchEntry { tokens, position: 0, pages: &pages, logits: false, generated_from };
            decoder.forward(&mut kv, &[entry]).unwrap();
        }
        let results = batched(&decoder, &mut kv, &tables, &plans);
        for (plan, results) in plans.iter().zip(&results) {
            let mut end = 0;
            let mut in_parts = Sequence::new(&decoder, plan.tokens.len(), plan.prompt);
            for (part, logits) in plan.parts.iter().zip(results) {
                end += part;
                let alone = match attention {
                    // At once, generated tokens included, as after a preemption.
                    PromptAttention::Own => Sequence::new(&decoder, end, plan.prompt).feed(&plan.tokens[..end]),
                    PromptAttention::FlashAttn => in_parts.feed(&plan.tokens[end - part..end]),
                };
                let differing = alone.iter().zip(logits).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                prop_assert!(differing == 0, "{attention:?}, {name}: {differing} logits differ after {end} tokens, prompt {}", plan.prompt);
            }
        }
    }
}

/// Pages that went to the host and came back elsewhere hold what they held.
#[test]
fn moved_pages_hold_what_they_held() {
    let (_, config) = shapes().remove(1);
    for (_, cuda) in all_devices() {
        moved_pages(cuda, &config);
    }
}

fn moved_pages(cuda: &Cuda, config: &str) {
    use edgewise_engine::decoder::Backend;
    let decoder = decoder(config, cuda.clone());
    let mut kv = decoder.allocate(8).unwrap();
    let tokens: Vec<u32> = (0..100).map(|i| i * 5 % VOCABULARY).collect();
    let pages = [PageId(2), PageId(5)];
    let feed = |kv: &mut CudaKv, tokens: &[u32], position: usize, pages: &[PageId]| {
        let entry = BatchEntry { tokens, position, pages, logits: true, generated_from: usize::MAX };
        decoder.forward(kv, &[entry]).unwrap().remove(0).unwrap()
    };
    feed(&mut kv, &tokens[..90], 0, &pages);
    let expected = feed(&mut kv, &tokens[90..], 90, &pages);
    let mut bytes = Vec::new();
    cuda.read_page(&kv, 2, &mut bytes);
    assert_eq!(bytes.len(), decoder.page_bytes());
    cuda.write_page(&mut kv, 7, &bytes);
    cuda.copy_page(&mut kv, 5, 0, 26);
    // What they were is overwritten.
    feed(&mut kv, &tokens[..90], 0, &[PageId(5), PageId(2)]);
    let moved = feed(&mut kv, &tokens[90..], 90, &[PageId(7), PageId(0)]);
    assert!(moved.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()));
}

/// A sequence whose every token counts as generated, so that no kernel but those for few rows takes part: at once, as
/// after a preemption, and step by step.
#[test]
fn generated_tokens_alone_give_the_same_logits_at_once_and_step_by_step() {
    for ((_, device), shape) in all_devices().into_iter().zip([1, 3].into_iter().cycle()) {
        let (name, config) = shapes().swap_remove(shape);
        let decoder = decoder(&config, device.clone());
        let tokens = tokens(70, 3);
        let at_once = Sequence::new(&decoder, 128, 0).feed(&tokens);
        let mut stepwise = Sequence::new(&decoder, 128, 0);
        let last = tokens.iter().map(|token| stepwise.feed(&[*token])).last().unwrap();
        assert!(at_once.iter().zip(&last).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
    }
}

/// Prompts that together are more than the room for 16-bit copies of FP8 pages, of different lengths, some of them behind
/// tokens that are held.
#[test]
fn prompts_that_go_group_by_group_give_the_same_logits() {
    for (device, shape) in [(&*CUDA_FP8, 2), (&*CUDA_F16_FP8, 4), (&*CUDA_FP8, 5)] {
        let (name, config) = shapes().swap_remove(shape);
        // Room for eight pages.
        let decoder = decoder(
            &config.replace("\"max_position_embeddings\":4096", "\"max_position_embeddings\":500"),
            device.clone(),
        );
        assert_eq!(decoder.config().context_window, 500, "{name}");
        let plan = |(i, length): (usize, usize)| {
            let parts = if i % 2 == 0 { vec![length] } else { vec![length / 3, length - length / 3] };
            Plan { tokens: tokens(length, i as u32), prompt: length, parts }
        };
        let plans: Vec<Plan> = [70, 130, 450, 40, 260, 64, 65, 300].into_iter().enumerate().map(plan).collect();
        let mut kv = decoder.allocate(PAGES as usize).unwrap();
        let mut pages = (0..PAGES).rev().map(PageId);
        let tables: Vec<Vec<PageId>> =
            plans.iter().map(|plan| pages.by_ref().take(plan.tokens.len().div_ceil(64)).collect()).collect();
        let results = batched(&decoder, &mut kv, &tables, &plans);
        for (plan, results) in plans.iter().zip(&results) {
            let alone = Sequence::new(&decoder, plan.prompt, plan.prompt).feed(&plan.tokens);
            let last = results.last().unwrap();
            assert!(alone.iter().zip(last).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}, {} tokens", plan.prompt);
        }
    }
}
