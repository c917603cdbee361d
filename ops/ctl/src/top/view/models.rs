use std::collections::BTreeSet;

use gristmill_schemas::metric::{self, Metric, Point, attribute as a};

use super::Width::{Name, Number, Rest, Text};
use super::work::{Work, answers};
use super::{Column, Row, Table, Tone, column, or_none};
use crate::top::format;
use crate::top::series::Series;
use crate::top::snapshot::{Model, Snapshot};

const COLUMNS: &[Column] = &[
    column("", "MODEL", Name),
    column("", "VERSION", Text(8)),
    column("", "INST", Number(4)),
    column("batches", "PER S", Number(5)),
    column("", "SIZE", Number(5)),
    column("", "FILL%", Number(5)),
    column("", "PAD%", Number(5)),
    column("", "IDLE%", Number(5)),
    column("", "CLOSED BY", Rest),
];

/// Each version of each model that a worker has or ran.
pub(super) fn table(snapshot: &Snapshot, work: &Work) -> Table {
    let of_workers = answers(snapshot).flat_map(|answer| &answer.models);
    let of_workers = of_workers.map(|model| (model.name.clone(), model.version.clone()));
    let points = work.total.iter().flat_map(|series| series.with(metric::BATCHES, &[]));
    let of_work = points.map(|point| (point.attribute(a::MODEL).to_owned(), point.attribute(a::VERSION).to_owned()));
    let models: BTreeSet<(String, String)> = of_workers.chain(of_work).collect();
    let rows = models.into_iter().map(|(name, version)| {
        let here = answers(snapshot).flat_map(|answer| &answer.models);
        let here: Vec<&Model> = here.filter(|model| model.name == name && model.version == version).collect();
        row(&name, &version, &here, work)
    });
    Table { columns: COLUMNS, rows: rows.collect(), empty: "no worker serves a model" }
}

fn row(name: &str, version: &str, packages: &[&Model], work: &Work) -> Row {
    let of = [(a::MODEL, name), (a::VERSION, version)];
    let series = work.total.as_ref();
    let batches = series.map(|series| series.sum(metric::BATCHES, &of));
    let mean = |metric: Metric| series.and_then(|series| series.histogram(metric, &of)).and_then(|h| h.mean());
    let refused: Vec<&str> = packages.iter().filter_map(|model| model.refused.as_deref()).collect();
    let instances = packages.iter().fold(0, |sum: u64, model| sum.saturating_add(model.instances));
    let note = match refused.first() {
        Some(why) => format!("refused by {} of {}: {why}", refused.len(), packages.len()),
        None => series.map(|series| reasons(series, &of)).unwrap_or_default(),
    };
    let cells = vec![
        name.to_owned(),
        version.to_owned(),
        instances.to_string(),
        or_none(batches.and_then(|batches| work.rate(batches)), format::rate),
        or_none(mean(metric::BATCH_SIZE), format::rate),
        or_none(mean(metric::BATCH_FILL), format::percent),
        or_none(series.and_then(|series| padding(series, &of)), format::percent),
        or_none(series.and_then(|series| idle(series, &of, work.seconds)), format::percent),
        note,
    ];
    Row { cells, tone: if refused.is_empty() { Tone::Plain } else { Tone::Bad } }
}

fn padding(series: &Series, of: &[(&str, &str)]) -> Option<f64> {
    let elements = |kind| series.sum(metric::BATCH_ELEMENTS, &[of, &[(a::ELEMENT_KIND, kind)]].concat());
    let (real, padding) = (elements("real"), elements("padding"));
    (real + padding > 0.0).then(|| padding / (real + padding))
}

/// The part of the time in which instances ran nothing.
fn idle(series: &Series, of: &[(&str, &str)], seconds: f64) -> Option<f64> {
    let available = series.sum(metric::ENGINE_INSTANCES, of) * seconds;
    (available > 0.0).then(|| 1.0 - series.sum(metric::ENGINE_BUSY_TIME, of) / available)
}

/// Why batches were closed, the most frequent reason first.
fn reasons(series: &Series, of: &[(&str, &str)]) -> String {
    let reason = |point: &Point| point.attribute(a::CLOSE_REASON).to_owned();
    let reasons: BTreeSet<String> = series.with(metric::BATCHES, of).map(reason).collect();
    let count = |reason: String| {
        let count = series.sum(metric::BATCHES, &[of, &[(a::CLOSE_REASON, &reason)]].concat());
        (count > 0.0).then_some((reason, count))
    };
    let mut counts: Vec<(String, f64)> = reasons.into_iter().filter_map(count).collect();
    counts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let total: f64 = counts.iter().map(|(_, count)| count).sum();
    let parts = counts.iter().map(|(reason, count)| format!("{reason} {}%", format::percent(count / total)));
    parts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::sample::{answer, busy, read, snapshot};

    #[test]
    fn a_model_shows_its_batches_over_all_workers() {
        let earlier = snapshot(100, vec![read(busy("w1", 100)), read(busy("w2", 10))]);
        let later = snapshot(102, vec![read(busy("w1", 102)), read(busy("w2", 12))]);
        let table = table(&later, &Work::between(Some(&earlier), &later));
        assert_eq!(table.rows[0].cells, ["mlp", "3", "4", "80.0", "12.5", "50", "10", "25", "idle 75% full 25%"]);
    }

    #[test]
    fn a_worker_without_a_past_counts_as_an_instance_and_not_as_an_idle_one() {
        let later = snapshot(102, vec![read(busy("w1", 102)), read(busy("stranger", 500))]);
        let table = table(&later, &Work::between(Some(&snapshot(100, vec![read(busy("w1", 100))])), &later));
        assert_eq!(table.rows[0].cells[2..8], ["4", "40.0", "12.5", "50", "10", "25"]);
    }

    #[test]
    fn a_refused_package_says_why() {
        let mut bad = answer("w1");
        bad.models[0].refused = Some("no model.toml".into());
        let later = snapshot(102, vec![read(bad), read(answer("w2"))]);
        let table = table(&later, &Work::between(None, &later));
        assert_eq!(table.rows[0].cells[8], "refused by 1 of 2: no model.toml");
        assert_eq!(table.rows[0].tone, Tone::Bad);
    }
}
