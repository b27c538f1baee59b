//! The SDKs that people have, against the server with the real models.
//!
//! They come from PyPI in the versions of `tests/clients/requirements.txt`, once, into a folder beside the test models.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use support::World;

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients")
}

/// The folder with the packages that a file of `tests/clients` asks for.
fn packages(file: &str) -> PathBuf {
    let requirements = clients().join(file);
    let versions = fs::read_to_string(&requirements).unwrap();
    let version = versions.lines().collect::<Vec<_>>().join("-").replace("==", "-");
    let models = std::env::var_os("EDGEWISE_TEST_MODELS").expect("EDGEWISE_TEST_MODELS is set by scripts/test");
    let folder = Path::new(&models).with_file_name(format!("test-clients-{version}"));
    if !folder.join("complete").exists() {
        let install = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action", "ignore"])
            .arg("--target")
            .arg(&folder)
            .arg("-r")
            .arg(&requirements)
            .status();
        assert!(install.expect("python3 with pip is installed").success(), "pip could not install the SDKs");
        fs::write(folder.join("complete"), "").unwrap();
    }
    folder
}

#[test]
fn the_official_sdks_of_both_dialects_work() {
    let world = World::with_models();
    world.write("docs/harbour.md", "# The harbour of Westmar\n\nThe harbour of Westmar was founded in 1742 by Elsa Brandt. Ferries leave every forty minutes.\n");
    world.run(&["ingest", "docs", "--collection", "port"]).expect(0);
    let server = world.serve();
    let run = Command::new("python3")
        .env("PYTHONPATH", packages("requirements.txt"))
        .arg(clients().join("dialects.py"))
        .args([&server.url, "port"])
        .output()
        .unwrap();
    let (out, error) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && out.contains("passed"), "{out}\n{error}");
}

#[test]
fn the_official_mcp_sdk_works_over_both_transports() {
    let world = World::with_models();
    world.write("docs/harbour.md", "# The harbour of Westmar\n\nThe harbour of Westmar was founded in 1742 by Elsa Brandt. Ferries leave every forty minutes.\n");
    world.run(&["ingest", "docs", "--collection", "port"]).expect(0);
    let server = world.serve();
    let mut command = world.command();
    let binary = command.get_program().to_owned();
    let run = Command::new("python3")
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("PYTHONPATH", packages("requirements.txt"))
        .current_dir(world.path("."))
        .arg(clients().join("tools.py").canonicalize().unwrap())
        .args([&server.url, "port"])
        .arg(&binary)
        .arg("mcp")
        .output()
        .unwrap();
    let (out, error) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && out.contains("passed"), "{out}\n{error}");
    // Without a server, and without anything to say, it ends when its input does.
    drop(server);
    assert!(command.arg("mcp").output().unwrap().status.code().is_some());
}

#[test]
fn schemathesis_finds_nothing() {
    let world = World::with_models();
    world.write(
        "docs/harbour.md",
        "# The harbour of Westmar\n\nThe harbour of Westmar was founded in 1742 by Elsa Brandt.\n",
    );
    world.run(&["ingest", "docs", "--collection", "guide"]).expect(0);
    let server = world.serve();
    let run = Command::new(clients().join("schemathesis.sh"))
        .arg(&server.url)
        .arg(packages("requirements-schemathesis.txt"))
        .env("EXAMPLES", "4")
        .env("SECONDS_AT_MOST", "100")
        .output()
        .unwrap();
    let (out, error) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{out}\n{error}");
}
