//! What a run does to every window alike.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use gristmill_schemas::manifest::{Input, Output, Signature};

use crate::chunk::{Limits, row_bytes};
use crate::mapping::{Mapping, Wish};
use crate::output::field;
use crate::window::Cut;

/// Columns that say why a row has no outputs.
pub(crate) const ERROR_COLUMNS: [&str; 3] = ["error_code", "error_message", "error_trace_id"];

/// Rows of a window where inputs have a free dimension, for each row that a job may have: with that many, sorted rows of a job
/// are nearly alike.
const SORTED_JOBS: usize = 64;

/// Most rows of a window.
const MAX_ROWS: usize = 1 << 16;

/// Bytes of a window's columns, about. Some five windows are in memory.
const WINDOW_BYTES: usize = 16 << 20;

/// Bytes by which a window grows.
const STEP_BYTES: usize = 1 << 20;

/// Where failed rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errors {
    /// Into the output, in columns of their own.
    InOutput,
    /// Into a file of their own; the output has the other rows only.
    Apart,
}

/// What a run does to every window alike.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Columns and inputs.
    pub mapping: Mapping,
    /// The model.
    pub signature: Signature,
    /// How large a job may be.
    pub limits: Limits,
    /// Outputs asked for, if not all.
    pub(crate) wanted: Option<Vec<String>>,
    /// Outputs, in the order of their columns.
    pub(crate) outputs: Vec<Output>,
    /// Where failed rows go.
    pub(crate) errors: Errors,
    /// Columns of the input that are read.
    pub(crate) read: SchemaRef,
    /// Columns of the output.
    pub(crate) written: SchemaRef,
}

impl Plan {
    /// Matches the input's columns with the model. `prefix` goes before the names of output columns.
    pub fn try_new(
        schema: &Schema,
        signature: Signature,
        limits: Limits,
        (wish, prefix, errors): (&Wish, &str, Errors),
    ) -> anyhow::Result<Self> {
        let mapping = Mapping::try_new(schema, &signature, wish)?;
        let outputs = outputs(&signature, wish.outputs.as_deref())?;
        let read: SchemaRef = schema.project(&mapping.columns)?.into();
        let kept = mapping.keep.iter().map(|column| match read.field(*column).data_type() {
            DataType::Dictionary(_, value) => read.field(*column).clone().with_data_type((**value).clone()),
            _ => read.field(*column).clone(),
        });
        let mut fields: Vec<Field> = kept.collect();
        fields.extend(outputs.iter().map(|output| field(format!("{prefix}{}", output.name), output)));
        if errors == Errors::InOutput {
            fields.extend(ERROR_COLUMNS.map(|name| Field::new(name, DataType::Utf8, true)));
        }
        for (index, field) in fields.iter().enumerate() {
            let is_new = fields[..index].iter().all(|other| other.name() != field.name());
            let name = field.name();
            ensure!(is_new, "the output would have two columns {name:?}: choose others with --keep or a --prefix");
        }
        let wanted = wish.outputs.clone();
        let written = Arc::new(Schema::new(fields));
        Ok(Self { mapping, signature, limits, wanted, outputs, errors, read, written })
    }

    /// Columns of the output.
    pub fn written(&self) -> &SchemaRef {
        &self.written
    }

    /// Columns that are read.
    pub fn read(&self) -> &SchemaRef {
        &self.read
    }

    /// Where windows end. All their jobs but the last are full.
    pub fn cut(&self) -> Cut {
        let sizes = |spec: &Input| row_bytes(spec.datatype, &spec.shape);
        let sent: usize = self.mapping.inputs.iter().map(|bound| sizes(&bound.spec)).sum();
        let answered: usize = self.outputs.iter().map(|output| row_bytes(output.datatype, &output.shape)).sum();
        let of_job = self.limits.rows.min(self.limits.bytes / sent.max(1)).max(1);
        let is_free = self.mapping.inputs.iter().any(|bound| bound.spec.free_dim().is_some());
        let wanted = if is_free { (SORTED_JOBS * of_job).max(1024) } else { MAX_ROWS };
        // As much as fits, with the answers, but a job at least.
        let most = wanted.min(MAX_ROWS).min(WINDOW_BYTES / (sent + answered).max(1)).max(of_job);
        let step = (STEP_BYTES / sent.max(1)).clamp(1, 256);
        let rows = most / of_job * of_job;
        Cut { rows: rows.next_multiple_of(step), bytes: WINDOW_BYTES, step }
    }

    /// Rows read at once.
    pub fn batch_rows(&self) -> usize {
        self.cut().step * 4
    }
}

fn outputs(signature: &Signature, wanted: Option<&[String]>) -> anyhow::Result<Vec<Output>> {
    let Some(wanted) = wanted else { return Ok(signature.outputs.clone()) };
    let find = |name: &String| {
        let known = || signature.outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = signature.outputs.iter().find(|output| output.name == *name);
        found.cloned().with_context(|| format!("the model has no output {name:?}, only {}", known()))
    };
    wanted.iter().map(find).collect()
}
