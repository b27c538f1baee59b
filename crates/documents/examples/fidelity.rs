//! How faithful extracted text is: `fidelity DIR` or `fidelity --same FROM TO FILE…`.
//!
//! With a folder: every `X/groundtruth/NAME.md` below it is compared with what is extracted from `X/NAME`, and a table
//! printed per file and per format. With `--same`: the files are editions of one work; the words between the first
//! occurrence of FROM and the last of TO are compared for each pair.
//!
//! Both compare words: runs of letters and digits, case and punctuation aside, Markdown ground truth read as Markdown.
//! `similarity` is 2·L / (n + m) for the longest common subsequence L of two texts of n and m words, so it sees order;
//! `bag` is the same over words regardless of order.

#![allow(clippy::print_stdout)]

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use edgewise_documents::{IndexProfile, ParsedDocument, ParserRegistry, SourceInfo};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let registry = ParserRegistry::new(&IndexProfile::default());
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--same", from, to, files @ ..] if files.len() > 1 => same(&registry, from, to, files),
        [folder] => folder_of_truths(&registry, Path::new(folder)),
        _ => Err("usage: fidelity DIR | fidelity --same FROM TO FILE FILE…".into()),
    }
}

fn parse(registry: &ParserRegistry, path: &Path) -> Result<ParsedDocument> {
    Ok(registry.parse(&fs::read(path)?, &SourceInfo::new(path.display().to_string()))?)
}

fn folder_of_truths(registry: &ParserRegistry, folder: &Path) -> Result<()> {
    let mut truths = Vec::new();
    find(folder, &mut truths)?;
    truths.sort();
    let mut formats: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    println!("{:<44} {:>7} {:>7} {:>10} {:>7} {:>8}", "file", "truth", "words", "similarity", "bag", "seconds");
    for truth in truths {
        let (Some(base), Some(name)) = (truth.parent().and_then(Path::parent), truth.file_stem()) else { continue };
        let file = base.join(name);
        let expected = words(&parse(registry, &truth)?.text);
        let start = Instant::now();
        let actual = match parse(registry, &file) {
            Ok(document) => words(&document.text),
            Err(error) => {
                println!("{error}");
                Vec::new()
            }
        };
        let (ordered, bag) = (similarity(&expected, &actual), bag(&expected, &actual));
        println!(
            "{:<44} {:>7} {:>7} {ordered:>10.4} {bag:>7.4} {:>8.3}",
            name.to_string_lossy(),
            expected.len(),
            actual.len(),
            start.elapsed().as_secs_f64()
        );
        let format = file.extension().unwrap_or_default().to_string_lossy().into_owned();
        formats.entry(format).or_default().push((ordered, bag));
    }
    println!("\n{:<10} {:>5} {:>10} {:>10} {:>7}", "format", "files", "mean", "median", "bag");
    for (format, mut values) in formats {
        let count = values.len() as f64;
        let bag = values.iter().map(|(_, bag)| bag).sum::<f64>() / count;
        let mean = values.iter().map(|(ordered, _)| ordered).sum::<f64>() / count;
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        let median = (values[(values.len() - 1) / 2].0 + values[values.len() / 2].0) / 2.0;
        println!("{format:<10} {:>5} {mean:>10.4} {median:>10.4} {bag:>7.4}", values.len());
    }
    Ok(())
}

fn find(folder: &Path, truths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, truths)?;
        } else if folder.ends_with("groundtruth") && path.extension().is_some_and(|extension| extension == "md") {
            truths.push(path);
        }
    }
    Ok(())
}

fn same(registry: &ParserRegistry, from: &str, to: &str, files: &[&str]) -> Result<()> {
    let mut editions = Vec::new();
    for file in files {
        let start = Instant::now();
        let document = parse(registry, Path::new(file))?;
        let seconds = start.elapsed().as_secs_f64();
        let all = words(&document.text);
        let body = between(&all, &words(from), &words(to)).to_vec();
        let pages = document.pages.len().map_or(String::new(), |pages| format!(", {pages} pages"));
        println!(
            "{file}: `{}`, {} words, {} in the body{pages}, {} blocks, {seconds:.2} s",
            document.title,
            all.len(),
            body.len(),
            document.blocks.len()
        );
        editions.push((Path::new(file).extension().unwrap_or_default().to_string_lossy().into_owned(), body));
    }
    println!("\n{:<10} {:<10} {:>10} {:>7}", "edition", "edition", "similarity", "bag");
    for (index, (left, left_words)) in editions.iter().enumerate() {
        for (right, right_words) in &editions[index + 1..] {
            let ordered = similarity(left_words, right_words);
            println!("{left:<10} {right:<10} {ordered:>10.4} {:>7.4}", bag(left_words, right_words));
        }
    }
    Ok(())
}

/// The words from the first `from` to the last `to`, or all where either is missing.
fn between<'w>(words: &'w [String], from: &[String], to: &[String]) -> &'w [String] {
    let start = words.windows(from.len().max(1)).position(|window| window == from).unwrap_or(0);
    let end = words.windows(to.len().max(1)).rposition(|window| window == to).map_or(words.len(), |at| at + to.len());
    &words[start..end.max(start)]
}

fn words(text: &str) -> Vec<String> {
    // An apostrophe or a hyphen inside a word is written in several ways.
    let text: String = text.chars().filter(|c| !matches!(c, '\'' | '’' | '‘' | '\u{ad}')).collect();
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

fn bag(left: &[String], right: &[String]) -> f64 {
    let mut counts: HashMap<&str, i64> = HashMap::new();
    left.iter().for_each(|word| *counts.entry(word).or_default() += 1);
    let mut common = 0;
    for word in right {
        let count = counts.entry(word).or_default();
        common += usize::from(*count > 0);
        *count -= 1;
    }
    ratio(common, left.len(), right.len())
}

/// By the greedy algorithm of Myers (1986), <https://doi.org/10.1007/BF01840446>, which finds the number of edits D;
/// the longest common subsequence is then (n + m - D) / 2.
fn similarity(left: &[String], right: &[String]) -> f64 {
    let (n, m) = (left.len() as isize, right.len() as isize);
    let most = n + m;
    let at = |diagonal: isize| (diagonal + most + 1) as usize;
    let mut furthest = vec![0isize; (2 * most + 3) as usize];
    for edits in 0..=most {
        for diagonal in (-edits..=edits).step_by(2) {
            let down =
                diagonal == -edits || diagonal != edits && furthest[at(diagonal - 1)] < furthest[at(diagonal + 1)];
            let mut x = if down { furthest[at(diagonal + 1)] } else { furthest[at(diagonal - 1)] + 1 };
            let mut y = x - diagonal;
            while x < n && y < m && left[x as usize] == right[y as usize] {
                (x, y) = (x + 1, y + 1);
            }
            furthest[at(diagonal)] = x;
            if x >= n && y >= m {
                return ratio(((most - edits) / 2) as usize, left.len(), right.len());
            }
        }
    }
    0.0
}

fn ratio(common: usize, left: usize, right: usize) -> f64 {
    if left + right == 0 { 1.0 } else { 2.0 * common as f64 / (left + right) as f64 }
}
