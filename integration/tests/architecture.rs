//! The layering, checked: who may name whom. `worker/ARCHITECTURE.md` says why.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use gristmill_integration::root;

/// Modules of the worker by rank. A module names lower ranks only, and within its own rank nobody else.
const RANKS: [&[&str]; 5] = [
    &[
        "burst",
        "cores",
        "datatype",
        "link",
        "message",
        "sequences",
        "settings",
        "shutdown",
        "signals",
        "telemetry",
        "ticket",
    ],
    &["decode", "route", "status"],
    &["admin", "batch", "connect", "intake", "lag", "publish", "registry", "rescue", "respond", "run", "settle"],
    &["app", "config", "supervise"],
    &["lib", "main"],
];

/// Rank 0 is one vocabulary, and app composes config: these alone may name their own rank.
const SAME_RANK: [(&str, &[&str]); 3] =
    [("message", &["telemetry", "ticket"]), ("ticket", &["telemetry"]), ("app", &["config"])];

/// Workspace crates that each crate may depend on.
const CRATES: [(&str, &[&str]); 12] = [
    ("schemas", &[]),
    ("worker/engine", &[]),
    ("worker/ledger", &[]),
    ("worker/telemetry", &["gristmill-schemas"]),
    ("worker/torch", &["gristmill-engine"]),
    ("worker/torch/simulated", &[]),
    (
        "worker",
        &["gristmill-engine", "gristmill-ledger", "gristmill-schemas", "gristmill-telemetry", "gristmill-torch"],
    ),
    ("ops/score", &["gristmill-schemas"]),
    ("ops/ctl", &["gristmill-schemas", "gristmill-score", "gristmill-telemetry"]),
    ("ops/dashboards", &["gristmill-schemas"]),
    ("integration", &["gristmill-schemas"]),
    ("integration/steps", &[]),
];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn rank(module: &str) -> usize {
    let found = RANKS.iter().position(|rank| rank.contains(&module));
    found.unwrap_or_else(|| panic!("module {module} has no rank: give it one in architecture.rs and ARCHITECTURE.md"))
}

/// The modules a source names: what follows each `crate::`, and each entry of a `use crate::{...}`.
fn named(text: &str) -> BTreeSet<String> {
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let ident = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = BTreeSet::new();
    for (at, prefix) in code.match_indices("crate::") {
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(list) => names.extend(list.split('}').next().unwrap_or_default().split(',').map(|e| ident(e.trim()))),
            None => drop(names.insert(ident(rest))),
        }
    }
    names.remove("");
    names
}

#[test]
fn a_module_of_the_worker_names_lower_ranks_only() {
    let src = root().join("worker/src");
    let mut faults = Vec::new();
    for path in sources(&src) {
        let relative = path.strip_prefix(&src).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        let same: BTreeMap<_, _> = SAME_RANK.into_iter().collect();
        for other in named(&std::fs::read_to_string(&path).unwrap()) {
            let excepted = same.get(module.as_str()).is_some_and(|may| may.contains(&other.as_str()));
            if other != module && rank(&other) >= rank(&module) && !excepted {
                faults.push(format!(
                    "{} (rank {}) names {other} (rank {})",
                    relative.display(),
                    rank(&module),
                    rank(&other)
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_crate_depends_only_on_the_crates_below_it() {
    for (path, allowed) in CRATES {
        let manifest = std::fs::read_to_string(root().join(path).join("Cargo.toml")).unwrap();
        // What tests alone need knows no layers.
        let names = manifest
            .split("[dev-dependencies]")
            .next()
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.split(['.', ' ', '=']).next());
        let ours: BTreeSet<&str> = names.filter(|name| name.starts_with("gristmill-")).collect();
        assert!(ours.iter().all(|name| allowed.contains(name)), "{path} depends on {ours:?}, allowed are {allowed:?}");
    }
}

#[test]
fn only_torch_names_tch_and_only_it_and_the_ledger_are_unsafe() {
    let light =
        ["schemas", "worker/engine", "worker/src", "worker/telemetry", "ops/ctl", "ops/dashboards", "ops/score"];
    for path in light.into_iter().chain(["integration/src", "integration/steps/src"]) {
        for source in sources(&root().join(path)) {
            let text = std::fs::read_to_string(&source).unwrap();
            let names_tch = text.match_indices("tch::").any(|(at, _)| !text[..at].ends_with(char::is_alphanumeric));
            assert!(!names_tch, "{} names tch", source.display());
            assert!(!text.contains("unsafe {"), "{} is unsafe", source.display());
        }
    }
    for source in
        ["worker/torch/src", "worker/ledger/src", "ops/score/src"].iter().flat_map(|path| sources(&root().join(path)))
    {
        let text = std::fs::read_to_string(&source).unwrap();
        assert!(!text.contains("tokio") && !text.contains("async_nats"), "{} knows the broker", source.display());
    }
}

#[test]
fn files_stay_short() {
    let worker = ["worker/src", "worker/engine/src", "worker/ledger/src", "worker/telemetry/src", "worker/torch/src"];
    for path in worker.into_iter().chain([
        "schemas/src",
        "ops/ctl/src",
        "ops/dashboards/src",
        "ops/score/src",
        "integration/steps/src",
    ]) {
        for source in sources(&root().join(path)) {
            let text = std::fs::read_to_string(&source).unwrap();
            let lines = text.split("#[cfg(test)]").next().unwrap_or_default().lines().count();
            assert!(lines <= 400, "{} has {lines} lines: split it by what it owns", source.display());
        }
    }
}

#[test]
fn the_root_holds_what_it_should() {
    let allowed = "Cargo.toml Cargo.lock worker schemas ops integration Makefile README.md LICENSE CHANGELOG.md target";
    for entry in std::fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name.starts_with('.') || allowed.split(' ').any(|known| known == name), "{name} lies in the root");
    }
}
