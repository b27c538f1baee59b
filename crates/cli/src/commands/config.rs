//! `edgewise config`.

use edgewise_settings::{Loaded, environment_reference};

use crate::{args::Config, error::CliError, output};

pub(crate) fn run(command: &Config, loaded: &Loaded) -> Result<(), CliError> {
    match command {
        Config::Check => {
            let file = match &loaded.file {
                Some(path) => format!("{} and the environment", path.display()),
                None => "no configuration file; the defaults and the environment".to_owned(),
            };
            Ok(output::line(&format!("{} configuration is valid ({file})", output::good("✓")))?)
        }
        Config::Show => Ok(output::line(loaded.show()?.trim_end())?),
        Config::Env => {
            let rows = environment_reference().into_iter().map(|v| vec![v.name, v.default, v.doc]).collect();
            Ok(output::line(&output::table(&["variable", "default", "what it does"], &[], rows))?)
        }
    }
}
