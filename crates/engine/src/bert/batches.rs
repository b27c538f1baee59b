//! Tokenised texts cut into batches, run over the cores.
//!
//! Texts are sorted by length and packed, without padding, into batches of about [`BATCH_TOKENS`] tokens that run beside
//! each other on the rayon pool, so that the parts between the matrix products are spread over the cores too. The
//! products inside a batch are divided further when cores are idle, as for a single question.

use edgewise_kernels::KernelError;
use edgewise_model_api::ModelError;
use rayon::prelude::*;

use super::Workspace;

/// Tokens of a batch, roughly: enough rows for the products to reach their rate, few enough that the widest activation
/// (1536 floats a token) stays near the size of a second-level cache.
pub(crate) const BATCH_TOKENS: usize = 512;
/// Smallest batch worth a task of its own.
const MIN_BATCH_TOKENS: usize = 64;

/// What the worker needs of a model.
///
/// Contract: a text's result is the same, bit for bit, whatever texts are beside it. The embedder's cache rests on it.
pub(crate) trait Encoder: Send + 'static {
    /// One result per text, in order: a vector, or scores.
    fn encode(&self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError>;
}

/// One result per text, in order; `run` gives those of a batch.
pub(crate) fn in_batches(
    texts: &[&[u32]],
    run: impl Fn(&[&[u32]], &mut Workspace) -> Result<Vec<Vec<f32>>, KernelError> + Sync,
) -> Result<Vec<Vec<f32>>, ModelError> {
    let lengths: Vec<usize> = texts.iter().map(|text| text.len()).collect();
    let computed = batches(&lengths, rayon::current_num_threads())
        .par_iter()
        .with_max_len(1)
        .map_init(Workspace::default, |workspace, batch| {
            let ids: Vec<&[u32]> = batch.iter().map(|&i| texts[i]).collect();
            let results = run(&ids, workspace)?;
            Ok(batch.iter().copied().zip(results).collect::<Vec<_>>())
        })
        .collect::<Result<Vec<_>, KernelError>>()
        .map_err(|e| ModelError::Internal(e.to_string()))?;
    let mut results = vec![Vec::new(); texts.len()];
    for (i, result) in computed.into_iter().flatten() {
        if !result.iter().all(|x| x.is_finite()) {
            let reason = "a vector or score is not finite: the model files are broken";
            return Err(ModelError::Internal(reason.to_owned()));
        }
        results[i] = result;
    }
    Ok(results)
}

/// Indices of `lengths`, longest first, cut into batches of roughly equal work.
fn batches(lengths: &[usize], threads: usize) -> Vec<Vec<usize>> {
    let total: usize = lengths.iter().sum();
    // Several batches per thread even out their different durations.
    let target = (total / (4 * threads)).clamp(MIN_BATCH_TOKENS, BATCH_TOKENS);
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for i in order {
        match batches.last_mut() {
            Some(batch) if lengths[i] <= room => batch.push(i),
            _ => {
                batches.push(vec![i]);
                room = target;
            }
        }
        room = room.saturating_sub(lengths[i]);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_text_is_in_one_batch_and_no_batch_is_too_long(
            lengths in prop::collection::vec(2_usize..512, 0..200), threads in 1_usize..9,
        ) {
            let batches = batches(&lengths, threads);
            let mut seen: Vec<usize> = batches.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for batch in batches {
                prop_assert!(batch.len() == 1 || batch.iter().map(|&i| lengths[i]).sum::<usize>() <= BATCH_TOKENS);
            }
        }
    }
}
