//! What the router is told of each question: the document goes through the ingest of any collection, the question
//! through its search.
//!
//! Without an embedder, hits are those of BM25 alone, and what only both arms together say is left at 0, so that nothing is
//! learned from it.

use std::{path::Path, sync::Arc};

use edgewise_documents::IndexProfile;
use edgewise_model_api::{Embedder, QueueState};
use edgewise_planner::{RouterInput, Scope, measure_hits, measure_question};
use edgewise_retrieval::{Fusion, RetrievalError, SearchRequest, Source, SourceContent};

use super::RoutingSet;
use crate::{
    EvaluationError, Progress,
    scratch::{Scratch, Unembedded},
    spread::spread,
};

/// Hits of a search, as many as the planner looks at.
const HITS: usize = 16;

/// What is measured of the set, without its scores.
pub(crate) struct Shapes {
    /// One a question, without the kinds.
    pub(crate) inputs: Vec<RouterInput>,
    /// Tokens of each document, by the embedder's tokenizer.
    pub(crate) tokens: Vec<usize>,
}

struct Quiet;

impl Progress for Quiet {
    fn ingested(&self, _done: usize, _total: usize) {}
    fn answered(&self, _done: usize, _total: usize) {}
}

/// Measures every question against its document.
pub(crate) fn measure(
    set: &RoutingSet,
    embedder: &Arc<dyn Embedder>,
    profile: &IndexProfile,
    lexical_only: bool,
    progress: &dyn Progress,
) -> Result<Shapes, EvaluationError> {
    let unembedded: Arc<dyn Embedder>;
    let embedder = if lexical_only {
        unembedded = Arc::new(Unembedded::new(embedder));
        &unembedded
    } else {
        embedder
    };
    let mut inputs: Vec<Option<RouterInput>> = vec![None; set.questions.len()];
    let mut tokens = Vec::with_capacity(set.documents.len());
    // One call, so that a caching embedder remembers them.
    let texts: Vec<&str> = set.questions.iter().map(|question| question.text.as_str()).collect();
    embedder.embed(&texts).map_err(RetrievalError::from)?;
    for (at, (name, text)) in set.documents.iter().enumerate() {
        let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
        let media_type = if extension == Some("md") { "text/markdown" } else { "text/plain" };
        let source = Source {
            uri: name.clone(),
            content: SourceContent::Bytes(text.clone().into_bytes()),
            media_type: Some(media_type.to_owned()),
        };
        let scratch = Scratch::of(&set.name, vec![source], embedder, profile, &Quiet)?;
        let stats = scratch.collection.stats()?;
        tokens.push(stats.tokens);
        let scope = Scope { documents: 1, tokens: stats.tokens };
        let asked: Vec<usize> = (0..set.questions.len()).filter(|q| set.questions[*q].document == at).collect();
        let read = spread(&asked, |question| {
            let text = &set.questions[*question].text;
            let fusion = lexical_only.then_some(Fusion::Convex { lexical_weight: 1.0 });
            let request = SearchRequest { fusion, ..SearchRequest::new(text, HITS) };
            let mut hits = scratch.collection.search(&request)?.hits;
            if lexical_only {
                hits.retain(|hit| hit.lexical.is_some());
                for hit in &mut hits {
                    (hit.vector, hit.score) = (None, 0.0);
                }
            }
            let mut features = measure_hits(&hits, scope, QueueState::default());
            measure_question(&mut features, text, &hits);
            Ok::<_, RetrievalError>(RouterInput::new(text, &features))
        })?;
        for (question, input) in asked.into_iter().zip(read) {
            inputs[question] = Some(input);
        }
        progress.ingested(at + 1, set.documents.len());
    }
    Ok(Shapes { inputs: inputs.into_iter().flatten().collect(), tokens })
}
