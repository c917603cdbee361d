use serde::Serialize;
use serde_json::json;

use super::select::Selection;
use crate::error::Failure;
use crate::table;

/// Exit code where some of what was chosen was left as it is.
const SKIPPED: u8 = 5;

/// What a replay or purge did, or would do.
pub(super) struct Summary {
    /// `replayed` or `purged`.
    verb: &'static str,
    pub(super) dry_run: bool,
    pub(super) done: usize,
    skipped: Vec<Skipped>,
}

#[derive(Serialize)]
struct Skipped {
    sequence: u64,
    why: String,
}

impl Summary {
    pub(super) fn new(verb: &'static str, dry_run: bool) -> Self {
        Self { verb, dry_run, done: 0, skipped: Vec::new() }
    }

    pub(super) fn skip(&mut self, sequence: u64, why: impl ToString) {
        self.skipped.push(Skipped { sequence, why: why.to_string() });
    }

    /// Prints what became of the selection, also if it ended early, and tells whether all of it was done.
    pub(super) fn close(
        mut self,
        selection: Selection<'_>,
        ended: anyhow::Result<()>,
        json: bool,
    ) -> Result<(), Failure> {
        let matched = selection.taken;
        selection.missing.iter().for_each(|&number| self.skip(number, "there is no dead letter of this number"));
        let Self { verb, dry_run, done, skipped } = self;
        if json {
            table::json(&json!({ verb: done, "skipped": skipped, "matched": matched, "dry_run": dry_run }))?;
        } else {
            for Skipped { sequence, why } in &skipped {
                table::line(format!("{sequence} skipped: {why}"))?;
            }
            let were = if dry_run { "would be" } else { "were" };
            table::line(format!("{done} of {matched} dead letters {were} {verb}"))?;
        }
        ended.map_err(|error| error.context(format!("{verb} {done}, all other dead letters are kept")))?;
        match skipped.len() {
            0 => Ok(()),
            count => Err(Failure::with(SKIPPED, anyhow::anyhow!("skipped {count}, left as they were"))),
        }
    }
}
