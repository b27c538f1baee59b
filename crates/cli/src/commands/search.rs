//! `edgewise search`.

use serde_json::json;

use edgewise_retrieval::{ArmScore, Filter, Fusion, RetrievalError, SearchRequest, SearchResults};

use super::query::server;
use crate::{
    app::App,
    args::Search,
    error::CliError,
    output::{self, duration},
};

/// Rank constant of reciprocal rank fusion in the paper.
const RRF_K: f32 = 60.0;

/// Characters of a hit's text shown; `--json` shows all.
const SHOWN: usize = 240;

pub(crate) fn run(args: &Search, app: &App) -> Result<(), CliError> {
    let fusion = match args.lexical_weight {
        Some(lexical_weight) => Some(Fusion::Convex { lexical_weight }),
        None => args.rrf.then_some(Fusion::Rrf { k: RRF_K }),
    };
    let results: SearchResults = match server(&args.place, app) {
        Some(client) => {
            let mut body = json!({ "query": args.query, "limit": args.limit });
            if let Some(fusion) = fusion {
                body["fusion"] = json!(fusion);
            }
            if let Some(filter) = &args.filter {
                body["filter"] = json!(filter);
            }
            if let Some(diversity) = args.diversity {
                body["diversity"] = json!(diversity);
            }
            if let Some(rerank) = args.rerank {
                body["rerank"] = json!(rerank);
            }
            client.post(&format!("/v1/collections/{}/search", args.collection), &body)?
        }
        None => {
            let collection = app.collections_to_search(args.rerank)?.get(&args.collection)?;
            let query = args.query.clone();
            let filter = args.filter.as_deref().map(str::parse::<Filter>).transpose().map_err(RetrievalError::from)?;
            let Search { limit, diversity, rerank, .. } = *args;
            collection.search(&SearchRequest { query, limit, fusion, documents: None, filter, diversity, rerank })?
        }
    };
    if args.json {
        return output::json(&results);
    }
    print(&results)
}

fn print(results: &SearchResults) -> Result<(), CliError> {
    let arm = |score: &Option<ArmScore>| score.map_or("–".to_owned(), |s| format!("{:.3} (#{})", s.score, s.rank));
    for (rank, hit) in results.hits.iter().enumerate() {
        let path = output::place(&hit.uri, &hit.chunk.heading_path, hit.chunk.pages.as_ref());
        let reranked = hit.rerank.map_or(String::new(), |score| format!("reranker {score:.2}  "));
        let (lexical, vector) = (arm(&hit.lexical), arm(&hit.vector));
        let scores = format!("{reranked}{:.3}  BM25 {lexical}  cosine {vector}", hit.score);
        output::line(&format!("{}. {}  {}", rank + 1, output::bold(&path), output::dim(&scores)))?;
        let text = hit.chunk.text.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut shown: String = text.chars().take(SHOWN).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        output::line(&format!("   {shown}"))?;
    }
    if results.hits.is_empty() {
        output::line("nothing found")?;
    }
    let mut times = format!(
        "embed {} · lexical {} · vector {} · fuse {}",
        duration(results.embed_ms),
        duration(results.lexical_ms),
        duration(results.vector_ms),
        duration(results.fuse_ms)
    );
    if results.rerank_ms > 0.0 {
        times = format!("{times} · rerank {}", duration(results.rerank_ms));
    }
    for note in &results.notes {
        output::line(note)?;
    }
    Ok(output::line(&output::dim(&times))?)
}
