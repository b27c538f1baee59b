//! What a planner has learned: the trained router, and the corrections that feedback taught.
//!
//! Deliberately not here: storing feedback, and reading files.

use std::sync::{Arc, PoisonError, RwLock};

use edgewise_retrieval::{Collection, SearchResults};
use edgewise_types::{CollectionName, TenantId};

use crate::{
    Corrections, Explanation, Features, Feedback, KindProbabilities, Planner, PlannerError, PlannerErrorKind, PreRoute,
    Query, Route, Router, RouterInput, features,
    planner::{scope, search},
    quality,
};

/// Router and corrections.
pub(crate) struct Learned {
    router: Arc<Router>,
    corrections: RwLock<Arc<Corrections>>,
}

impl Learned {
    /// The built-in router, and no feedback yet.
    pub(crate) fn embedded() -> Result<Self, PlannerError> {
        let router = Router::embedded().map_err(|error| PlannerError::InvalidOptions(error.to_string()))?;
        Ok(Self { router: Arc::new(router), corrections: RwLock::default() })
    }

    fn corrections(&self) -> Arc<Corrections> {
        Arc::clone(&self.corrections.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Expected quality of a route into a tenant's collection, and how much of it feedback adds.
    pub(crate) fn expected(
        &self,
        of: (&TenantId, &CollectionName),
        route: Route,
        features: &Features,
        tokens: usize,
        window: usize,
    ) -> (f64, f64) {
        let quality = quality::expected(route, features, tokens, window);
        let shift = self.corrections().shift(of, route, &features.kind, quality);
        (quality + shift, shift)
    }
}

impl Planner {
    /// How likely the question is of each kind, judged as before an answer: by its words and by what is found for it.
    /// Prices nothing and asks no model.
    pub fn question_kind(&self, collection: &Collection, query: &Query) -> Result<KindProbabilities, PlannerError> {
        let top_k = self.check(query)?;
        let (scope, _) = scope(collection, query)?;
        let results = search(collection, query, &query.question, top_k)?;
        let mut features = features::measure(&results.hits, scope, self.generator.queue());
        // The route of a question that is only judged is given: nothing is left for a model to be asked.
        let query = Query { route: query.route.or(Some(Route::Tree)), ..query.clone() };
        self.learn_features(&mut features, &query, &results)?;
        Ok(features.kind)
    }

    /// Adds to `features` what the question adds. Gives what the model said of it, if it was asked, and notes for the
    /// caller.
    pub(crate) fn learn_features(
        &self,
        features: &mut Features,
        query: &Query,
        results: &SearchResults,
    ) -> Result<(Option<PreRoute>, Vec<String>), PlannerError> {
        features::ask(features, &query.question, &results.hits);
        let input = RouterInput::new(&query.question, features);
        features.kind = self.learned.router.kinds(&input);
        let (mut pre_route, mut notes) = (None, results.notes.clone());
        // A route that is asked for leaves nothing to judge.
        if self.options.pre_route && query.route.is_none() {
            match self.judge_kind(&query.question, &query.tenant, &features.kind) {
                Ok((kind, judged)) => {
                    features.kind = kind;
                    pre_route = Some(judged);
                }
                // The answer would be refused for the same reason, and the caller should come back.
                Err(error) if error.kind() == PlannerErrorKind::Overloaded => return Err(error),
                Err(error) => notes.push(format!("the model could not judge the kind of question ({error})")),
            }
        }
        let model = &self.generator.info().model;
        features.router = Some(self.learned.router.read(&input.with_kinds(&features.kind), model));
        Ok((pre_route, notes))
    }

    /// Routes with `router` in place of the built-in one.
    #[must_use]
    pub fn with_router(mut self, router: Router) -> Self {
        self.learned.router = Arc::new(router);
        self
    }

    /// Puts in force what feedback taught, in place of what it had taught before, and gives the number of ratings. `load`
    /// runs alone, so that of two at once the later one wins. Answers under way are not touched.
    pub fn correct_with<E>(&self, load: impl FnOnce() -> Result<Corrections, E>) -> Result<usize, E> {
        let mut corrections = self.learned.corrections.write().unwrap_or_else(PoisonError::into_inner);
        *corrections = Arc::new(load()?);
        Ok(corrections.count())
    }
}

impl Explanation {
    /// What has to be kept of a decision on a question of `tenant` so that the answer's rating can be learned from; without
    /// any text.
    pub fn rated(&self, tenant: &TenantId, rating: f64) -> Option<Feedback> {
        let chosen = self.candidates.iter().find(|candidate| candidate.route == self.chosen)?;
        Some(Feedback {
            tenant: tenant.clone(),
            collection: self.collection.clone(),
            route: self.chosen,
            expected: (chosen.quality - chosen.feedback_shift).clamp(0.0, 1.0),
            kind: self.features.kind,
            rating,
        })
    }
}
