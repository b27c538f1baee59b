//! Finds the files to ingest under folders and names them.
//!
//! Rules:
//! - Folders are read recursively. Hidden files are passed over, and so is what a `.gitignore` or `.ignore` inside the
//!   named folder excludes, whether or not it is a git repository; ignore files outside it (parents, global) have no say,
//!   so the same folder gives the same documents everywhere.
//! - Only files of a known format are taken; the others are reported as skipped. A file that is named itself is taken
//!   whatever it is called, hidden and ignored ones too, as plain text if its extension says nothing.
//! - Symbolic links are followed; a loop is reported; a file reachable by several paths is taken once.
//! - A pattern without `/` is matched against the file name at any depth, another against the whole path below the
//!   root; `*` does not cross `/`, `**` does. `exclude` wins over `include` and prunes folders.
//! - The URI is the path below its root with `/`, for a file named itself the file name. When files of several roots
//!   would have the same URI, all of these are prefixed with as much of their root's path as tells them apart.
//!
//! Deliberately not here: reading the files, and any memory of what was ingested before.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use edgewise_documents::{IndexProfile, ParserRegistry};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use ignore::WalkBuilder;

use crate::{RetrievalError, Source, SourceContent, error::io};

/// What [`discover`] found.
#[derive(Debug, Default)]
pub struct Discovered {
    /// Files to ingest, in order of URI.
    pub sources: Vec<Source>,
    /// What was passed over although no rule asked for it, and why, in order of path.
    pub skipped: Vec<Skipped>,
    /// Whether every folder could be read. If not, a document whose file was not found may still exist: don't remove it.
    pub complete: bool,
}

/// A path that was passed over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skipped {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// Finds the files to ingest under `roots` (files or folders) that `profile` has a format for. Empty `include` means
/// everything.
///
/// # Errors
/// [`RetrievalError::Discover`] for a root that does not exist or a malformed pattern: both are mistakes in the
/// command, so nothing is ingested then.
pub fn discover(
    roots: &[PathBuf],
    include: &[String],
    exclude: &[String],
    profile: &IndexProfile,
) -> Result<Discovered, RetrievalError> {
    let extensions: BTreeSet<&str> = ParserRegistry::new(profile).extensions().collect();
    let known = |path: &Path| {
        path.extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|extension| extensions.contains(extension.to_lowercase().as_str()))
    };
    discover_with(roots, include, exclude, &known)
}

/// A file found.
struct Found {
    /// The root as an absolute path without links.
    root: PathBuf,
    /// Path below the root.
    relative: String,
    /// Path without links.
    real: PathBuf,
    /// Whether no link was followed below the root.
    direct: bool,
    /// Media type, where the extension says nothing.
    media_type: Option<String>,
}

fn discover_with(
    roots: &[PathBuf],
    include: &[String],
    exclude: &[String],
    known: &dyn Fn(&Path) -> bool,
) -> Result<Discovered, RetrievalError> {
    let patterns = Patterns { include: globs(include)?, exclude: globs(exclude)?, all: include.is_empty() };
    let mut result = Discovered { complete: true, ..Discovered::default() };
    let mut found = Vec::new();
    for root in roots {
        let real = root.canonicalize().map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => {
                RetrievalError::Discover(format!("there is no file or folder `{}`", root.display()))
            }
            _ => io("cannot read", root)(source),
        })?;
        if real.is_dir() {
            walk(&real, &patterns, known, &mut found, &mut result);
        } else {
            named(&real, &patterns, known, &mut found, &mut result);
        }
    }
    let mut seen = BTreeSet::new();
    // Of several ways to one file, the one without links wins, then the first root.
    found.sort_by_key(|f| !f.direct);
    found.retain(|f| seen.insert(f.real.clone()));
    result.sources = name(found);
    result.skipped.sort();
    result.skipped.dedup();
    Ok(result)
}

