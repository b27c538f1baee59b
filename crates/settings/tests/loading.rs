//! Layers, sources, refusals and look-up of the configuration file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{fs, path::PathBuf};

use edgewise_settings::{
    DEFAULT_FILE, LoadOptions, Loaded, LogFormat, Objective, Settings, SettingsError, Source, environment_reference,
    fields::FIELDS,
};
use tempfile::TempDir;

/// A folder to start from and an environment with a home in it.
struct World {
    folder: TempDir,
    options: LoadOptions,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let current_dir = folder.path().join("cwd");
        fs::create_dir(&current_dir).unwrap();
        let home = folder.path().join("home").display().to_string();
        let options = LoadOptions { current_dir, env: vec![("HOME".to_owned(), home)], ..LoadOptions::default() };
        Self { folder, options }
    }

    fn file(self, path: &str, text: &str) -> Self {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.options.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn flag(mut self, key: &str, value: &str) -> Self {
        self.options.overrides.push((key.to_owned(), value.to_owned()));
        self
    }

    fn config(mut self, path: &str) -> Self {
        self.options.config = Some(PathBuf::from(path));
        self
    }

    fn load(&self) -> Loaded {
        self.try_load().unwrap_or_else(|error| panic!("{error}"))
    }

    fn try_load(&self) -> Result<Loaded, SettingsError> {
        self.options.clone().load()
    }

    fn refusal(&self) -> String {
        self.try_load().expect_err("must be refused").to_string()
    }
}

#[test]
fn without_any_layer_the_defaults_hold() {
    let world = World::new();
    let Loaded { settings, sources, file } = world.load();
    assert_eq!(file, None);
    assert!(sources.values().all(|source| *source == Source::Default));
    let home = world.folder.path().join("home");
    assert_eq!(settings.paths.models, home.join(".cache/edgewise/models"));
    assert_eq!(settings.paths.ledger, PathBuf::from("indexes/data/_ledger.sqlite"));
    let mut expected = Settings::default();
    expected.paths.models = settings.paths.models.clone();
    expected.paths.ledger = settings.paths.ledger.clone();
    expected.paths.prefixes = PathBuf::from("indexes/data/_prefixes");
    expected.paths.access = PathBuf::from("indexes/data/_access.sqlite");
    expected.paths.profiles = PathBuf::from("indexes/data/_profiles");
    assert_eq!(settings, expected);
    assert_eq!((settings.paths.prompts_dir(), settings.paths.registry_file()), (None, None));
    assert_eq!(settings.server.address().unwrap().to_string(), "127.0.0.1:8080");
}

#[test]
fn later_layers_win_key_by_key_and_sources_say_so() {
    let world = World::new()
        .file("cwd/edgewise.toml", "[server]\nport = 1\nhost = \"::1\"\n\n[engine]\nthreads = 2\n")
        .env("EDGEWISE_SERVER__PORT", "2")
        .env("EDGEWISE_TELEMETRY__FORMAT", "json")
        .flag("server.port", "3")
        .flag("planner.objective", "cheapest")
        .flag("planner.score_floor", "1");
    let Loaded { settings, sources, .. } = world.load();
    assert_eq!(settings.server.port, 3);
    assert_eq!(settings.server.address().unwrap().to_string(), "[::1]:3");
    assert_eq!(settings.engine.threads, 2);
    assert_eq!(settings.telemetry.format, LogFormat::Json);
    assert_eq!(settings.planner.objective, Objective::Cheapest);
    assert_eq!(settings.planner.score_floor, 1.0);
    assert_eq!(sources["server.port"], Source::Flag);
    assert_eq!(sources["telemetry.format"], Source::Env { variable: "EDGEWISE_TELEMETRY__FORMAT".to_owned() });
    assert_eq!(sources["engine.threads"], Source::File { path: PathBuf::from("edgewise.toml"), line: 6 });
    assert_eq!(sources["engine.max_sequences"], Source::Default);
}

#[test]
fn the_file_asked_for_is_used_alone_and_otherwise_the_first_that_exists() {
    let both = || {
        World::new()
            .file("home/.config/edgewise/edgewise.toml", "[server]\nport = 11\n[engine]\nthreads = 9\n")
            .file("cwd/named.toml", "[server]\nport = 13\n")
    };
    assert_eq!(both().load().settings.server.port, 11);
    let in_cwd = both().file("cwd/edgewise.toml", "[server]\nport = 12\n");
    let loaded = in_cwd.load();
    assert_eq!((loaded.settings.server.port, loaded.settings.engine.threads), (12, 0), "files are not merged");
    assert_eq!(in_cwd.env("EDGEWISE_CONFIG", "named.toml").load().settings.server.port, 13);
    let flag_over_variable = both().env("EDGEWISE_CONFIG", "missing.toml").config("named.toml");
    assert_eq!(flag_over_variable.load().settings.server.port, 13);

    let xdg = World::new();
    let base = xdg.folder.path().join("xdg").display().to_string();
    let xdg = xdg.file("xdg/edgewise/edgewise.toml", "[server]\nport = 14\n").env("XDG_CONFIG_HOME", &base);
    assert_eq!(xdg.load().settings.server.port, 14);

    let missing = World::new().config("missing.toml").refusal();
    assert!(missing.contains("missing.toml") && missing.contains("--config"), "{missing}");
    let folder = World::new().file("cwd/edgewise.toml/x", "").refusal();
    assert!(folder.contains("cannot read the configuration file edgewise.toml"), "{folder}");
}

