//! What a run would read, send and write.

use std::sync::Arc;

use arrow::util::pretty::pretty_format_batches;
use gristmill_score::{Gathering, Plan, Source, Windows};

use super::args::Args;
use super::model::Model;
use crate::table;

/// Rows shown.
const ROWS: usize = 5;

pub(super) fn run(source: Source, plan: &Plan, model: &Model, args: &Args) -> anyhow::Result<()> {
    let rows = source.rows()?.map_or("as many rows as there are".into(), |rows| format!("{rows} rows"));
    let files = source.files().len();
    table::line(format!("model {} version {} {}", model.name, model.version, model.digest))?;
    table::line(format!("input: {files} files, {rows}"))?;
    let columns = plan.read().fields();
    for bound in &plan.mapping.inputs {
        let names: Vec<&str> = bound.columns.iter().map(|column| columns[*column].name().as_str()).collect();
        let from = match names.as_slice() {
            [first, .., last] if names.len() > 3 => format!("{first} to {last} ({} columns)", names.len()),
            _ => names.join(", "),
        };
        let kind = columns[bound.columns[0]].data_type();
        let (name, datatype, shape) = (&bound.spec.name, bound.spec.datatype, &bound.spec.shape);
        table::line(format!("  {from}: {kind} -> {name}: {datatype} {shape:?}"))?;
    }
    let output = args.output.as_deref().unwrap_or(std::path::Path::new("")).display();
    table::line(format!("output: {output}"))?;
    for field in plan.written().fields() {
        table::line(format!("  {}: {}", field.name(), field.data_type()))?;
    }
    let batches = source.batches(&plan.mapping.columns, 0, plan.batch_rows());
    let Some(window) = Windows::new(batches, plan.read().clone(), plan.cut(), (0, 0)).next().transpose()? else {
        return Ok(table::line("there are no rows")?);
    };
    table::line(format!(
        "first rows:\n{}",
        pretty_format_batches(&[window.batch.slice(0, window.batch.num_rows().min(ROWS))])?
    ))?;
    let count = window.batch.num_rows();
    let gathering = Gathering::new(&window, &Arc::new(plan.clone()), None)?;
    let sizes: Vec<usize> = gathering.pieces().map(|piece| gathering.body(piece).len()).collect();
    let sent: usize = sizes.iter().sum();
    let (jobs, failed) = (sizes.len(), gathering.errors());
    table::line(format!(
        "the first {count} rows would be {jobs} jobs of {} bytes on average; {failed} rows cannot be sent",
        sent / jobs.max(1)
    ))?;
    gathering
        .faults()
        .take(ROWS)
        .try_for_each(|(row, fault)| table::line(format!("  row {row}: {}: {}", fault.code, fault.message)))?;
    Ok(())
}
