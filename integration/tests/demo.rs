//! `make run` as a new user runs it: it ends by itself, is right, and leaves nothing running.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use gristmill_integration::{root, run};

#[test]
fn the_demo_scores_the_digits_and_leaves_nothing_behind() {
    let temp = tempfile::TempDir::new().unwrap();
    let scratch = temp.path().to_str().unwrap();
    let ended =
        run(&root().join(".venv/bin/python"), &[root().join("integration/demo/run.py")], &[("TMPDIR", scratch)]);
    let text = ended.text();
    assert_eq!(ended.code, 0, "{text}{}", ended.err);
    let accuracy = text.lines().find_map(|line| line.strip_prefix("accuracy")).expect("the demo tells its accuracy");
    let accuracy: f64 = accuracy.split_whitespace().next().unwrap().parse().unwrap();
    assert!(accuracy >= 0.95, "{text}");
    for says in ["jobs/s", "p50", "p99", "mean batch", "says "] {
        assert!(text.contains(says), "{says} is missing in\n{text}");
    }
    // Torch keeps a cache of its own there.
    let ours = |name: std::ffi::OsString| name.to_string_lossy().starts_with("gristmill-");
    let left = std::fs::read_dir(temp.path()).unwrap().filter(|entry| ours(entry.as_ref().unwrap().file_name()));
    assert_eq!(left.count(), 0, "files are left in the temporary directory");
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&command).contains(scratch), "a process is left running");
    }
}
