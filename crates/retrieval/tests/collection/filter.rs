//! Filters inside both arms, and near-duplicates.

use edgewise_retrieval::{RetrievalError, SearchRequest};

use crate::support::*;

fn series() -> Vec<(String, String)> {
    (0..40)
        .map(|n| {
            let year = 2000 + n;
            let date = format!("{year}-03-0{}", n % 9 + 1);
            let text =
                format!("---\nyear: {year}\ndate: {date}\ntags: [even{}]\n---\n\n# Report {n}\n\nWhales sing.", n % 2);
            (format!("reports/{}/{n}.md", n % 4), text)
        })
        .collect()
}

#[test]
fn a_filter_is_pushed_into_both_arms() {
    let root = tempfile::tempdir().unwrap();
    let guide = guide(root.path());
    let files = series();
    ingest(&guide, &files.iter().map(|(uri, text)| (uri.as_str(), text.as_str())).collect::<Vec<_>>());
    let found = |filter: &str| {
        let filter = Some(filter.parse().unwrap());
        // One hit only: nothing outside the filter may take its place in an arm.
        let one = guide.search(&SearchRequest { filter: filter.clone(), limit: 1, ..request("whales") }).unwrap();
        let all = guide.search(&SearchRequest { filter, limit: 100, ..request("whales") }).unwrap();
        assert!(all.hits.iter().all(|hit| hit.lexical.is_some() && hit.vector.is_some()));
        assert_eq!(one.hits.len(), all.hits.len().min(1));
        all.hits.len()
    };
    assert_eq!(found("uri like 'reports/**'"), 40);
    assert_eq!(found("uri like 'reports/2/*'"), 10);
    assert_eq!(found("uri = 'reports/2/2.md' or uri = 'reports/3/3.md'"), 2);
    assert_eq!(found("uri like 'elsewhere/**'"), 0);
    assert_eq!(found("chunks >= 1 and title in ('Report 7', 'Report 9')"), 2);
    assert_eq!(found("not media_type = 'text/markdown'"), 0);
    // What a filter comes to is remembered only until the next commit.
    ingest(&guide, &[("reports/2/new.md", "# New\n\nWhales sing again.")]);
    assert_eq!(found("uri like 'reports/2/*'"), 11);

    let documents = Some(vec![edgewise_types::DocumentId::from_uri("reports/3/3.md")]);
    let filter = Some("uri like 'reports/2/*'".parse().unwrap());
    let both = guide.search(&SearchRequest { documents, filter, ..request("whales") }).unwrap();
    assert!(both.hits.is_empty(), "documents and filter both hold");
}

#[test]
fn near_duplicates_give_way() {
    let root = tempfile::tempdir().unwrap();
    let guide = guide(root.path());
    let copy = "Whales sing under water and migrate over thousands of kilometres each year.";
    ingest(&guide, &[("a.txt", copy), ("b.txt", copy), ("c.txt", copy), ("d.txt", "Whales eat krill.")]);
    let uris = |diversity: Option<f32>| {
        let results =
            guide.search(&SearchRequest { diversity, limit: 2, ..request("whales sing and migrate") }).unwrap();
        results.hits.into_iter().map(|hit| hit.uri).collect::<Vec<_>>()
    };
    assert_eq!(uris(None), ["a.txt", "b.txt"]);
    assert_eq!(uris(Some(0.7)), ["a.txt", "d.txt"]);
    let error = guide.search(&SearchRequest { diversity: Some(1.5), ..request("x") }).unwrap_err();
    assert!(matches!(error, RetrievalError::InvalidRequest(_)), "{error}");
}