/// Takes a file that was named itself.
fn named(
    real: &Path,
    patterns: &Patterns,
    known: &dyn Fn(&Path) -> bool,
    found: &mut Vec<Found>,
    result: &mut Discovered,
) {
    let (Some(root), Some(name)) = (real.parent(), real.file_name()) else {
        return;
    };
    let Some(relative) = name.to_str() else {
        result.skip(real, "its name is not valid UTF-8: rename it");
        return;
    };
    if !real.is_file() {
        result.skip(real, "not a regular file");
    } else if patterns.accept(relative) {
        let media_type = (!known(real)).then(|| "text/plain".to_owned());
        let (root, relative, real) = (root.to_owned(), relative.to_owned(), real.to_owned());
        found.push(Found { root, relative, real, direct: true, media_type });
    }
}

/// Takes the files below a folder.
fn walk(
    root: &Path,
    patterns: &Patterns,
    known: &dyn Fn(&Path) -> bool,
    found: &mut Vec<Found>,
    result: &mut Discovered,
) {
    let exclude = patterns.exclude.clone();
    let base = root.to_owned();
    let entries = WalkBuilder::new(root)
        .follow_links(true)
        .parents(false)
        .git_global(false)
        .git_exclude(false)
        .require_git(false)
        .filter_entry(move |entry| relative(entry.path(), &base).is_none_or(|path| !exclude.is_match(path)))
        .build();
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let (path, reason) = explain(&error, root);
                // A loop or a dangling link hides nothing that could be ingested.
                result.complete &= is_loop(&error) || path.is_symlink();
                result.skip(&path, &reason);
                continue;
            }
        };
        let path = entry.path();
        if entry.file_type().is_none_or(|kind| kind.is_dir()) {
            continue;
        }
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            result.skip(path, "not a regular file");
            continue;
        }
        let Some(relative) = relative(path, root) else {
            result.skip(path, "its path is not valid UTF-8: rename it");
            continue;
        };
        if !patterns.accept(&relative) {
            continue;
        }
        if !known(path) {
            result.skip(path, "unknown format: name the file itself to ingest it as text");
            continue;
        }
        match path.canonicalize() {
            Ok(real) => {
                let (root, direct) = (root.to_owned(), real == path);
                found.push(Found { root, relative, direct, real, media_type: None });
            }
            Err(error) => result.skip(path, &error.to_string()),
        }
    }
}

impl Discovered {
    fn skip(&mut self, path: &Path, reason: &str) {
        self.skipped.push(Skipped { path: path.to_owned(), reason: reason.to_owned() });
    }
}

/// Path of `path` below `root` with `/`; `None` if it is not valid UTF-8.
fn relative(path: &Path, root: &Path) -> Option<String> {
    let parts: Option<Vec<&str>> =
        path.strip_prefix(root).ok()?.components().map(|part| part.as_os_str().to_str()).collect();
    Some(parts?.join("/"))
}

fn is_loop(error: &ignore::Error) -> bool {
    match error {
        ignore::Error::Loop { .. } => true,
        ignore::Error::WithPath { err, .. }
        | ignore::Error::WithDepth { err, .. }
        | ignore::Error::WithLineNumber { err, .. } => is_loop(err),
        _ => false,
    }
}

/// The path an error of the walk is about, and why it came up.
fn explain(error: &ignore::Error, root: &Path) -> (PathBuf, String) {
    match error {
        ignore::Error::WithPath { path, err } => (path.clone(), explain(err, root).1),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => explain(err, root),
        ignore::Error::Loop { child, ancestor } => {
            (child.clone(), format!("a link that leads back to {}", ancestor.display()))
        }
        other => (root.to_owned(), other.to_string()),
    }
}

