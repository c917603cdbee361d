//! The thread that owns the run's directory: windows become parts, parts the output.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::Context as _;
use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use gristmill_score::{Finished, Gathering, Ledger, Part, Run, Scored, Sink, Stored, Total, replace};
use tokio::sync::mpsc as tokio_mpsc;

/// Parts that wait to be written to standard output.
const WAITING: usize = 2;

/// Where windows go.
pub(super) enum Store {
    /// Into a run's directory.
    Parts(Box<Parts>),
    /// To standard output.
    Stream(Stream),
}

/// Windows become parts, which become the output when all are there.
pub(super) struct Parts {
    pub(super) run: Run,
    pub(super) ledger: Ledger,
    pub(super) sink: Sink,
    pub(super) output: PathBuf,
    /// The file of failed rows, where they have one.
    pub(super) errors: Option<PathBuf>,
    /// The output is in the input's order, not in that in which parts were written.
    pub(super) is_ordered: bool,
}

/// Windows are written in order, and nothing is kept of them.
pub(super) struct Stream {
    sink: Sink,
    /// To the thread that writes.
    parts: mpsc::SyncSender<anyhow::Result<Bytes>>,
    writer: JoinHandle<anyhow::Result<()>>,
    /// Windows before their turn.
    early: BTreeMap<u32, Vec<u8>>,
    next: u32,
    total: Total,
    errors: Option<BufWriter<File>>,
}

impl Store {
    /// Writes windows until there are no more, and tells of each one the sums so far.
    pub(super) fn run(
        mut self,
        mut windows: tokio_mpsc::Receiver<Gathering>,
        written: &tokio_mpsc::Sender<anyhow::Result<(u32, Total)>>,
    ) -> Option<Self> {
        while let Some(window) = windows.blocking_recv() {
            let index = window.index();
            let total = self.write(window);
            let is_fatal = total.is_err();
            // Nobody listens where the run has failed already.
            if written.blocking_send(total.map(|total| (index, total))).is_err() || is_fatal {
                return None;
            }
        }
        Some(self)
    }

    fn write(&mut self, window: Gathering) -> anyhow::Result<Total> {
        match self {
            Self::Parts(parts) => parts.write(window.finish()?),
            Self::Stream(stream) => stream.write(window.finish()?),
        }
    }

    /// Makes the output whole, after so many seconds.
    pub(super) fn close(self, seconds: f64) -> anyhow::Result<Total> {
        match self {
            Self::Parts(parts) => parts.close(seconds),
            Self::Stream(stream) => stream.close(),
        }
    }
}

impl Parts {
    fn write(&mut self, scored: Scored) -> anyhow::Result<Total> {
        // Names of their own: until the ledger has the new part, the old one has to be whole.
        let retries = self.run.retries();
        let name = |kind: &str| format!("part-{:07}.{retries}.{kind}", scored.index);
        let file = self.ledger.store(name("rows"), &self.sink.encode(&scored.batch)?)?;
        let is_faulty = !scored.faults.is_empty();
        let failed = (is_faulty && self.errors.is_some()).then(|| self.ledger.store(name("errors"), &failed(&scored)?));
        let outputs = scored.outputs.as_ref().map(|outputs| self.ledger.store(name("outputs"), &ipc(outputs)?));
        let (failed, outputs) = (failed.transpose()?, outputs.transpose()?);
        let (window, first_row, rows) = (scored.index, scored.first_row, scored.rows);
        let (errors, codes) = (scored.faults.len() as u64, codes(&scored));
        self.ledger.add(Part { window, retries, first_row, rows, errors, codes, file, failed, outputs })?;
        Ok(self.ledger.total())
    }

    fn close(mut self, seconds: f64) -> anyhow::Result<Total> {
        let total = self.ledger.prove()?;
        let ledger = &self.ledger;
        let parts: Vec<&Part> = if self.is_ordered { ledger.parts().collect() } else { ledger.as_written().collect() };
        let rows = parts.iter().map(|part| ledger.read(&part.file));
        replace(&self.output, |file| self.sink.join(rows, file))?;
        if let Some(errors) = &self.errors {
            let mut failed = parts.iter().filter_map(|part| part.failed.as_ref());
            replace(errors, |file| failed.try_for_each(|failed| Ok(file.write_all(&ledger.read(failed)?)?)))?;
        }
        let output_bytes = std::fs::metadata(&self.output)?.len();
        self.run.finish(Finished { total: total.clone(), output_bytes, seconds })?;
        // With failed rows they are needed to send those again.
        if total.errors == 0 {
            self.ledger.remove_files()?;
        }
        Ok(total)
    }
}

impl Stream {
    /// Failed rows go to a file, if there is one.
    pub(super) fn start(sink: Sink, errors: Option<&Path>) -> anyhow::Result<Self> {
        let (parts, waiting) = mpsc::sync_channel(WAITING);
        let join = sink.clone();
        let writer = std::thread::spawn(move || join.join(waiting.into_iter(), std::io::stdout()));
        let create = |path: &Path| File::create(path).with_context(|| path.display().to_string());
        let errors = errors.map(create).transpose()?.map(BufWriter::new);
        Ok(Self { sink, parts, writer, early: BTreeMap::new(), next: 0, total: Total::default(), errors })
    }

    fn write(&mut self, scored: Scored) -> anyhow::Result<Total> {
        self.total.rows += scored.rows;
        self.total.errors += scored.faults.len() as u64;
        codes(&scored).into_iter().for_each(|(code, rows)| *self.total.codes.entry(code).or_default() += rows);
        if let Some(errors) = &mut self.errors {
            errors.write_all(&failed(&scored)?)?;
        }
        self.early.insert(scored.index, self.sink.encode(&scored.batch)?);
        while let Some(part) = self.early.remove(&self.next) {
            self.next += 1;
            anyhow::ensure!(self.parts.send(Ok(part.into())).is_ok(), "standard output was closed");
        }
        Ok(self.total.clone())
    }

    fn close(self) -> anyhow::Result<Total> {
        drop(self.parts);
        self.writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?.context("standard output")?;
        self.errors.into_iter().try_for_each(|mut errors| errors.flush())?;
        Ok(self.total)
    }
}

fn codes(scored: &Scored) -> BTreeMap<String, u64> {
    let mut codes = BTreeMap::new();
    scored.faults.iter().for_each(|(_, fault)| *codes.entry(fault.code.to_string()).or_default() += 1);
    codes
}

fn failed(scored: &Scored) -> anyhow::Result<Vec<u8>> {
    let mut lines = Vec::new();
    for (row, fault) in &scored.faults {
        let (code, message, trace_id) = (fault.code, &fault.message, &fault.trace_id);
        let line = serde_json::json!({ "row": row, "code": code, "message": message, "trace_id": trace_id });
        serde_json::to_writer(&mut lines, &line)?;
        lines.push(b'\n');
    }
    Ok(lines)
}

fn ipc(batch: &RecordBatch) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema())?;
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    Ok(bytes)
}

/// The outputs that a part kept beside its rows.
pub(super) fn outputs(dir: &Path, stored: &Stored) -> anyhow::Result<RecordBatch> {
    let bytes = Ledger::read_from(dir, stored)?;
    let mut reader = StreamReader::try_new(bytes.as_ref(), None)?;
    reader.next().context("a part's outputs are missing")?.map_err(Into::into)
}
