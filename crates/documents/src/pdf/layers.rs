//! Layers of a PDF (optional content, ISO 32000-1, 8.11) that are switched off when the file is opened: what is not seen
//! is not read.
//!
//! Deliberately not here: visibility expressions, usage (print, zoom), and configurations other than the default one.

use std::collections::HashSet;

use hayro_syntax::Pdf;
use hayro_syntax::object::{Array, Dict, Name, ObjectIdentifier};

/// The layers that are off.
#[derive(Default)]
pub(super) struct Layers {
    off: HashSet<ObjectIdentifier>,
}

impl Layers {
    /// The layers of `pdf` that its default configuration switches off.
    pub(super) fn of(pdf: &Pdf) -> Self {
        let ids = |dict: &Dict<'_>, key: &str| -> HashSet<ObjectIdentifier> {
            let groups = dict.get::<Array<'_>>(key);
            groups
                .map(|groups| groups.iter::<Dict<'_>>().filter_map(|group| group.obj_id()).collect())
                .unwrap_or_default()
        };
        let xref = pdf.xref();
        let catalog = xref.get::<Dict<'_>>(xref.root_id());
        let Some(content) = catalog.and_then(|catalog| catalog.get::<Dict<'_>>("OCProperties")) else {
            return Self::default();
        };
        let Some(default) = content.get::<Dict<'_>>("D") else { return Self::default() };
        let mut off = ids(&default, "OFF");
        if default.get::<Name<'_>>("BaseState").is_some_and(|state| &*state == b"OFF") {
            let on = ids(&default, "ON");
            off.extend(ids(&content, "OCGs").difference(&on));
        }
        Self { off }
    }

    /// Whether what belongs to `content`, a layer or a combination of layers, is not seen.
    pub(super) fn hide(&self, content: &Dict<'_>) -> bool {
        let is_off = |dict: &Dict<'_>| dict.obj_id().is_some_and(|id| self.off.contains(&id));
        if self.off.is_empty() {
            return false;
        }
        if is_off(content) {
            return true;
        }
        let groups: Vec<bool> = match content.get::<Array<'_>>("OCGs") {
            Some(groups) => groups.iter::<Dict<'_>>().map(|group| is_off(&group)).collect(),
            None => content.get::<Dict<'_>>("OCGs").iter().map(is_off).collect(),
        };
        let (any_off, all_off) = (groups.contains(&true), !groups.contains(&false));
        let policy = content.get::<Name<'_>>("P");
        !groups.is_empty()
            && match policy.as_deref() {
                Some(b"AllOn") => any_off,
                Some(b"AnyOff") => !any_off,
                Some(b"AllOff") => !all_off,
                _ => all_off,
            }
    }
}