#[test]
fn every_refusal_names_the_place_and_what_is_allowed() {
    let file = |text: &str| World::new().file("cwd/edgewise.toml", text).refusal();
    let env = |name: &str, value: &str| World::new().env(name, value).refusal();
    let flag = |key: &str, value: &str| World::new().flag(key, value).refusal();
    let cases = [
        (
            file("[sever]\nport = 1"),
            vec!["edgewise.toml:1: unknown section `sever`", "did you mean `server`", "planner"],
        ),
        (
            file("[server]\n\nprot = 1"),
            vec!["edgewise.toml:3: unknown key `server.prot`", "did you mean `port`", "host"],
        ),
        (file("[server]\nport = \"x\""), vec!["edgewise.toml:2: `server.port`", "from 0 to 65535", "not \"x\""]),
        (file("[server]\nport = 65536"), vec!["edgewise.toml:2:", "from 0 to 65535, not 65536"]),
        (file("[server]\nport = 1.5"), vec!["edgewise.toml:2:", "a whole number"]),
        (file("[server]\nhost = \"example.org\""), vec!["edgewise.toml:2:", "an IP address or localhost"]),
        (file("[server]\nport = [1]"), vec!["edgewise.toml:2:", "not [1]"]),
        (file("server = 3"), vec!["edgewise.toml:1:", "`server` must be a section, `[server]`"]),
        (file("port = 3"), vec!["edgewise.toml:1: unknown section `port`"]),
        (file("[server]\nport = 1\nport = 2"), vec!["edgewise.toml:3: not valid TOML", "duplicate"]),
        (file("[server]\nport = \n"), vec!["edgewise.toml:2: not valid TOML"]),
        (file("[planner]\nobjective = \"fast\""), vec!["one of cheapest, balanced, best, not \"fast\""]),
        (file("[models]\ngenerator = \" \""), vec!["`models.generator` must be a text that is not empty"]),
        (file("[planner]\nmax_input_tokens = 10"), vec!["planner.passages_budget_tokens", "(1200) is above", "(10)"]),
        (file("[engine]\nprefix_store = \"yes\""), vec!["edgewise.toml:2", "engine.prefix_store", "true or false"]),
        (env("EDGEWISE_SERVER__PORT", "http"), vec!["EDGEWISE_SERVER__PORT: `server.port` must be", "not `http`"]),
        (env("EDGEWISE_SERVER__PORT", ""), vec!["EDGEWISE_SERVER__PORT: `server.port` must be", "not ``"]),
        (env("EDGEWISE_SERVER_PORT", "1"), vec!["EDGEWISE_SERVER_PORT; the nearest is EDGEWISE_SERVER__PORT"]),
        (env("EDGEWISE_CONFG", "1"), vec!["EDGEWISE_CONFG; the nearest is EDGEWISE_CONFIG"]),
        (env("EDGEWISE_PLANNER__SCORE_FLOOR", "nan"), vec!["`planner.score_floor` must be a number from -1 to 1"]),
        (flag("server.prot", "1"), vec!["flag: unknown key `server.prot`", "did you mean `server.port`"]),
        (flag("paths.data", ""), vec!["flag: `paths.data` must be a path"]),
    ];
    for (message, parts) in cases {
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }
}

#[test]
fn paths_under_the_home_folder_are_expanded_and_need_one() {
    let world = World::new().flag("paths.data", "~/d").flag("paths.prompts", "~").flag("paths.registry", "~x/r.toml");
    let paths = world.load().settings.paths;
    let home = world.folder.path().join("home");
    assert_eq!(paths.data, home.join("d"));
    assert_eq!(paths.ledger, home.join("d/_ledger.sqlite"));
    assert_eq!(paths.prompts_dir(), Some(home.as_path()));
    assert_eq!(paths.registry_file().unwrap(), PathBuf::from("~x/r.toml"), "only the own home is expanded");

    let mut homeless = World::new();
    homeless.options.env.clear();
    assert!(homeless.refusal().contains("HOME is not set"));
    let homeless = homeless.env("XDG_CACHE_HOME", "/c");
    assert_eq!(homeless.load().settings.paths.models, PathBuf::from("/c/edgewise/models"));
}

