//! Prints the effective configuration.

use std::fmt::Write as _;

use crate::{Loaded, SettingsError, fields, layer::Layers};

impl Loaded {
    /// The effective configuration as TOML, every key followed by a comment that names the layer it comes from. The
    /// text is itself a valid configuration file.
    pub fn show(&self) -> Result<String, SettingsError> {
        let layers = Layers::of_settings(&self.settings)?;
        let mut text = String::new();
        for (index, section) in fields::sections().into_iter().enumerate() {
            let blank = if index == 0 { "" } else { "\n" };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{blank}[{section}]");
            for key in fields::keys_of(section) {
                let full = format!("{section}.{key}");
                if let (Some(layered), Some(source)) = (layers.0.get(full.as_str()), self.sources.get(full.as_str())) {
                    let _ = writeln!(text, "{key} = {} # {source}", layered.value);
                }
            }
        }
        Ok(text)
    }
}
