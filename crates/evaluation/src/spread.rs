//! Many questions at once, on threads of their own.
//!
//! Not on rayon's pool: the embedder computes there, and a pool whose threads all wait for the embedder would never get
//! to embed anything.

use std::{
    num::NonZero,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// What `ask` says of each item, in order; the first error ends it.
pub(crate) fn spread<T, R, E, F>(items: &[T], ask: F) -> Result<Vec<R>, E>
where
    T: Sync,
    R: Send,
    E: Send,
    F: Fn(&T) -> Result<R, E> + Sync,
{
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(items.len());
    let (next, answers) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(items.len())));
    let answers_of = || answers.lock().unwrap_or_else(PoisonError::into_inner);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((at, item)) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    items.get(at).map(|item| (at, item))
                } {
                    let answer = ask(item);
                    if answer.is_err() {
                        next.store(items.len(), Ordering::Relaxed);
                    }
                    answers_of().push((at, answer));
                }
            });
        }
    });
    let mut answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
    answers.sort_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use edgewise_model_api::{Embedder, EmbedderInfo, ModelError, Tokenizer};
    use edgewise_test_support::HashEmbedder;
    use rayon::prelude::*;

    use super::*;

    #[test]
    fn answers_keep_their_order_and_the_first_error_counts() {
        let items: Vec<usize> = (0..1000).collect();
        let double = |n: &usize| Ok::<_, usize>(n * 2);
        assert_eq!(spread(&items, double), Ok((0..1000).map(|n| n * 2).collect()));
        assert_eq!(spread(&Vec::<usize>::new(), double), Ok(Vec::new()));
        let failing = |n: &usize| if *n == 700 { Err(*n) } else { Ok(*n) };
        assert_eq!(spread(&items, failing), Err(700));
    }

    /// Needs a thread of rayon's pool to embed, from a thread that is none of it, as the real embedder does.
    struct Pooled(HashEmbedder);

    impl Embedder for Pooled {
        fn info(&self) -> &EmbedderInfo {
            self.0.info()
        }
        fn tokenizer(&self) -> &dyn Tokenizer {
            self.0.tokenizer()
        }
        fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
            thread::scope(|scope| {
                let work = scope.spawn(|| (0..64).into_par_iter().map(|n| n / 64).sum::<usize>());
                assert_eq!(work.join().ok(), Some(0));
            });
            self.0.embed(texts)
        }
    }

    #[test]
    fn an_embedder_that_computes_on_the_pool_is_never_starved() {
        let embedder: Arc<dyn Embedder> = Arc::new(Pooled(HashEmbedder::new()));
        let items: Vec<String> = (0..200).map(|n| n.to_string()).collect();
        let answers = spread(&items, |item| embedder.embed(&[item]));
        assert_eq!(answers.map(|answers| answers.len()).ok(), Some(200));
    }
}
