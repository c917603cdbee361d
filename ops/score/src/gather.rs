//! A window on its way: its jobs, and what came back of them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{cast, filter_record_batch, is_not_null};
use arrow::datatypes::{DataType, Schema};
use bytes::Bytes;
use gristmill_schemas::ResultBody;

use crate::chunk::{Chunk, Piece, body, plan};
use crate::lower::{Fault, Faults, Lowered};
use crate::output::{Answer, Held, column};
use crate::plan::{Errors, Plan};
use crate::window::Window;

/// An answer that cannot be one to this job.
#[derive(Debug)]
pub struct Unfit(pub String);

/// A window whose rows wait for answers.
pub struct Gathering {
    plan: Arc<Plan>,
    index: u32,
    first_row: u64,
    rows: usize,
    kept: Vec<ArrayRef>,
    inputs: Vec<Lowered>,
    chunks: Vec<Chunk>,
    faults: Faults,
    answers: Vec<Answer>,
    /// Outputs of an earlier time, for rows that had some.
    earlier: Option<RecordBatch>,
    /// The run's bitmap, as far as this window goes: rows that have an answer or a fault.
    is_done: Vec<bool>,
    open: usize,
}

/// A window whose every row has an answer or a fault.
pub struct Scored {
    /// Its number.
    pub index: u32,
    /// Its first row in the input.
    pub first_row: u64,
    /// Its rows in the input.
    pub rows: u64,
    /// Rows of the output.
    pub batch: RecordBatch,
    /// The outputs of all its rows, where some failed.
    pub outputs: Option<RecordBatch>,
    /// Why rows failed, by row of the input.
    pub faults: Vec<(u64, Fault)>,
}

impl Gathering {
    /// Converts a window's columns and plans its jobs. Rows that cannot be sent have their faults at once.
    /// `earlier`: the outputs of a time before, null for rows that failed; only those are sent again.
    pub fn new(window: &Window, plan: &Arc<Plan>, earlier: Option<RecordBatch>) -> anyhow::Result<Self> {
        let mut faults = Faults::new();
        let lower = |bound| Lowered::new(bound, &window.batch, &mut faults);
        let inputs: Vec<Lowered> = plan.mapping.inputs.iter().map(lower).collect::<anyhow::Result<_>>()?;
        let rows = window.batch.num_rows();
        if plan.signature.is_padded() {
            check_lengths(&inputs, rows, &mut faults);
        }
        let had = earlier.as_ref().map(|outputs| outputs.column(0));
        let is_done: Vec<bool> = (0..rows as u32)
            .map(|row| faults.contains_key(&row) || had.is_some_and(|outputs| outputs.is_valid(row as usize)))
            .collect();
        let sound: Vec<u32> = (0..rows as u32).filter(|row| !is_done[*row as usize]).collect();
        let open = sound.len();
        let chunks = plan_chunks(&inputs, plan, sound);
        let kept = plan.mapping.keep.iter().map(|column| without_dictionary(window.batch.column(*column)));
        let kept = kept.collect::<anyhow::Result<Vec<ArrayRef>>>()?;
        let (index, first_row, plan) = (window.index, window.first_row, Arc::clone(plan));
        let answers = Vec::new();
        Ok(Self { plan, index, first_row, rows, kept, inputs, chunks, faults, answers, earlier, is_done, open })
    }

