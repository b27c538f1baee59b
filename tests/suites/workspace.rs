//! The rules of the workspace, checked over `cargo metadata` and the sources themselves: which crate may use which,
//! where `unsafe` and device features may stand, licences and sources of dependencies, and the size of files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};
use edgewise_tests::workspace_root;

/// Crate → crates of ours it may use. A crate must stand after everything it uses.
const MAY_USE: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("model-api", &["types"]),
    ("settings", &["types"]),
    ("telemetry", &["types"]),
    ("prompts", &["types"]),
    ("model-store", &["types"]),
    ("kernels", &[]),
    ("kv-cache", &["types"]),
    ("engine", &["types", "model-api", "kv-cache", "kernels", "telemetry"]),
    ("documents", &["types", "model-api"]),
    ("catalog", &["types"]),
    ("lexical-index", &["types"]),
    ("vector-index", &["types", "kernels"]),
    ("text", &["types"]),
    ("summary-tree", &["types", "model-api", "prompts", "text"]),
    (
        "retrieval",
        &[
            "types",
            "model-api",
            "prompts",
            "documents",
            "catalog",
            "lexical-index",
            "vector-index",
            "summary-tree",
            "telemetry",
        ],
    ),
    ("ledger", &["types"]),
    ("access", &["types"]),
    ("upstream", &["types", "model-api", "telemetry"]),
    ("planner", &["types", "model-api", "prompts", "text", "retrieval", "ledger", "telemetry"]),
    ("gateway", &["types", "model-api", "settings", "telemetry", "retrieval", "planner", "ledger", "access"]),
    (
        "evaluation",
        &["types", "model-api", "kv-cache", "prompts", "text", "documents", "retrieval", "ledger", "planner"],
    ),
    (
        "cli",
        &[
            "types",
            "model-api",
            "settings",
            "telemetry",
            "prompts",
            "model-store",
            "engine",
            "documents",
            "catalog",
            "retrieval",
            "planner",
            "ledger",
            "access",
            "upstream",
            "gateway",
            "evaluation",
        ],
    ),
    ("test-support", &["types", "model-api"]),
];

/// Crates that may contain `unsafe` and name device features.
const UNSAFE_CRATES: &[&str] = &["kernels", "engine"];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(workspace_root().join("Cargo.toml"))
        .other_options(vec!["--locked".to_owned(), "--offline".to_owned()])
        .exec()
        .expect("cargo metadata")
}

fn short_name(package: &Package) -> Option<&str> {
    package.name.strip_prefix("edgewise-")
}

#[test]
fn dependencies_point_one_way() {
    let metadata = metadata();
    let table: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let order: BTreeMap<&str, usize> = MAY_USE.iter().enumerate().map(|(i, (name, _))| (*name, i)).collect();
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for package in metadata.workspace_packages() {
        let name = short_name(package).expect("every package is named edgewise-<folder>");
        if name == "tests" {
            continue;
        }
        let folder = package.manifest_path.parent().and_then(|p| p.file_name()).unwrap();
        assert_eq!(folder, name, "package and folder names agree");
        let Some(allowed) = table.get(name) else {
            problems.push(format!("{name}: not in the table of this test"));
            continue;
        };
        seen.insert(name.to_owned());
        for dependency in package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development) {
            let Some(used) = dependency.name.strip_prefix("edgewise-") else { continue };
            if !allowed.contains(&used) {
                problems.push(format!("{name} may not use {used}"));
            }
            if order.get(used) >= order.get(name) {
                problems.push(format!("{name} stands before {used}, which it uses"));
            }
        }
    }
    for (name, _) in MAY_USE {
        if !seen.contains(*name) {
            problems.push(format!("{name} is in the table but not in the workspace"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Every Rust file under `crates/`, with the crate it is in.
fn sources() -> Vec<(String, PathBuf)> {
    let crates = workspace_root().join("crates");
    let mut files = Vec::new();
    rust_files(&crates, &mut files);
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&crates).unwrap().components().next().unwrap();
            (name.as_os_str().to_string_lossy().into_owned(), path)
        })
        .collect()
}

#[test]
fn unsafe_and_device_features_stay_in_two_crates() {
    let mut problems = Vec::new();
    for (name, path) in sources() {
        if UNSAFE_CRATES.contains(&name.as_str()) {
            continue;
        }
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let is_unsafe = code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl");
            let is_device = ["cuda", "flash-attn"].iter().any(|name| code.contains(&format!("feature = \"{name}\"")));
            if is_unsafe || is_device || code.contains("allow(unsafe_code)") {
                problems.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn planner_and_gateway_never_see_the_engine() {
    for name in ["planner", "gateway", "retrieval"] {
        let manifest = workspace_root().join("crates").join(name).join("Cargo.toml");
        let text = fs::read_to_string(manifest).unwrap();
        assert!(!text.contains("edgewise-engine") && !text.contains("candle"), "{name} must not depend on an engine");
    }
}

#[test]
fn files_stay_readable() {
    let mut problems = Vec::new();
    for (_, path) in sources() {
        let is_test = path.components().any(|c| c.as_os_str() == "tests") || path.ends_with("tests.rs");
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        if lines > 600 && !is_test {
            problems.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert!(problems.is_empty(), "split by responsibility:\n{}", problems.join("\n"));
}

#[test]
fn licences_and_sources_follow_the_policy() {
    let policy: toml::Table = fs::read_to_string(workspace_root().join("deny.toml")).unwrap().parse().unwrap();
    let allowed: BTreeSet<&str> =
        policy["licenses"]["allow"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
    let banned: BTreeSet<&str> =
        policy["bans"]["deny"].as_array().unwrap().iter().map(|b| b["name"].as_str().unwrap()).collect();
    let mut problems = Vec::new();
    for package in &metadata().packages {
        if package.source.is_none() {
            continue; // ours
        }
        if !package.source.as_ref().is_some_and(|s| s.is_crates_io()) {
            problems.push(format!("{}: not from crates.io", package.name));
        }
        if banned.contains(package.name.as_str()) {
            problems.push(format!("{}: banned", package.name));
        }
        match &package.license {
            Some(expression) if licence_allowed(expression, &allowed) => {}
            other => problems.push(format!("{} {}: licence {other:?}", package.name, package.version)),
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Whether an SPDX expression can be met from `allowed`. Handles `OR`, `AND`, one level of parentheses and the old `/`.
fn licence_allowed(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let flat = expression.replace('/', " OR ");
    let mut groups = vec![String::new()];
    let mut depth = 0;
    // Split at top-level ANDs; every part must be met.
    for word in flat.split_whitespace() {
        depth += word.matches('(').count();
        if word == "AND" && depth == 0 {
            groups.push(String::new());
        } else if let Some(last) = groups.last_mut() {
            last.push(' ');
            last.push_str(word);
        }
        depth -= word.matches(')').count();
    }
    groups.iter().all(|group| {
        let inner = group.trim().trim_start_matches('(').trim_end_matches(')');
        inner.split(" OR ").any(|option| {
            option.split(" AND ").all(|licence| allowed.contains(licence.trim().trim_matches(['(', ')'])))
        })
    })
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = BTreeSet::from(["MIT", "Apache-2.0", "ISC", "Apache-2.0 WITH LLVM-exception"]);
    for good in
        ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "(MIT OR GPL-2.0) AND ISC", "Apache-2.0 WITH LLVM-exception OR X"]
    {
        assert!(licence_allowed(good, &allowed), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-3.0", "GPL-3.0 OR (MIT AND LGPL-2.1)"] {
        assert!(!licence_allowed(bad, &allowed), "{bad}");
    }
}
