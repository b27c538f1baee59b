//! Bookmarks of a PDF (ISO 32000-1, 12.3.3): titles, levels, and the pages they lead to.

use std::collections::{HashMap, HashSet};

use hayro_syntax::Pdf;
use hayro_syntax::object::{Array, Dict, MaybeRef, Object, ObjectIdentifier, String as PdfString};

use super::strings::text_string;

/// Most entries read.
const MAX_ENTRIES: usize = 20_000;
/// Deepest tree of named destinations.
const MAX_DEPTH: usize = 16;

/// A bookmark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub title: String,
    /// 1 for the outermost.
    pub level: u8,
    /// The page it leads to, from 0, if that is known.
    pub page: Option<usize>,
}

/// The bookmarks in order; none if there are none.
pub(super) fn entries(pdf: &Pdf) -> Vec<Entry> {
    let xref = pdf.xref();
    let Some(catalog) = xref.get::<Dict<'_>>(xref.root_id()) else { return Vec::new() };
    let Some(outlines) = catalog.get::<Dict<'_>>("Outlines") else { return Vec::new() };
    let pages: HashMap<ObjectIdentifier, usize> =
        pdf.pages().iter().enumerate().filter_map(|(index, page)| Some((page.raw().obj_id()?, index))).collect();
    let mut targets = Targets { pages, named: HashMap::new() };
    targets.read_names(&catalog);
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    // Depth first, without recursion: what comes after an entry is put below its children.
    let mut stack: Vec<(Dict<'_>, u8)> =
        outlines.get::<Dict<'_>>("First").map(|first| (first, 1)).into_iter().collect();
    while let Some((entry, level)) = stack.pop() {
        let is_new = entry.obj_id().is_none_or(|id| seen.insert(id));
        if !is_new || entries.len() >= MAX_ENTRIES {
            continue;
        }
        let title = entry.get::<PdfString<'_>>("Title").map(|title| text_string(title.as_bytes())).unwrap_or_default();
        let title = title.split_whitespace().collect::<Vec<_>>().join(" ");
        if !title.is_empty() {
            entries.push(Entry { title, level: level.min(6), page: targets.page_of(&entry) });
        }
        stack.extend(entry.get::<Dict<'_>>("Next").map(|next| (next, level)));
        stack.extend(entry.get::<Dict<'_>>("First").map(|first| (first, level.saturating_add(1))));
    }
    entries
}

/// Where destinations lead.
struct Targets {
    pages: HashMap<ObjectIdentifier, usize>,
    named: HashMap<Vec<u8>, usize>,
}

impl Targets {
    /// The page an entry leads to, by `/Dest` or by a `/GoTo` action.
    fn page_of(&self, entry: &Dict<'_>) -> Option<usize> {
        let target = entry.get::<Object<'_>>("Dest").or_else(|| entry.get::<Dict<'_>>("A")?.get::<Object<'_>>("D"))?;
        self.page(target)
    }

    fn page(&self, target: Object<'_>) -> Option<usize> {
        match target {
            Object::Array(array) => self.page_of_array(&array),
            Object::Dict(dict) => self.page_of_array(&dict.get::<Array<'_>>("D")?),
            Object::String(name) => self.named.get(name.as_bytes()).copied(),
            Object::Name(name) => self.named.get(name.as_ref() as &[u8]).copied(),
            _ => None,
        }
    }

    /// The page named first in a destination.
    fn page_of_array(&self, array: &Array<'_>) -> Option<usize> {
        match array.raw_iter().next()? {
            MaybeRef::Ref(id) => self.pages.get(&id.into()).copied(),
            MaybeRef::NotRef(Object::Number(number)) => usize::try_from(number.as_i64()).ok(),
            MaybeRef::NotRef(_) => None,
        }
    }

    /// Reads the catalog's named destinations: the dictionary of PDF 1.1 and the name tree of later ones.
    fn read_names(&mut self, catalog: &Dict<'_>) {
        if let Some(dests) = catalog.get::<Dict<'_>>("Dests") {
            for name in dests.keys().take(MAX_ENTRIES) {
                let page = dests.get::<Object<'_>>(&*name).and_then(|target| self.page(target));
                self.named.extend(page.map(|page| (name.to_vec(), page)));
            }
        }
        let root = catalog.get::<Dict<'_>>("Names").and_then(|names| names.get::<Dict<'_>>("Dests"));
        let mut stack: Vec<(Dict<'_>, usize)> = root.map(|root| (root, 0)).into_iter().collect();
        let mut nodes = 0;
        while let Some((node, depth)) = stack.pop() {
            nodes += 1;
            if nodes > MAX_ENTRIES || self.named.len() > MAX_ENTRIES {
                return;
            }
            if let Some(names) = node.get::<Array<'_>>("Names") {
                let mut items = names.iter::<Object<'_>>();
                while let (Some(name), Some(target)) = (items.next(), items.next()) {
                    let Object::String(name) = name else { continue };
                    let page = self.page(target);
                    self.named.extend(page.map(|page| (name.as_bytes().to_vec(), page)));
                }
            }
            if let Some(kids) = node.get::<Array<'_>>("Kids").filter(|_| depth < MAX_DEPTH) {
                stack.extend(kids.iter::<Dict<'_>>().map(|kid| (kid, depth + 1)));
            }
        }
    }
}
