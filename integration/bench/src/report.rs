//! Figures of all runs, as a table and as files.

use std::collections::BTreeMap;

use anyhow::Context;
use gristmill_integration::{median, root};
use serde::{Deserialize, Serialize};

use crate::plot::{Bar, svg};
use crate::run::{Contestant, Figures};
use crate::workload::Workload;

/// By workload, then by contestant: one entry for each round.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Report(BTreeMap<String, BTreeMap<String, Vec<Figures>>>);

impl Report {
    /// Takes a run down.
    pub fn add(&mut self, workload: Workload, contestant: Contestant, figures: Figures) {
        let runs = self.0.entry(workload.name().into()).or_default();
        runs.entry(contestant.name().into()).or_default().push(figures);
    }

    /// The medians of a workload, the spread of its rates, and Gristmill's rate as a ratio of each other's, round by round.
    #[allow(clippy::print_stdout, reason = "a bench prints")]
    pub fn print(&self, workload: Workload) {
        let before = Self::stored().unwrap_or_default();
        let Some(runs) = self.0.get(workload.name()) else { return };
        let ours = runs.get(Contestant::Gristmill.name());
        println!("\n{}: medians of {} runs", workload.name(), runs.values().map(Vec::len).max().unwrap_or(0));
        println!(
            "{:<14} {:>10} {:>19} {:>12} {:>12} {:>9} {:>18} {:>12}",
            "", "rows/s", "least to most", "CPU us/row", "broker us", "peak MiB", "gristmill / this", "last time"
        );
        for (name, figures) in runs {
            let of = |field: fn(&Figures) -> f64| median(figures.iter().map(field));
            let rates = || figures.iter().map(|run| run.rows_per_s);
            let spread = format!("{:.0} to {:.0}", rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max));
            let ratio = |ours: &[Figures], theirs: &[Figures]| {
                median(ours.iter().zip(theirs).map(|(ours, theirs)| ours.rows_per_s / theirs.rows_per_s))
            };
            let show = |ratio: Option<f64>| ratio.map_or(String::new(), |ratio| format!("{ratio:.3}"));
            let last = before
                .0
                .get(workload.name())
                .and_then(|runs| Some(ratio(runs.get(Contestant::Gristmill.name())?, runs.get(name)?)));
            println!(
                "{name:<14} {:>10.0} {spread:>19} {:>12.1} {:>12.1} {:>9.0} {:>18} {:>12}",
                of(|run| run.rows_per_s),
                of(|run| run.cpu_us),
                of(|run| run.broker_us),
                of(|run| run.peak_mib),
                show(ours.map(|ours| ratio(ours, figures))),
                show(last)
            );
        }
        let batches = || ours.into_iter().flatten().filter_map(|run| run.batches);
        if batches().next().is_some() {
            let (rows, padding) = (median(batches().map(|b| b.rows)), median(batches().map(|b| b.padding)));
            println!("{:<14} {rows:.1} rows a batch, {:.1} % of the input filled in", "", padding * 100.0);
        }
    }

    /// The last stored report.
    fn stored() -> anyhow::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(root().join("target/bench/report.json"))?)?)
    }

    fn svg(&self) -> String {
        let bar = |(name, runs): (&String, &Vec<Figures>)| {
            let rates = || runs.iter().map(|run| run.rows_per_s);
            let [least, most] = [rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max)];
            Bar { name: name.clone(), median: median(rates()), least, most }
        };
        let block = |(workload, runs): (&String, &BTreeMap<_, _>)| (workload.clone(), runs.iter().map(bar).collect());
        svg(&self.0.iter().map(block).collect::<Vec<_>>())
    }

    /// Stores this one, as JSON and as a picture. Workloads that were not run keep their last figures.
    pub fn save(self) -> anyhow::Result<()> {
        let mut all = Self::stored().unwrap_or_default();
        all.0.extend(self.0);
        let dir = root().join("target/bench");
        std::fs::create_dir_all(&dir)?;
        for (name, content) in [("report.json", serde_json::to_vec_pretty(&all)?), ("report.svg", all.svg().into())] {
            let path = dir.join(name);
            std::fs::write(&path, content).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}
