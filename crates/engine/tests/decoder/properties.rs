//! The promise the prefix cache rests on, on every family: a token's logits do not depend, bit for bit, on the batch it
//! is in, on how its sequence was cut into passes, on the pages that hold it, nor on the number of threads.

use edgewise_engine::decoder::{BatchEntry, CpuKv, Decoder, LoadOptions};
use edgewise_kv_cache::PageId;
use proptest::prelude::*;

use crate::support::{Sequence, load};

const MODELS: [&str; 7] = ["llama-mha", "llama-gqa-yarn.gguf", "llama-mqa", "mistral", "qwen2", "qwen3", "mpt"];

/// A sequence that is fed in parts, one of them in each pass.
#[derive(Debug, Clone)]
struct Plan {
    tokens: Vec<u32>,
    parts: Vec<usize>,
}

fn plan() -> impl Strategy<Value = Plan> {
    (prop::collection::vec(0u32..96, 1..130), prop::collection::vec(1usize..60, 1..8)).prop_map(|(tokens, cuts)| {
        let mut parts = Vec::new();
        let mut left = tokens.len();
        for cut in cuts.into_iter().cycle() {
            if left == 0 {
                break;
            }
            parts.push(cut.min(left));
            left -= cut.min(left);
        }
        Plan { tokens, parts }
    })
}

/// Feeds all plans together, each on its own pages, and returns the logits after each part.
fn batched(decoder: &Decoder, kv: &mut CpuKv, tables: &[Vec<PageId>], plans: &[Plan]) -> Vec<Vec<Vec<f32>>> {
    let mut results = vec![Vec::new(); plans.len()];
    let mut held = vec![0; plans.len()];
    for pass in 0..plans.iter().map(|plan| plan.parts.len()).max().unwrap() {
        let running: Vec<usize> = (0..plans.len()).filter(|i| pass < plans[*i].parts.len()).collect();
        let entry = |i: &usize| BatchEntry {
            tokens: &plans[*i].tokens[held[*i]..][..plans[*i].parts[pass]],
            position: held[*i],
            pages: &tables[*i],
            logits: true,
            generated_from: usize::MAX,
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

/// Disjoint block tables over a pool of pages in some shuffled order.
fn tables(plans: &[Plan], order: &[u32]) -> Vec<Vec<PageId>> {
    let mut pages = order.iter().copied().map(PageId);
    plans.iter().map(|plan| pages.by_ref().take(plan.tokens.len().div_ceil(32)).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn logits_depend_on_the_tokens_before_alone(
        model in 0usize..MODELS.len(),
        plans in prop::collection::vec(plan(), 1..5),
        order in Just((0..32u32).collect::<Vec<_>>()).prop_shuffle(),
        threads in 1usize..4,
    ) {
        let decoder = load(MODELS[model], &LoadOptions::default()).unwrap();
        let mut kv = decoder.allocate(order.len()).unwrap();
        let tables = tables(&plans, &order);
        // Left-overs of another sequence in every page.
        let noise: Vec<u32> = (0..160).map(|i| i % 96).collect();
        for pages in order.chunks(5) {
            let pages: Vec<PageId> = pages.iter().copied().map(PageId).collect();
            let tokens = &noise[..pages.len() * 32];
            decoder.forward(&mut kv, &[BatchEntry { tokens, position: 0, pages: &pages, logits: false, generated_from: usize::MAX }]).unwrap();
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let results = pool.install(|| batched(&decoder, &mut kv, &tables, &plans));
        for (plan, results) in plans.iter().zip(&results) {
            let mut end = 0;
            for (part, logits) in plan.parts.iter().zip(results) {
                end += part;
                let alone = Sequence::new(&decoder, end).feed(&plan.tokens[..end]);
                let same = alone.iter().zip(logits).all(|(a, b)| a.to_bits() == b.to_bits());
                prop_assert!(same, "{} after {end} tokens", MODELS[model]);
            }
        }
    }
}