/// Gives every file its URI.
fn name(found: Vec<Found>) -> Vec<Source> {
    let mut by_uri: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    for file in found {
        by_uri.entry(file.relative.clone()).or_default().push(file);
    }
    let mut named: BTreeMap<String, Found> = BTreeMap::new();
    let mut clashing = Vec::new();
    for (uri, mut files) in by_uri {
        match (files.pop(), files.is_empty()) {
            (Some(only), true) => {
                named.insert(uri, only);
            }
            (last, _) => clashing.extend(files.into_iter().chain(last)),
        }
    }
    // Prefix with ever more of the root's path; different files of equal relative path differ in it at some depth.
    for depth in 1.. {
        if clashing.is_empty() {
            break;
        }
        let mut by_uri: BTreeMap<String, Vec<Found>> = BTreeMap::new();
        let mut exhausted = true;
        for file in clashing.drain(..) {
            let parts: Vec<&std::ffi::OsStr> = file.root.components().map(|part| part.as_os_str()).collect();
            exhausted &= parts.len() < depth;
            let kept = &parts[parts.len().saturating_sub(depth)..];
            let prefix: Vec<String> =
                kept.iter().map(|part| part.to_string_lossy().trim_matches(['/', '\\']).to_owned()).collect();
            by_uri.entry(format!("{}/{}", prefix.join("/"), file.relative)).or_default().push(file);
        }
        for (uri, mut files) in by_uri {
            if exhausted {
                // Only names that are not valid UTF-8 get here: their files keep their own paths.
                named.extend(files.into_iter().map(|file| (file.real.to_string_lossy().into_owned(), file)));
            } else if files.len() > 1 || named.contains_key(&uri) {
                clashing.append(&mut files);
            } else {
                named.extend(files.pop().map(|file| (uri, file)));
            }
        }
    }
    named
        .into_iter()
        .map(|(uri, file)| Source { uri, content: SourceContent::File(file.real), media_type: file.media_type })
        .collect()
}

/// The include and exclude patterns of one call.
struct Patterns {
    include: GlobSet,
    exclude: GlobSet,
    all: bool,
}

impl Patterns {
    fn accept(&self, relative: &str) -> bool {
        (self.all || self.include.is_match(relative)) && !self.exclude.is_match(relative)
    }
}

