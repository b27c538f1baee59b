//! Every page in a real headless Chromium, over a server with the real models: `tests/browser` has the checks.
//!
//! Needs node 20 or newer, npm and a Chromium. The two packages come from npm in the versions of
//! `tests/browser/package-lock.json`, once, into a folder beside the test models.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
};

use support::World;

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/browser").canonicalize().unwrap()
}

/// The browser, by the names it goes by.
fn chromium() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let found = std::env::split_paths(&path)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|program| program.is_file());
    found.expect("no Chromium is installed: install one, on Debian with `apt-get install chromium`")
}

/// The folder with the installed packages.
fn packages() -> PathBuf {
    let lock = fs::read(scripts().join("package-lock.json")).unwrap();
    let mut hasher = DefaultHasher::new();
    lock.hash(&mut hasher);
    let models = std::env::var_os("EDGEWISE_TEST_MODELS").expect("EDGEWISE_TEST_MODELS is set by scripts/test");
    let folder = Path::new(&models).with_file_name(format!("test-browser-{:016x}", hasher.finish()));
    if !folder.join("complete").exists() {
        fs::create_dir_all(&folder).unwrap();
        for file in ["package.json", "package-lock.json"] {
            fs::copy(scripts().join(file), folder.join(file)).unwrap();
        }
        let install = Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"])
            .current_dir(&folder)
            .status();
        let status = install.expect("npm is not installed: install node 20 or newer with npm");
        assert!(status.success(), "npm could not install the packages of tests/browser/package-lock.json");
        fs::write(folder.join("complete"), "").unwrap();
    }
    folder
}

/// Runs a script of `tests/browser` against a server.
fn run(script: &str, world: &World, arguments: &[&str]) {
    let shots = world.path("shots");
    fs::create_dir_all(&shots).unwrap();
    let run = Command::new("node")
        .arg(scripts().join(script))
        .args(arguments)
        .arg(&shots)
        .env("EDGEWISE_BROWSER", chromium())
        .env("EDGEWISE_BROWSER_PACKAGES", packages())
        .output()
        .expect("node is not installed: install node 20 or newer");
    let (out, error) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && out.contains("passed"), "{out}\n{error}");
}

#[test]
fn every_page_shows_what_the_api_says_and_can_be_used_by_everybody() {
    let world = World::with_models();
    world.write(
        "docs/harbour.md",
        "# The harbour of Westmar\n\nThe harbour of Westmar was founded in 1742 by Elsa Brandt.\n\n\
         ## Ferries\n\nFerries leave every forty minutes. The last one leaves at half past ten in the evening.\n",
    );
    // Long enough for the engine to keep the prompt that holds all of it.
    let berth = |n: usize| format!("Berth {n} lies at pier {} and costs {} crowns a night.\n\n", n % 7, 9 + n % 4);
    world.write(
        "docs/fees.md",
        format!("# Fees\n\nChildren pay nothing.\n\n{}", (1..90).map(berth).collect::<String>()),
    );
    world.run(&["ingest", "docs", "--collection", "port"]).expect(0);
    let server = world.serve();
    run("pages.mjs", &world, &[&server.url, "port"]);
}

#[test]
fn pages_want_a_key_where_there_are_keys_and_show_each_only_its_own() {
    let world = World::with_models();
    world.write("docs/harbour.md", "# The harbour\n\nThe harbour was founded in 1742.\n");
    world.run(&["ingest", "docs", "--collection", "harbours"]).expect(0);
    let key = |tenant: &str, scopes: &str| {
        let made = world.run(&["keys", "create", "--tenant", tenant, "--scope", scopes, "--json"]).expect(0).json();
        made["key"].as_str().unwrap_or_else(|| panic!("no key in {made}")).to_owned()
    };
    let (operator, tenant) = (key("local", "query,ingest,admin"), key("acme", "query"));
    let server = world.serve();
    run("access.mjs", &world, &[&server.url, &operator, &tenant, "harbours"]);
}
