//! What is displayed, as a function of what was seen. Every text and every colour's meaning is decided here, none of it
//! while drawing.

mod lanes;
mod models;
mod summary;
mod work;
mod workers;

use super::snapshot::Snapshot;
use work::Work;

/// One screen.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View {
    pub(super) title: String,
    /// What someone should look at, each on a line of its own above everything else.
    pub(super) faults: Vec<String>,
    /// Totals. They flow into as many lines as they need.
    pub(super) summary: Vec<String>,
    /// Lanes, models, workers.
    pub(super) tables: [Table; 3],
}

/// Rows below a header.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table {
    pub(super) columns: &'static [Column],
    pub(super) rows: Vec<Row>,
    /// What stands there without rows.
    pub(super) empty: &'static str,
}

/// A column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Column {
    /// What this column and some to its right have in common, shown above their heads.
    pub(super) over: &'static str,
    pub(super) head: &'static str,
    pub(super) width: Width,
}

/// How wide a column is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Width {
    /// As the longest name in any table, as far as there is room: the first column.
    Name,
    /// So many characters of text.
    Text(usize),
    /// So many characters of numbers, which end where the column ends.
    Number(usize),
    /// What is left: the last column.
    Rest,
}

/// One cell for each column.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) cells: Vec<String>,
    pub(super) tone: Tone,
}

/// How urgent a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tone {
    /// Someone must act.
    Bad,
    /// Worth a look.
    Warn,
    /// As it should be.
    Plain,
}

impl View {
    /// What to display of `later`. Rates, durations and parts are of the time since `earlier`; without it there are none.
    pub(super) fn new(namespace: &str, earlier: Option<&Snapshot>, later: &Snapshot) -> Self {
        let work = Work::between(earlier, later);
        let of_last = match earlier {
            Some(_) => format!("rates of the last {:.1} s", work.seconds),
            None => "rates follow".to_owned(),
        };
        Self {
            title: format!("gristmill top   {namespace}   {of_last}"),
            faults: summary::faults(later),
            summary: summary::items(earlier, later, &work),
            tables: [lanes::table(later, &work), models::table(later, &work), workers::table(later, &work)],
        }
    }

    /// What to display while the broker has not been reached yet.
    pub(super) fn blank(namespace: &str) -> Self {
        let mut view = Self::new(namespace, None, &Snapshot::default());
        view.title = format!("gristmill top   {namespace}   connecting ...");
        view.summary.clear();
        view
    }

    /// The same numbers, marked as old: the last poll failed `seconds` after the one that they are of.
    pub(super) fn stale(&self, seconds: Option<f64>, why: &str) -> Self {
        let age = seconds.map(|seconds| format!(" (numbers are {} old)", super::format::age(seconds)));
        // The faults of the time before say nothing any more.
        Self { faults: vec![format!("trying again: {why}{}", age.unwrap_or_default())], ..self.clone() }
    }
}

const fn column(over: &'static str, head: &'static str, width: Width) -> Column {
    Column { over, head, width }
}

/// A value, if there is one.
fn or_none(value: Option<f64>, format: fn(f64) -> String) -> String {
    value.map_or_else(|| super::format::NONE.to_owned(), format)
}

#[cfg(test)]
mod tests {
    use super::super::sample::{busy, read, snapshot};
    use super::*;

    #[test]
    fn rates_need_two_looks() {
        let later = snapshot(102, vec![read(busy("w1", 102))]);
        let first = View::new("infer", None, &later);
        assert!(first.title.ends_with("rates follow"));
        assert_eq!(first.tables[0].rows[0].cells[2..], ["-", "-", "0", "20", "-", "-", "-", "-", "-", "-"]);
        let next = View::new("infer", Some(&snapshot(100, vec![])), &later);
        assert_eq!(next.title, "gristmill top   infer   rates of the last 2.0 s");
    }

    #[test]
    fn old_numbers_are_marked_and_old_faults_forgotten() {
        let mut later = snapshot(102, vec![]);
        later.faults.push("stream INFER_DLQ: gone".into());
        let view = View::new("infer", None, &later);
        assert!(view.faults.contains(&"stream INFER_DLQ: gone".to_owned()));
        let stale = view.stale(Some(125.0), "cannot connect");
        assert_eq!(stale.faults, ["trying again: cannot connect (numbers are 2m old)"]);
        assert_eq!(stale.tables, view.tables);
    }
}