fn globs(patterns: &[String]) -> Result<GlobSet, RetrievalError> {
    let malformed = |pattern: &str, error: globset::Error| {
        RetrievalError::Discover(format!("`{pattern}` is not a valid pattern: {}", error.kind()))
    };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let trimmed = pattern.trim_start_matches("./").trim_end_matches('/');
        let anywhere = if trimmed.contains('/') { trimmed.to_owned() } else { format!("**/{trimmed}") };
        // A pattern that names a folder stands for all below it.
        for glob in [anywhere.clone(), format!("{anywhere}/**")] {
            let glob = GlobBuilder::new(&glob).literal_separator(true).build();
            set.add(glob.map_err(|error| malformed(pattern, error))?);
        }
    }
    set.build().map_err(|error| malformed("", error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::fs;

    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        root
    }

    fn run(roots: &[&Path], include: &[&str], exclude: &[&str]) -> Discovered {
        let roots: Vec<PathBuf> = roots.iter().map(|root| root.to_path_buf()).collect();
        let strings = |patterns: &[&str]| patterns.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let known = |path: &Path| path.extension().is_some_and(|e| e == "md" || e == "txt");
        discover_with(&roots, &strings(include), &strings(exclude), &known).unwrap()
    }

    fn uris(found: &Discovered) -> Vec<&str> {
        found.sources.iter().map(|source| source.uri.as_str()).collect()
    }

    #[test]
    fn known_formats_are_found_recursively_and_the_rest_is_reported() {
        let root = tree(&["b.md", "a/c.txt", "a/x.bin", ".hidden.md", "a/.git/z.md"]);
        let found = run(&[root.path()], &[], &[]);
        assert_eq!(uris(&found), ["a/c.txt", "b.md"]);
        assert_eq!(found.skipped.len(), 1);
        assert!(found.skipped[0].path.ends_with("a/x.bin"));
        assert!(found.complete);
    }

    #[test]
    fn ignore_files_inside_the_root_count_and_outside_do_not() {
        let root = tree(&["in/a.md", "in/b.md", "in/build/c.md"]);
        fs::write(root.path().join("in/.gitignore"), "build/\nb.md\n").unwrap();
        fs::write(root.path().join(".gitignore"), "*.md\n").unwrap();
        assert_eq!(uris(&run(&[&root.path().join("in")], &[], &[])), ["a.md"]);
    }

    #[test]
    fn patterns_select_and_prune() {
        let root = tree(&["a.md", "b.txt", "d/a.md", "d/e/b.md", "drafts/x.md", "d/drafts/y.md"]);
        assert_eq!(uris(&run(&[root.path()], &["*.md"], &["drafts"])), ["a.md", "d/a.md", "d/e/b.md"]);
        assert_eq!(uris(&run(&[root.path()], &["d/*.md"], &[])), ["d/a.md"]);
        assert_eq!(uris(&run(&[root.path()], &["d/"], &["d/drafts/**"])), ["d/a.md", "d/e/b.md"]);
        let Err(error) = discover_with(&[], &["[".to_owned()], &[], &|_| true) else { panic!("accepted") };
        assert!(error.to_string().contains("`[`"), "{error}");
    }

    #[test]
    fn a_named_file_is_taken_whatever_it_is() {
        let root = tree(&["x.bin", "a.md"]);
        let found = run(&[&root.path().join("x.bin"), &root.path().join("a.md")], &[], &[]);
        assert_eq!(uris(&found), ["a.md", "x.bin"]);
        assert_eq!(found.sources[0].media_type, None);
        assert_eq!(found.sources[1].media_type.as_deref(), Some("text/plain"));
        let missing = discover_with(&[root.path().join("nope")], &[], &[], &|_| true).unwrap_err();
        assert!(matches!(missing, RetrievalError::Discover(_)), "{missing}");
    }

    #[test]
    fn equal_names_under_several_roots_are_told_apart() {
        let root = tree(&["one/a.md", "one/b.md", "two/a.md", "x/one/a.md"]);
        let at = |path: &str| root.path().join(path);
        assert_eq!(uris(&run(&[&at("one"), &at("two")], &[], &[])), ["b.md", "one/a.md", "two/a.md"]);
        let found = run(&[&at("one"), &at("two"), &at("x/one")], &[], &[]);
        assert_eq!(found.sources.len(), 4);
        assert!(uris(&found).contains(&"x/one/a.md"), "{:?}", uris(&found));
        assert_eq!(uris(&run(&[&at("one"), &at("one/a.md")], &[], &[])), ["a.md", "b.md"], "one file, one document");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_once_and_loops_end() {
        let root = tree(&["in/a.md", "out/b.md"]);
        let link =
            |to: &str, from: &str| std::os::unix::fs::symlink(root.path().join(to), root.path().join(from)).unwrap();
        link("out", "in/linked");
        link("in", "in/loop");
        link("in/a.md", "in/again.md");
        link("gone", "in/dangling.md");
        let found = run(&[&root.path().join("in")], &[], &[]);
        assert_eq!(uris(&found), ["a.md", "linked/b.md"]);
        assert!(found.skipped.iter().any(|s| s.reason.contains("leads back")), "{:?}", found.skipped);
        assert!(found.complete);
    }

    #[cfg(unix)]
    #[test]
    fn a_name_that_is_not_utf8_is_reported() {
        use std::os::unix::ffi::OsStrExt;
        let root = tree(&["a.md"]);
        fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"\xff.md")), "x").unwrap();
        let found = run(&[root.path()], &[], &[]);
        assert_eq!(uris(&found), ["a.md"]);
        assert!(found.skipped[0].reason.contains("UTF-8"));
    }
}
