//! A part is a Parquet file of its own. Joining copies column chunks as they are.

use std::io::Write;
use std::sync::Arc;

use ::parquet::arrow::{ArrowSchemaConverter, ArrowWriter, add_encoded_arrow_schema_to_metadata};
use ::parquet::basic::{Compression, Type};
use ::parquet::column::writer::ColumnCloseResult;
use ::parquet::file::metadata::ParquetMetaDataReader;
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use ::parquet::file::writer::SerializedFileWriter;
use anyhow::Context as _;
use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use bytes::Bytes;

/// Numbers of models hardly repeat: a dictionary of them would be built and given up.
fn properties(schema: &Schema) -> anyhow::Result<WriterProperties> {
    let columns = ArrowSchemaConverter::new().convert(schema)?;
    let builder = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_row_count(None)
        .set_created_by(concat!("gristmill ", env!("CARGO_PKG_VERSION")).into());
    let fractions = columns.columns().iter().filter(|c| matches!(c.physical_type(), Type::FLOAT | Type::DOUBLE));
    Ok(fractions
        .fold(builder, |builder, column| builder.set_column_dictionary_enabled(column.path().clone(), false))
        .build())
}

pub(super) fn encode(batch: &RecordBatch, out: &mut Vec<u8>) -> anyhow::Result<()> {
    let schema = batch.schema();
    let mut writer = ArrowWriter::try_new(out, schema.clone(), Some(properties(&schema)?))?;
    writer.write(batch)?;
    writer.close()?;
    Ok(())
}

pub(super) fn join(
    schema: &Schema,
    parts: impl Iterator<Item = anyhow::Result<Bytes>>,
    out: impl Write + Send,
) -> anyhow::Result<()> {
    let mut properties = properties(schema)?;
    // Readers that know Arrow find its types again.
    add_encoded_arrow_schema_to_metadata(schema, &mut properties);
    let columns = ArrowSchemaConverter::new().convert(schema)?;
    let mut writer = SerializedFileWriter::new(out, columns.root_schema_ptr(), Arc::new(properties))?;
    for part in parts {
        let part = part?;
        let footer = ParquetMetaDataReader::new().parse_and_finish(&part).context("a part")?;
        for group in footer.row_groups() {
            let mut copy = writer.next_row_group()?;
            for column in group.columns() {
                let close = ColumnCloseResult {
                    bytes_written: u64::try_from(column.compressed_size())?,
                    rows_written: u64::try_from(group.num_rows())?,
                    metadata: column.clone(),
                    bloom_filter: None,
                    column_index: None,
                    offset_index: None,
                };
                copy.append_column(&part, close)?;
            }
            copy.close()?;
        }
    }
    writer.close()?;
    Ok(())
}
