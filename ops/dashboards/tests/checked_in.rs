//! What lies in `ops` against the table of metrics.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gristmill_dashboards::{dashboard, expressions, recorded};
use gristmill_schemas::ErrorCode;
use gristmill_schemas::metric::{self, Kind, label};
use serde_json::Value;

fn ops(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(ops(path)).unwrap()
}

/// Words that may be names of metrics or labels: where they begin as those of the table do, they must be one.
fn words(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c: char| !is_part(c)).map(|word| word.trim_matches(':')).filter(|word| !word.is_empty()).collect()
}

/// Names that Prometheus gives to the metrics, and to the parts of those in explicit buckets.
fn metrics() -> BTreeSet<String> {
    let names = |metric: &metric::Metric| {
        let name = metric.prometheus();
        let parts: &[&str] =
            if matches!(metric.kind, Kind::Histogram(_)) { &["_sum", "_count", "_bucket"] } else { &[""] };
        parts.iter().map(|part| format!("{name}{part}")).collect::<Vec<_>>()
    };
    metric::ALL.iter().flat_map(names).collect()
}

fn labels() -> BTreeSet<String> {
    metric::ALL.iter().flat_map(|metric| metric.attributes).map(|key| label(key)).collect()
}

/// What `recorded.yml` adds.
fn recorded_names() -> BTreeSet<String> {
    let text = read("alerts/recorded.yml");
    text.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).map(str::to_owned).collect()
}

#[test]
fn the_dashboard_is_what_the_generator_makes() {
    let lies: Value = serde_json::from_str(&read("dashboards/gristmill.json")).unwrap();
    assert!(
        lies == dashboard(),
        "ops/dashboards/gristmill.json is not what the generator makes: run `make dashboards`"
    );
}

#[test]
fn no_name_is_used_that_the_table_does_not_have() {
    let known: BTreeSet<String> = [metrics(), labels(), recorded_names()].into_iter().flatten().collect();
    let prefixes: BTreeSet<String> = metrics()
        .union(&labels())
        .map(|name| format!("{}_", name.split('_').next().unwrap()))
        .chain(["gristmill:".to_owned()])
        .collect();
    for path in ["alerts/recorded.yml", "alerts/rules.yml", "alerts/rules_test.yml", "dashboards/gristmill.json"] {
        let text = read(path);
        for word in words(&text) {
            let is_ours = prefixes.iter().any(|prefix| word.starts_with(prefix.as_str()));
            assert!(
                !is_ours || known.contains(word),
                "{path} names {word}, which no metric, label or record is called"
            );
        }
    }
}

#[test]
fn every_metric_of_the_table_is_shown() {
    let shown = expressions().join("\n");
    let shown = words(&shown);
    for metric in metric::ALL {
        let name = metric.prometheus();
        let is_shown = shown.contains(name.as_str()) || shown.contains(format!("{name}_sum").as_str());
        assert!(is_shown, "{} is on no panel", metric.name);
    }
}

#[test]
fn every_record_that_the_dashboard_uses_is_made() {
    let made = recorded_names();
    let used = [recorded::OBJECTIVE_AVAILABILITY, recorded::OBJECTIVE_P99, recorded::OBJECTIVE_P999];
    let used = used.into_iter().chain([recorded::PENDING, recorded::CONSUMED]);
    for name in used.chain(recorded::ERRORS_RATIO.map(|(_, name)| name)) {
        assert!(made.contains(name), "alerts/recorded.yml does not record {name}");
    }
}

/// A new code counts against us until somebody has decided: both lists stand in the comment above the rules.
#[test]
fn it_is_decided_for_every_error_code_who_is_to_blame() {
    let text = read("alerts/recorded.yml");
    let decided = words(&text);
    for code in ErrorCode::ALL {
        assert!(decided.contains(code.as_str()), "alerts/recorded.yml does not say whose fault {} is", code.as_str());
    }
    let lists = text.split(r#"error_type!~""#).skip(1).map(|rest| rest.split('"').next().unwrap());
    for code in lists.flat_map(|list| list.split('|')) {
        assert!(ErrorCode::ALL.iter().any(|known| known.as_str() == code), "there is no error code {code}");
    }
}

#[test]
fn every_panel_says_what_it_shows_and_what_to_do() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut titles = BTreeSet::new();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().unwrap();
        assert!(titles.insert(title), "two panels are called {title}");
        assert!(panel["description"].as_str().unwrap().len() > 60, "{title} needs a description");
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{title} shows nothing");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
        let (x, width) = (panel["gridPos"]["x"].as_u64().unwrap(), panel["gridPos"]["w"].as_u64().unwrap());
        assert!(x + width <= 24, "{title} is off the grid");
    }
}