    /// Its number.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// One for each of its jobs.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> {
        let window = self.index;
        let whole = move |(chunk, rows): (usize, &Chunk)| Piece {
            window,
            chunk: chunk as u32,
            from: 0,
            to: rows.rows.len() as u32,
        };
        self.chunks.iter().enumerate().map(whole)
    }

    /// The body of a piece's job.
    pub fn body(&self, piece: Piece) -> Vec<u8> {
        body(&self.inputs, &self.plan.signature, self.plan.wanted.as_deref(), self.rows_of(piece))
    }

    /// Lengths of a piece's rows together, and as many times the longest: what of its job is padding.
    pub fn lengths_of(&self, piece: Piece) -> [u64; 2] {
        let rows = self.rows_of(piece);
        let free = self.inputs.iter().find(|input| input.free_dim().is_some());
        let length = |row: &u32| free.map_or(1, |input| input.length(*row) as u64);
        let longest = rows.iter().map(length).max().unwrap_or(0);
        [rows.iter().map(length).sum(), longest * rows.len() as u64]
    }

    fn rows_of(&self, piece: Piece) -> &[u32] {
        &self.chunks[piece.chunk as usize].rows[piece.range()]
    }

    /// Takes a piece's result, if its rows still wait for one. `payload` is what the result was read from.
    pub fn answer(&mut self, piece: Piece, payload: &Bytes, result: &ResultBody<'_>) -> Result<bool, Unfit> {
        let rows = self.rows_of(piece).to_vec();
        if rows.iter().any(|row| self.is_done[*row as usize]) {
            return Ok(false);
        }
        let outputs = self.plan.outputs.iter().map(|spec| {
            let found = result.outputs.iter().find(|output| output.name == spec.name);
            let found = found.ok_or_else(|| Unfit(format!("there is no output {:?}", spec.name)))?;
            let fits = |(want, have): (&i64, &usize)| *want == -1 || usize::try_from(*want) == Ok(*have);
            let is_fit = found.shape.len() == spec.shape.len() && spec.shape.iter().zip(&*found.shape).all(fits);
            if !is_fit || found.datatype != spec.datatype || found.shape[0] != rows.len() {
                let (got, name, shape) = (found.datatype, &spec.name, &found.shape);
                let want = (spec.datatype, &spec.shape);
                return Err(Unfit(format!(
                    "output {name:?} is {got} {shape:?} for {} rows, the model's is {} {:?}",
                    rows.len(),
                    want.0,
                    want.1
                )));
            }
            Ok(Held { tail: found.shape[1..].to_vec(), data: payload.slice_ref(&found.data) })
        });
        let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
        rows.iter().for_each(|row| self.is_done[*row as usize] = true);
        self.open -= rows.len();
        let lengths = self.lengths(&rows);
        self.answers.push(Answer { rows, lengths, outputs });
        Ok(true)
    }

    /// What rows were before they were filled up, where some were.
    fn lengths(&self, rows: &[u32]) -> Option<(Vec<usize>, usize)> {
        let input = self.inputs.iter().find(|input| input.free_dim().is_some())?;
        let lengths: Vec<usize> = rows.iter().map(|row| input.length(*row)).collect();
        let longest = lengths.iter().copied().max()?;
        lengths.iter().any(|length| *length < longest).then_some((lengths, longest))
    }

    /// Gives up on a piece's rows, unless they have an answer.
    pub fn fail(&mut self, piece: Piece, fault: &Fault) {
        for row in self.rows_of(piece).to_vec() {
            if !std::mem::replace(&mut self.is_done[row as usize], true) {
                self.faults.insert(row, fault.clone());
                self.open -= 1;
            }
        }
    }

    /// All its rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rows that wait for an answer.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Rows that failed so far.
    pub fn errors(&self) -> usize {
        self.faults.len()
    }

    /// Why rows failed, by row of the input.
    pub fn faults(&self) -> impl Iterator<Item = (u64, &Fault)> {
        self.faults.iter().map(|(row, fault)| (self.first_row + u64::from(*row), fault))
    }

    /// Whether every row has an answer or a fault.
    pub fn is_complete(&self) -> bool {
        self.open == 0
    }

    /// The rows of the output.
    pub fn finish(self) -> anyhow::Result<Scored> {
        anyhow::ensure!(self.is_complete(), "{} rows of window {} have no answer", self.open, self.index);
        let schema = &self.plan.written;
        let mut columns = self.kept;
        let (kept, mut outputs) = (columns.len(), Vec::new());
        for (index, spec) in self.plan.outputs.iter().enumerate() {
            let new = column(schema.field(kept + index), (spec, index), &self.answers, self.rows)?;
            outputs.push(match &self.earlier {
                Some(earlier) => zip(&is_not_null(&new)?, &new, earlier.column(index))?,
                None => new,
            });
        }
        columns.extend(outputs.iter().cloned());
        let fields: Vec<_> = schema.fields()[kept..kept + outputs.len()].to_vec();
        let outputs = match self.faults.is_empty() {
            true => None,
            false => Some(RecordBatch::try_new(Arc::new(Schema::new(fields)), outputs)?),
        };
        let batch = match self.plan.errors {
            Errors::InOutput => {
                columns.extend(error_columns(&self.faults, self.rows));
                RecordBatch::try_new(schema.clone(), columns)?
            }
            Errors::Apart => {
                let is_ok: BooleanArray =
                    (0..self.rows as u32).map(|row| Some(!self.faults.contains_key(&row))).collect();
                filter_record_batch(&RecordBatch::try_new(schema.clone(), columns)?, &is_ok)?
            }
        };
        let at = |row: u32| self.first_row + u64::from(row);
        let faults = self.faults.into_iter().map(|(row, fault)| (at(row), fault)).collect();
        Ok(Scored { index: self.index, first_row: self.first_row, rows: self.rows as u64, batch, outputs, faults })
    }
}

fn plan_chunks(inputs: &[Lowered], of: &Plan, rows: Vec<u32>) -> Vec<Chunk> {
    plan(inputs, &of.signature, of.limits, rows)
}

/// Each window would have a dictionary of its own, and a file of Arrow has one for all.
fn without_dictionary(column: &ArrayRef) -> anyhow::Result<ArrayRef> {
    match column.data_type() {
        DataType::Dictionary(_, value) => Ok(cast(column, value)?),
        _ => Ok(column.clone()),
    }
}

/// Inputs of one row that have a free dimension have to agree in it.
fn check_lengths(inputs: &[Lowered], rows: usize, faults: &mut Faults) {
    let free: Vec<&Lowered> = inputs.iter().filter(|input| input.free_dim().is_some()).collect();
    let [first, others @ ..] = free.as_slice() else { return };
    for (other, row) in others.iter().flat_map(|other| (0..rows as u32).map(move |row| (other, row))) {
        let (have, want) = (other.length(row), first.length(row));
        if have != want {
            let (name, like) = (&other.spec.name, &first.spec.name);
            let message = format!("input {name:?} has length {have}, input {like:?} has {want}; they have to agree");
            faults.entry(row).or_insert_with(|| Fault::invalid(message));
        }
    }
}

fn error_columns(faults: &Faults, rows: usize) -> [ArrayRef; 3] {
    let column = |of: &dyn Fn(&Fault) -> Option<String>| -> ArrayRef {
        Arc::new((0..rows as u32).map(|row| faults.get(&row).and_then(of)).collect::<StringArray>())
    };
    [
        column(&|fault| Some(fault.code.to_string())),
        column(&|fault| Some(fault.message.clone())),
        column(&|fault| fault.trace_id.clone()),
    ]
}
