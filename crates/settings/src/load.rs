//! Loading: finds the file, lays the layers, checks the result.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use crate::{Settings, SettingsError, env, layer::Layers, values};

/// Where to load from. Everything the result depends on, apart from the content of files.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The file given with `--config`; it must exist. `None` looks in the usual places.
    pub config: Option<PathBuf>,
    /// The folder relative paths to configuration files start at.
    pub current_dir: PathBuf,
    /// Environment variables, name and value.
    pub env: Vec<(String, String)>,
    /// Flags: pairs of a dotted key such as `server.port` and its value as text.
    pub overrides: Vec<(String, String)>,
}

/// Which layer set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The embedded default.
    Default,
    /// A line of a configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Env {
        /// Its name.
        variable: String,
    },
    /// A flag of the command line.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env { variable } => f.write_str(variable),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub settings: Settings,
    /// Which layer set each key.
    pub sources: BTreeMap<&'static str, Source>,
    /// The configuration file that was read, if any.
    pub file: Option<PathBuf>,
}

impl LoadOptions {
    /// Options from the environment and working folder of this process.
    pub fn from_process(config: Option<PathBuf>, overrides: Vec<(String, String)>) -> Result<Self, SettingsError> {
        let mut env = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => env.push((name, value)),
                Err(_) if name.starts_with(env::PREFIX) => return Err(SettingsError::NotUnicode { name }),
                Err(_) => {}
            }
        }
        let current_dir = std::env::current_dir().map_err(SettingsError::CurrentDir)?;
        Ok(Self { config, current_dir, env, overrides })
    }

    /// Lays the four layers and checks the result.
    pub fn load(self) -> Result<Loaded, SettingsError> {
        let mut layers = Layers::defaults()?;
        let file = self.read_file()?;
        if let Some((path, text)) = &file {
            layers.lay_file(path, text)?;
        }
        layers.lay_env(&self.env)?;
        layers.lay_overrides(&self.overrides)?;
        layers.check()?;
        let mut settings = layers.settings()?;
        settings.paths.resolve(&|name| self.variable(name))?;
        settings.planner.router = values::expanded(&settings.planner.router, &|name| self.variable(name))?;
        for path in [&mut settings.server.tls_cert, &mut settings.server.tls_key] {
            *path = values::expanded(path, &|name| self.variable(name))?;
        }
        let sources = layers.0.into_iter().map(|(key, layered)| (key, layered.source)).collect();
        Ok(Loaded { settings, sources, file: file.map(|(path, _)| path) })
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    /// The configuration file and its text: the one asked for, which must exist, or the first that exists.
    fn read_file(&self) -> Result<Option<(PathBuf, String)>, SettingsError> {
        let asked = self
            .config
            .clone()
            .or_else(|| self.variable(env::CONFIG).filter(|path| !path.is_empty()).map(PathBuf::from));
        if let Some(path) = asked {
            return match fs::read_to_string(self.current_dir.join(&path)) {
                Ok(text) => Ok(Some((path, text))),
                Err(source) => Err(SettingsError::Read { path, source }),
            };
        }
        let base = self.variable(env::XDG_CONFIG_HOME).map(PathBuf::from).filter(|path| path.is_absolute());
        let home =
            self.variable(env::HOME).filter(|home| !home.is_empty()).map(|home| Path::new(&home).join(".config"));
        let in_base = base.or(home).map(|base| base.join("edgewise").join("edgewise.toml"));
        for path in [Some(PathBuf::from("edgewise.toml")), in_base].into_iter().flatten() {
            match fs::read_to_string(self.current_dir.join(&path)) {
                Ok(text) => return Ok(Some((path, text))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(SettingsError::Read { path, source }),
            }
        }
        Ok(None)
    }
}
