//! CSV has no types: every column is text, and what goes to the model is read as numbers when it does.

use std::io::Read;

use anyhow::Context as _;
use arrow::array::RecordBatch;
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Format;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

pub(super) fn schema(file: impl Read) -> anyhow::Result<SchemaRef> {
    let (header, _) = Format::default().with_header(true).infer_schema(file, Some(0)).context("its header")?;
    let text = |field: &arrow::datatypes::FieldRef| Field::new(field.name(), DataType::Utf8, true);
    Ok(Schema::new(header.fields().iter().map(text).collect::<Vec<_>>()).into())
}

pub(super) fn batches(
    file: impl Read + Send + 'static,
    schema: SchemaRef,
    rows: usize,
) -> anyhow::Result<impl Iterator<Item = Result<RecordBatch, ArrowError>> + Send> {
    Ok(ReaderBuilder::new(schema).with_header(true).with_batch_size(rows).build(file)?)
}