#[test]
fn what_is_shown_is_a_configuration_file_with_the_same_settings() {
    let world = World::new()
        .file("cwd/edgewise.toml", "[server]\nhost = \"localhost\"")
        .env("EDGEWISE_PATHS__PROMPTS", "with \"quotes\" and \\")
        .flag("planner.score_floor", "0.1");
    let loaded = world.load();
    let text = loaded.show().unwrap();
    assert!(text.contains("host = \"localhost\" # edgewise.toml:2\n"), "{text}");
    assert!(text.contains("score_floor = 0.1 # flag\n"), "{text}");
    assert!(text.contains("# EDGEWISE_PATHS__PROMPTS\n"), "{text}");
    let again = World::new().file("cwd/edgewise.toml", &text);
    assert_eq!(again.load().settings, loaded.settings);
}

#[test]
fn the_reference_file_is_the_default_and_every_key_is_commented() {
    let parsed: Settings = toml::from_str(DEFAULT_FILE).unwrap();
    assert_eq!(parsed, Settings::default());
    parsed.check().unwrap();
    let reference = environment_reference();
    for field in FIELDS {
        let variable = format!("EDGEWISE_{}", field.key.to_uppercase().replacen('.', "__", 1));
        let found = reference.iter().find(|entry| entry.name == variable).unwrap_or_else(|| panic!("{variable}"));
        assert!(found.doc.len() > 10 && found.doc.ends_with('.'), "comment of {}: `{}`", field.key, found.doc);
    }
    let in_file: Vec<&str> =
        DEFAULT_FILE.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')).collect();
    assert_eq!(in_file.len(), FIELDS.len(), "the file has keys that FIELDS has not, or the reverse");
    for (line, field) in in_file.iter().zip(FIELDS) {
        let key = field.key.split_once('.').unwrap().1;
        assert!(line.starts_with(&format!("{key} = ")), "{line} is not in the place of {key}");
    }
}

#[test]
fn every_variable_of_the_reference_is_known() {
    for entry in environment_reference().iter().filter(|entry| entry.name.starts_with("EDGEWISE_")) {
        assert!(!entry.doc.is_empty(), "{}", entry.name);
        let value = match entry.name.as_str() {
            "EDGEWISE_CONFIG" => continue,
            _ => entry.default.trim_matches('"'),
        };
        World::new().env(&entry.name, value).load();
    }
}

#[test]
fn settings_built_by_hand_are_checked_by_the_same_rules() {
    let mut settings = Settings::default();
    settings.check().unwrap();
    settings.server.max_concurrent_requests = 0;
    let message = settings.check().unwrap_err().to_string();
    assert!(message.contains("`server.max_concurrent_requests` must be a whole number from 1"), "{message}");
}

mod properties {
    use edgewise_settings::fields::{Field, Kind};
    use proptest::prelude::*;

    use super::*;

    fn integer_fields() -> Vec<(&'static Field, i64, i64)> {
        let bounds = |field: &'static Field| match field.kind {
            Kind::Integer { min, max } => Some((field, min, max)),
            _ => None,
        };
        FIELDS.iter().filter_map(bounds).collect()
    }

    proptest! {
        /// A number is taken or refused alike whichever layer it comes from, and refused exactly when out of range.
        #[test]
        fn layers_agree_on_what_is_allowed(index in 0..integer_fields().len(), raw: i64, near in -2i64..=2, edge: u8) {
            let (field, min, max) = integer_fields()[index];
            let value = match edge % 3 {
                0 => raw,
                1 => min.saturating_add(near),
                _ => max.saturating_add(near),
            };
            let (section, key) = field.key.split_once('.').unwrap();
            let variable = format!("EDGEWISE_{}__{}", section.to_uppercase(), key.to_uppercase());
            let worlds = [
                World::new().file("cwd/edgewise.toml", &format!("[{section}]\n{key} = {value}")),
                World::new().env(&variable, &value.to_string()),
                World::new().flag(field.key, &value.to_string()),
            ];
            for world in worlds {
                match world.try_load() {
                    Ok(_) | Err(SettingsError::Conflict { .. }) => prop_assert!((min..=max).contains(&value)),
                    Err(SettingsError::BadValue { .. }) => prop_assert!(!(min..=max).contains(&value)),
                    Err(error) => prop_assert!(false, "{}", error),
                }
            }
        }

        /// No file, however broken, makes loading panic.
        #[test]
        fn any_text_is_loaded_or_refused(text in "[\\[\\]a-z_.=\"0-9 \n#{}']{0,80}") {
            let _ = World::new().file("cwd/edgewise.toml", &text).try_load();
        }
    }
}
