//! Values by key with the layer each comes from, and the rules by which a layer is laid over another.

use std::{collections::BTreeMap, ops::Range, path::Path};

use toml::{Table, Value, de::DeTable};

use crate::{
    Settings, SettingsError, Source, env,
    error::{nearest, suggestion},
    fields::{FIELDS, field, keys_of, sections},
    reference::DEFAULT_FILE,
};

/// A value and where it comes from.
#[derive(Debug, Clone)]
pub(crate) struct Layered {
    pub(crate) value: Value,
    pub(crate) source: Source,
}

/// One value per key.
#[derive(Debug, Clone)]
pub(crate) struct Layers(pub(crate) BTreeMap<&'static str, Layered>);

impl Layers {
    /// The embedded defaults.
    pub(crate) fn defaults() -> Result<Self, SettingsError> {
        let mut layers = Self(BTreeMap::new());
        layers.lay_file(Path::new("config/edgewise.toml"), DEFAULT_FILE)?;
        for layered in layers.0.values_mut() {
            layered.source = Source::Default;
        }
        match FIELDS.iter().find(|field| !layers.0.contains_key(field.key)) {
            Some(field) => Err(SettingsError::Defect(format!("config/edgewise.toml has no `{}`", field.key))),
            None => Ok(layers),
        }
    }

    /// The values of typed settings, as if they were all given by flags.
    pub(crate) fn of_settings(settings: &Settings) -> Result<Self, SettingsError> {
        let table = Table::try_from(settings).map_err(|error| SettingsError::Defect(error.to_string()))?;
        let mut layers = Self(BTreeMap::new());
        for field in FIELDS {
            let (section, key) = field.key.split_once('.').unwrap_or((field.key, ""));
            let value = table.get(section).and_then(|section| section.get(key)).cloned();
            let value = value.ok_or_else(|| SettingsError::Defect(format!("no `{}`", field.key)))?;
            layers.0.insert(field.key, Layered { value, source: Source::Flag });
        }
        Ok(layers)
    }

    /// Lays the keys of a TOML file over what is there.
    pub(crate) fn lay_file(&mut self, path: &Path, text: &str) -> Result<(), SettingsError> {
        let line_of = |span: Range<usize>| 1 + text.bytes().take(span.start).filter(|b| *b == b'\n').count();
        let place = |span: Range<usize>| format!("{}:{}", path.display(), line_of(span));
        let document = DeTable::parse(text).map_err(|error| SettingsError::Syntax {
            place: place(error.span().unwrap_or(0..0)),
            message: error.message().to_owned(),
        })?;
        // The second parse gives plain values; the first gives their places.
        let values: Table = toml::from_str(text).map_err(|error| SettingsError::Syntax {
            place: place(error.span().unwrap_or(0..0)),
            message: error.message().to_owned(),
        })?;
        for (section, body) in document.get_ref() {
            let name = section.get_ref().as_ref();
            let known = sections();
            if !known.contains(&name) {
                return Err(unknown(place(section.span()), "section", name, &known));
            }
            let Some(body) = body.get_ref().as_table() else {
                return Err(SettingsError::BadValue {
                    place: place(section.span()),
                    key: name.to_owned(),
                    allowed: format!("a section, `[{name}]`"),
                    value: "a value".to_owned(),
                });
            };
            for key in body.keys() {
                let known = keys_of(name);
                let short = key.get_ref().as_ref();
                let value = values.get(name).and_then(|section| section.get(short));
                let (Some(field), Some(value)) = (field(&format!("{name}.{short}")), value) else {
                    return Err(unknown(place(key.span()), "key", &format!("{name}.{short}"), &known));
                };
                let source = Source::File { path: path.to_owned(), line: line_of(key.span()) };
                self.lay(field.key, value.clone(), source)?;
            }
        }
        Ok(())
    }

    /// Lays the variables that start with `EDGEWISE_` over what is there.
    pub(crate) fn lay_env(&mut self, variables: &[(String, String)]) -> Result<(), SettingsError> {
        let known: Vec<(String, Option<&'static str>)> = FIELDS
            .iter()
            .map(|field| (env::variable_of(field.key), Some(field.key)))
            .chain(env::FIXED.iter().map(|(name, _, _)| ((*name).to_owned(), None)))
            .filter(|(name, _)| name.starts_with(env::PREFIX))
            .collect();
        for (name, text) in variables.iter().filter(|(name, _)| name.starts_with(env::PREFIX)) {
            match known.iter().find(|(known, _)| known == name) {
                Some((_, Some(key))) => self.lay_text(key, text, Source::Env { variable: name.clone() })?,
                Some((_, None)) => {}
                None => {
                    let nearest = nearest(name, known.iter().map(|(known, _)| known.as_str()));
                    let nearest = nearest.map_or(String::new(), |(name, _)| name.to_owned());
                    return Err(SettingsError::UnknownVariable { name: name.clone(), nearest });
                }
            }
        }
        Ok(())
    }

    /// Lays flags over what is there: pairs of a dotted key and a text.
    pub(crate) fn lay_overrides(&mut self, overrides: &[(String, String)]) -> Result<(), SettingsError> {
        for (key, text) in overrides {
            match field(key) {
                Some(field) => self.lay_text(field.key, text, Source::Flag)?,
                None => {
                    let all: Vec<&str> = FIELDS.iter().map(|field| field.key).collect();
                    return Err(unknown("flag".to_owned(), "key", key, &all));
                }
            }
        }
        Ok(())
    }

    fn lay_text(&mut self, key: &'static str, text: &str, source: Source) -> Result<(), SettingsError> {
        match field(key).and_then(|field| field.kind.parse(text)) {
            Some(value) => self.lay(key, value, source),
            None => Err(bad_value(key, &source, &format!("`{text}`"))),
        }
    }

    fn lay(&mut self, key: &'static str, value: Value, source: Source) -> Result<(), SettingsError> {
        if !field(key).is_some_and(|field| field.kind.accepts(&value)) {
            return Err(bad_value(key, &source, &value.to_string()));
        }
        self.0.insert(key, Layered { value, source });
        Ok(())
    }

    /// Checks every value, then the rules between values.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        for (key, layered) in &self.0 {
            if !field(key).is_some_and(|field| field.kind.accepts(&layered.value)) {
                return Err(bad_value(key, &layered.source, &layered.value.to_string()));
            }
        }
        let most = self.integer("planner.max_input_tokens");
        for key in ["planner.passages_budget_tokens", "planner.documents_budget_tokens"] {
            let budget = self.integer(key);
            if most > 0 && budget > most {
                return Err(self.conflict(
                    key,
                    format!("`{key}` ({budget}) is above `planner.max_input_tokens` ({most}); lower it or raise that"),
                ));
            }
        }
        let given =
            |key: &str| self.0.get(key).and_then(|layered| layered.value.as_str()).is_some_and(|path| !path.is_empty());
        for (key, other) in [("server.tls_cert", "server.tls_key"), ("server.tls_key", "server.tls_cert")] {
            if given(key) && !given(other) {
                return Err(self.conflict(key, format!("`{key}` is given without `{other}`; TLS needs both")));
            }
        }
        Ok(())
    }

    fn integer(&self, key: &str) -> i64 {
        self.0.get(key).and_then(|layered| layered.value.as_integer()).unwrap_or_default()
    }

    fn conflict(&self, key: &str, message: String) -> SettingsError {
        let place = self.0.get(key).map_or_else(|| key.to_owned(), |layered| layered.source.to_string());
        SettingsError::Conflict { place, message }
    }

    /// As typed settings.
    pub(crate) fn settings(&self) -> Result<Settings, SettingsError> {
        let mut table = Table::new();
        for (key, layered) in &self.0 {
            let (section, name) = key.split_once('.').unwrap_or((key, ""));
            let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(section) = section {
                section.insert(name.to_owned(), layered.value.clone());
            }
        }
        table.try_into().map_err(|error: toml::de::Error| SettingsError::Defect(error.to_string()))
    }
}

fn bad_value(key: &str, source: &Source, value: &str) -> SettingsError {
    SettingsError::BadValue {
        place: source.to_string(),
        key: key.to_owned(),
        allowed: field(key).map_or_else(String::new, |field| field.kind.allowed()),
        value: value.to_owned(),
    }
}

fn unknown(place: String, what: &'static str, key: &str, allowed: &[&str]) -> SettingsError {
    // Keys of a file are compared without their section, which is known to be right.
    let short = if allowed.iter().any(|name| name.contains('.')) { key } else { key.rsplit('.').next().unwrap_or(key) };
    SettingsError::UnknownKey {
        place,
        what,
        key: key.to_owned(),
        suggestion: suggestion(short, allowed.iter().copied()),
        allowed: allowed.join(", "),
    }
}
