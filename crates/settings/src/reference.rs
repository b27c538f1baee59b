//! The reference of keys and environment variables, generated from `config/edgewise.toml` and [`crate::env`].

use std::collections::BTreeMap;

use crate::{
    env::{FIXED, variable_of},
    fields::FIELDS,
};

/// The embedded `config/edgewise.toml`: every key, commented, with its default.
pub const DEFAULT_FILE: &str = include_str!("../../../config/edgewise.toml");

/// An environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// What it does.
    pub doc: String,
    /// What holds when it is not set; empty where nothing does.
    pub default: String,
}

/// A key's comment and its default as TOML, both from the embedded file.
pub(crate) struct KeyReference {
    pub(crate) doc: String,
    pub(crate) default: String,
}

/// Comment and default of every key. A key's comment is the block of `#` lines right above it.
pub(crate) fn key_reference() -> BTreeMap<String, KeyReference> {
    let mut reference = BTreeMap::new();
    let (mut section, mut comment) = (String::new(), Vec::new());
    for line in DEFAULT_FILE.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.push(text.trim());
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, default)) = line.split_once('=') {
            let reference_of_key = KeyReference { doc: comment.join(" "), default: default.trim().to_owned() };
            reference.insert(format!("{section}.{}", key.trim()), reference_of_key);
        }
        comment.clear();
    }
    reference
}

/// Every environment variable that is read: the fixed ones, then one per key.
pub fn environment_reference() -> Vec<EnvVar> {
    let fixed = FIXED.iter().map(|(name, doc, default)| EnvVar {
        name: (*name).to_owned(),
        doc: (*doc).to_owned(),
        default: (*default).to_owned(),
    });
    let mut reference = key_reference();
    let keys = FIELDS.iter().filter_map(|field| {
        let KeyReference { doc, default } = reference.remove(field.key)?;
        Some(EnvVar { name: variable_of(field.key), doc, default })
    });
    fixed.chain(keys).collect()
}
