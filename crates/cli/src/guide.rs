//! The user guide, embedded so that the quickstart works from any folder.

use edgewise_retrieval::{Source, SourceContent};

macro_rules! pages {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../docs/guide/", $name)))),*]
    };
}

/// File name and text of each page.
const PAGES: &[(&str, &str)] = pages![
    "01-what-edgewise-does.md",
    "02-first-steps.md",
    "03-ingesting.md",
    "04-routes.md",
    "05-placement-and-citations.md",
    "06-api.md",
    "07-configuration.md",
    "08-troubleshooting.md",
    "09-searching.md",
    "10-summary-trees.md",
    "11-serving-others.md",
];

/// The page for who runs a server for others. The sample collection does without it, so that the sample model can read the
/// whole of the collection and `full` is priced beside the other routes.
const FOR_OPERATORS: &str = "11-serving-others.md";

/// File name and text of each page.
pub(crate) fn pages() -> impl Iterator<Item = (&'static str, &'static str)> {
    PAGES.iter().copied()
}

/// The pages of the sample collection as sources to ingest.
pub(crate) fn sources() -> Vec<Source> {
    PAGES
        .iter()
        .filter(|(name, _)| *name != FOR_OPERATORS)
        .map(|(name, text)| Source {
            uri: (*name).to_owned(),
            content: SourceContent::Bytes(text.as_bytes().to_vec()),
            media_type: Some("text/markdown".to_owned()),
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    #[test]
    fn every_page_of_the_guide_is_embedded() {
        let folder = std::path::Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../../docs/guide");
        let mut on_disk: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        on_disk.sort();
        let embedded: Vec<&str> = super::PAGES.iter().map(|(name, _)| *name).collect();
        assert_eq!(on_disk, embedded);
        assert_eq!(super::sources().len(), embedded.len() - 1, "the page for operators is one of them");
    }
}
