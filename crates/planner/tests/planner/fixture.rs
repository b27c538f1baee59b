//! A planner over a scripted model and a small collection.

use std::{ops::ControlFlow, sync::Arc};

use edgewise_ledger::PriceBook;
use edgewise_model_api::{Generator, LatencyCurve};
use edgewise_planner::{
    Answer, AnswerEvent, Candidate, Explanation, Planner, PlannerError, PlannerOptions, Query, Route,
};
use edgewise_prompts::Prompts;
use edgewise_retrieval::{Collection, Collections, IngestOptions, RetrievalModels, Silent, Source, SourceContent};
use edgewise_test_support::{HashEmbedder, ScriptedGenerator, corpus};

/// A CPU that prefills 300 tokens a second and writes 20.
pub(crate) const SLOW: LatencyCurve = LatencyCurve { a: 20.0, b: 3.3, c: 1e-5, d: 50.0, e: 1e-3 };

pub(crate) struct Fixture {
    pub(crate) model: ScriptedGenerator,
    pub(crate) planner: Planner,
    pub(crate) collection: Arc<Collection>,
    _folder: tempfile::TempDir,
}

impl Fixture {
    /// The tiny corpus and a model with this script.
    pub(crate) fn new(model: ScriptedGenerator) -> Self {
        Self::with(model, PlannerOptions::default(), &tiny())
    }

    pub(crate) fn with(model: ScriptedGenerator, options: PlannerOptions, documents: &[(String, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let embedder = Arc::new(HashEmbedder::with_dimension(256));
        let generator: Arc<dyn Generator> = Arc::new(model.clone());
        let models = RetrievalModels {
            embedder: embedder.clone(),
            tokenizer: Arc::new(edgewise_test_support::WordTokenizer::new()),
            tokenizer_name: "words".to_owned(),
            reranker: None,
        };
        let collections = Collections::open(folder.path(), models).unwrap();
        let collection = collections.get_or_create_default(&"guide".parse().unwrap()).unwrap();
        let sources = documents
            .iter()
            .map(|(uri, text)| Source {
                uri: uri.clone(),
                content: SourceContent::Bytes(text.clone().into_bytes()),
                media_type: None,
            })
            .collect();
        collection.ingest(sources, &IngestOptions::default(), &Silent).unwrap();
        let prompts = Prompts::load(None).unwrap();
        let prices = PriceBook::embedded().unwrap();
        let planner = Planner::new(generator, embedder, prompts, prices, options).unwrap();
        Self { model, planner, collection, _folder: folder }
    }

    /// The same with another planner.
    pub(crate) fn map_planner(self, change: impl FnOnce(Planner) -> Planner) -> Self {
        Self { planner: change(self.planner), ..self }
    }

    pub(crate) fn explain(&self, query: &Query) -> Result<Explanation, PlannerError> {
        self.planner.explain(&self.collection, query)
    }

    pub(crate) fn answer(&self, query: &Query) -> Result<Answer, PlannerError> {
        self.planner.answer(&self.collection, query, &mut |_| ControlFlow::Continue(()))
    }

    /// The answer and the events that came before it.
    pub(crate) fn events(&self, query: &Query) -> (Answer, Vec<AnswerEvent>) {
        let mut events = Vec::new();
        let answer = self.planner.answer(&self.collection, query, &mut |event| {
            events.push(event);
            ControlFlow::Continue(())
        });
        (answer.unwrap(), events)
    }

    pub(crate) fn document_text(&self, uri: &str) -> Arc<str> {
        self.collection.document_text(&edgewise_types::DocumentId::from_uri(uri)).unwrap()
    }
}

pub(crate) fn tiny() -> Vec<(String, String)> {
    corpus::DOCUMENTS.iter().map(|(uri, text)| ((*uri).to_owned(), (*text).to_owned())).collect()
}

/// The tiny corpus among documents about other things, `words` words in all, roughly.
pub(crate) fn padded(words: usize) -> Vec<(String, String)> {
    let mut documents = tiny();
    for d in 0..words / 300 {
        let paragraphs: Vec<String> = (0..6)
            .map(|p| {
                format!("Section {d} of part {p}: {}", format!("filler{d}x{p} lorem ipsum dolor sit amet ").repeat(7))
            })
            .collect();
        documents.push((format!("filler-{d:02}.md"), format!("# Filler {d}\n\n{}\n", paragraphs.join("\n\n"))));
    }
    documents
}

pub(crate) fn query(question: &str) -> Query {
    Query::new(question)
}

pub(crate) fn forced(question: &str, route: Route) -> Query {
    Query { route: Some(route), ..Query::new(question) }
}

pub(crate) fn candidate(explanation: &Explanation, route: Route) -> &Candidate {
    explanation.candidates.iter().find(|candidate| candidate.route == route).unwrap()
}
