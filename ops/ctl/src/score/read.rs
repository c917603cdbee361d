//! The thread that reads the input: rows become windows, windows are ready to be sent.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use gristmill_score::{Closed, Gathering, Ledger, Plan, Source, Stored, Windows};
use tokio::sync::mpsc;

use super::write::outputs;

/// What of the input is done already.
#[derive(Default)]
pub(super) struct Done {
    /// Number and row of the first window that is read.
    next: (u32, u64),
    /// Windows that are on disk, and where some rows are to be sent again: the others' outputs.
    windows: BTreeMap<u32, Option<Stored>>,
    dir: PathBuf,
}

impl Done {
    /// What a ledger has. Failed rows are sent once more where they were sent less often than `retries` says.
    pub(super) fn of(ledger: &Ledger, dir: PathBuf, retries: u32) -> Self {
        let again = |part: &gristmill_score::Part| part.outputs.clone().filter(|_| part.retries < retries);
        let windows: BTreeMap<u32, Option<Stored>> = ledger.parts().map(|part| (part.window, again(part))).collect();
        let first = ledger.parts().find(|part| again(part).is_some()).map(|part| (part.window, part.first_row));
        let next = first.map_or(ledger.next(), |first| first.min(ledger.next()));
        Self { next, windows, dir }
    }

    /// Windows with rows to be sent again, and how many failed before.
    pub(super) fn reopened(&self, ledger: &Ledger) -> BTreeMap<u32, u64> {
        let again = ledger.parts().filter(|part| matches!(self.windows.get(&part.window), Some(Some(_))));
        again.map(|part| (part.window, part.errors)).collect()
    }

    /// Windows that need nothing.
    pub(super) fn closed(&self) -> Closed {
        let done = self.windows.iter().filter(|(window, again)| again.is_none() && **window >= self.next.0);
        Closed { next: self.next.0, others: done.map(|(window, _)| *window).collect() }
    }

    fn outputs(&self, stored: &Stored) -> anyhow::Result<RecordBatch> {
        outputs(&self.dir, stored)
    }
}

/// Reads to the end, or until nobody wants any more. An error is the last that is sent.
pub(super) fn read(source: Source, plan: Arc<Plan>, done: Done, windows: &mpsc::Sender<anyhow::Result<Gathering>>) {
    let batches = source.batches(&plan.mapping.columns, done.next.1, plan.batch_rows());
    for window in Windows::new(batches, plan.read().clone(), plan.cut(), done.next) {
        let gathering = window.and_then(|window| {
            Ok(Some(match done.windows.get(&window.index) {
                None => Gathering::new(&window, &plan, None)?,
                Some(None) => return Ok(None),
                Some(Some(stored)) => Gathering::new(&window, &plan, Some(done.outputs(stored)?))?,
            }))
        });
        let Some(gathering) = gathering.transpose() else { continue };
        let is_last = gathering.is_err();
        if windows.blocking_send(gathering).is_err() || is_last {
            return;
        }
    }
}
