//! JSON Lines. Types are inferred; a column of mixed scalars is text.

use std::io::{BufRead, BufReader, Read};

use anyhow::{Context as _, ensure};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use arrow::json::reader::infer_json_schema;

/// Bytes of a stream that tell its columns.
const START: usize = 64 << 10;

/// Of a whole file, so that its last row may have what the others lack.
pub(super) fn schema(mut file: impl BufRead) -> anyhow::Result<SchemaRef> {
    Ok(infer_json_schema(&mut file, None)?.0.into())
}

/// The first lines of a stream: one, and what has come with it.
pub(super) fn start(stream: &mut BufReader<impl Read>) -> std::io::Result<Vec<u8>> {
    let mut start = Vec::new();
    while start.len() < START && (start.is_empty() || !stream.buffer().is_empty()) {
        if stream.read_until(b'\n', &mut start)? == 0 {
            break;
        }
    }
    Ok(start)
}

/// Of these lines.
pub(super) fn schema_of_start(start: &[u8]) -> anyhow::Result<SchemaRef> {
    ensure!(!start.is_empty(), "it has no rows");
    schema(start).context("its first rows are not JSON objects, one a line")
}

/// So many rows at once.
pub(super) fn batches(
    reader: impl BufRead + Send + 'static,
    schema: SchemaRef,
    rows: usize,
) -> anyhow::Result<impl Iterator<Item = Result<RecordBatch, ArrowError>> + Send> {
    // A column that the schema does not have would be lost without a word.
    let builder = ReaderBuilder::new(schema).with_coerce_primitive(true).with_strict_mode(true);
    Ok(builder.with_batch_size(rows).build(reader)?)
}
