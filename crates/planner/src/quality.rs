//! Expected quality of an answer by route, 0 to 1: priors, moved by what was measured as far as it can be trusted.
//!
//! Measured (the router's file, fitted on published answers to questions about documents of about 32,000 tokens in windows
//! of mostly 128,000): how good answers from passages are, and how much better the full context is, given question and
//! hits.
//!
//! Priors, still: how quality falls as a prompt fills the window (Hsieh et al. 2024, "RULER": effective windows are much
//! shorter than advertised ones), the level of the routes where the router is not trusted (Li et al. 2024, "Retrieval
//! Augmented Generation or Long-Context LLMs?": retrieval depends on its evidence, whole documents less, the full scope
//! not at all), and the places of `tree` and of `documents`, of which nothing was measured. `tree` begins where
//! passages are and gets a share of the gain by kind, see [`tree_share`]. `documents` gets the share of the gain
//! `c + (1 − c)·(1 − g)·e`: `c` is the share of the scope it reads, `g` the probability that the question asks for
//! something of the whole, `e` the strength of the evidence that the right documents came up. So it equals `full` where
//! it reads everything, and passages where nothing speaks for the documents found.
//!
//! What was learned moves a prior by at most [`MOST_LEARNED`], times its trust.
//!
//! Deliberately not here: cost, latency, and fitting.

use crate::{Features, KindProbabilities, Route};

/// Cosine below which passages hardly concern the question, and above which they surely do (all-MiniLM-L6-v2).
const COSINE_WEAK: f32 = 0.15;
const COSINE_STRONG: f32 = 0.60;

/// Most that a learned quality or gain moves a prior.
const MOST_LEARNED: f64 = 0.15;

/// Quality that a full window takes away, by route.
const fn fill(route: Route) -> f64 {
    match route {
        Route::Passages | Route::Tree => 0.30,
        Route::Documents => 0.40,
        Route::Full => 0.45,
    }
}

/// How full the windows were where the gain was measured: its effect is in the measured figures already.
const FILL_MEASURED: f64 = 0.25;

/// Strength of the retrieved evidence, 0 to 1: mostly the best cosine; agreement of the two arms and concentration in
/// few documents add to it.
fn evidence(features: &Features) -> f64 {
    let cosine = ((features.top_cosine - COSINE_WEAK) / (COSINE_STRONG - COSINE_WEAK)).clamp(0.0, 1.0);
    let concentration = match features.documents_in_top {
        0 => 0.0,
        documents => 1.0 / documents as f32,
    };
    f64::from(0.8 * cosine + 0.1 * features.arm_overlap + 0.1 * concentration)
}

/// `prior` moved towards `learned`.
fn moved(prior: f64, learned: f64, trust: f64) -> f64 {
    prior + trust.clamp(0.0, 1.0) * (learned - prior).clamp(-MOST_LEARNED, MOST_LEARNED)
}

/// Quality before the window's effect of passages, and of the full scope.
fn levels(features: &Features) -> (f64, f64) {
    let (passages, full) = (0.30 + 0.45 * evidence(features), 0.78);
    let Some(router) = features.router else { return (passages, full) };
    let better = moved(passages, router.passages, router.trust);
    // The gain was measured with the window's effect in it, which is taken away again later.
    let gain = moved(full - passages, router.gain + fill(Route::Full) * FILL_MEASURED, router.trust);
    (better, better + gain)
}

/// Share of what the full context gains over passages that summaries are expected to gain, by kind: a prior. Sarthi et al.
/// 2024 ("RAPTOR: Recursive Abstractive Processing for Tree-Organized Retrieval") find answers about whole stories well
/// better from a tree than from its leaves alone, and answers from one place hardly different.
fn tree_share(kind: &KindProbabilities) -> f64 {
    f64::from(0.6 * kind.global + 0.2 * kind.comparison + 0.1 * kind.multi_hop)
}

/// What an answer from one place loses to summaries that take the place of passages: a prior.
fn tree_loss(kind: &KindProbabilities) -> f64 {
    0.03 * f64::from(kind.local_fact)
}

/// Expected quality of `route` with a prompt and answer of `tokens` tokens in a window of `window`: the model's, or what it
/// was measured to read well.
pub(crate) fn expected(route: Route, features: &Features, tokens: usize, window: usize) -> f64 {
    let (passages, full) = levels(features);
    let (level, lost) = match route {
        Route::Passages => (passages, fill(route)),
        Route::Tree => {
            (passages + (full - passages) * tree_share(&features.kind) - tree_loss(&features.kind), fill(route))
        }
        Route::Full => (full, fill(route)),
        Route::Documents => {
            let covered = (tokens as f64 / features.scope_tokens.max(1) as f64).min(1.0);
            let whole = f64::from(features.kind.global);
            let share = covered + (1.0 - covered) * (1.0 - whole) * evidence(features);
            let lost = fill(route) + (fill(Route::Full) - fill(route)) * covered;
            (passages + (full - passages) * share, lost)
        }
    };
    let filled = (tokens as f64 / window.max(1) as f64).min(1.0);
    (level - lost * filled).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests;
