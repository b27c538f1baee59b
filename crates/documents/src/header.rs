//! The heading-path header of a chunk, and its shortening to what the embedder can read.

use edgewise_model_api::Tokenizer;

use crate::DocumentError;

/// Between two titles of a heading path.
const SEPARATOR: &str = " > ";

/// What is embedded and counted for a chunk: its titles, outermost first, a blank line, and its text, as in
/// `Ownership > The String Type\n\nTo illustrate …`. Titles with which the text itself begins are not repeated.
///
/// Chunker and indexer both call this, so that a count can never be of something else than what is embedded.
pub fn embedding_text(heading_path: &[String], text: &str) -> String {
    let mut body = text;
    let mut titles = heading_path.iter();
    loop {
        let (line, rest) = body.split_once('\n').unwrap_or((body, ""));
        // `find` goes on behind the last match: titles at the start of a text stand in the order of the path.
        if line.is_empty() || !titles.any(|title| title == line) {
            break;
        }
        body = rest.trim_start_matches('\n');
    }
    let header = heading_path.join(SEPARATOR);
    match (header.is_empty(), body.is_empty()) {
        (true, _) => body.to_owned(),
        (_, true) => header,
        _ => format!("{header}\n\n{body}"),
    }
}

/// A heading path whose header takes at most `max` tokens, and how many it takes: outer titles are left out first, then
/// the innermost is cut.
pub(crate) fn shortened(
    path: &[String],
    tokenizer: &dyn Tokenizer,
    max: usize,
) -> Result<(Vec<String>, usize), DocumentError> {
    let count = |path: &[String]| tokenizer.count(&embedding_text(path, ""));
    for kept in 0..path.len() {
        let tokens = count(&path[kept..])?;
        if tokens <= max {
            return Ok((path[kept..].to_vec(), tokens));
        }
    }
    let Some(title) = path.last() else { return Ok((Vec::new(), 0)) };
    let offsets = tokenizer.offsets(title)?;
    let mut keep = max.saturating_sub(1).min(offsets.len());
    while keep > 0 {
        let end = offsets.get(keep).map_or(title.len(), |range| range.start);
        let cut = vec![format!("{}…", title.get(..end).unwrap_or_default().trim_end())];
        let tokens = count(&cut)?;
        if tokens <= max && end > 0 {
            return Ok((cut, tokens));
        }
        keep /= 2;
    }
    Ok((Vec::new(), 0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::chunk::tests::Characters;

    fn path(titles: &[&str]) -> Vec<String> {
        titles.iter().map(|title| (*title).to_owned()).collect()
    }

    #[test]
    fn titles_are_not_repeated() {
        assert_eq!(embedding_text(&path(&["A", "B"]), "text"), "A > B\n\ntext");
        assert_eq!(embedding_text(&path(&["A", "B"]), "B\n\ntext"), "A > B\n\ntext");
        assert_eq!(embedding_text(&path(&["A", "B"]), "A\n\nB\n\nA\n\nB"), "A > B\n\nA\n\nB");
        assert_eq!(embedding_text(&path(&["A", "B"]), "B"), "A > B");
        assert_eq!(embedding_text(&[], "text"), "text");
    }

    #[test]
    fn a_long_path_keeps_its_innermost_titles() {
        let titles = path(&["Outer title", "Middle", "Inner"]);
        assert_eq!(shortened(&titles, &Characters, 100).unwrap(), (titles.clone(), 28));
        assert_eq!(shortened(&titles, &Characters, 20).unwrap(), (path(&["Middle", "Inner"]), 14));
        assert_eq!(shortened(&titles, &Characters, 4).unwrap(), (path(&["Inn…"]), 4));
        assert_eq!(shortened(&titles, &Characters, 0).unwrap(), (Vec::new(), 0));
    }
}
