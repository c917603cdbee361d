//! Rows into files: each window is encoded once, as a part; parts are joined without being encoded again.

mod csv;
mod parquet;

use std::io::Write;

use anyhow::{bail, ensure};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{FileWriter, StreamWriter};
use arrow::json::writer::{LineDelimited, WriterBuilder};
use bytes::Bytes;

use crate::format::Format;

/// Makes parts and joins them.
#[derive(Debug, Clone)]
pub struct Sink {
    format: Format,
    schema: SchemaRef,
    /// What is written cannot be sought in.
    is_stream: bool,
}

impl Sink {
    /// For rows of this schema.
    pub fn try_new(format: Format, schema: SchemaRef, is_stream: bool) -> anyhow::Result<Self> {
        ensure!(format != Format::Npy, "npy holds one array and no table: write parquet, arrow, csv or jsonl");
        ensure!(!is_stream || format.can_stream(), "standard output is written as jsonl or arrow, not as {format}");
        if format == Format::Csv {
            csv::check(&schema)?;
        }
        Ok(Self { format, schema, is_stream })
    }

    /// A part of these rows.
    pub fn encode(&self, batch: &RecordBatch) -> anyhow::Result<Vec<u8>> {
        let mut part = Vec::new();
        match self.format {
            Format::Parquet => parquet::encode(batch, &mut part)?,
            Format::Arrow => {
                let mut writer = StreamWriter::try_new(&mut part, &self.schema)?;
                writer.write(batch)?;
                writer.finish()?;
            }
            Format::Csv => csv::encode(batch, &mut part)?,
            Format::Jsonl => {
                let builder = WriterBuilder::new().with_explicit_nulls(true);
                let mut writer = builder.build::<_, LineDelimited>(&mut part);
                writer.write(batch)?;
                writer.finish()?;
            }
            Format::Npy => bail!("npy is not written"),
        }
        Ok(part)
    }

    /// One file of all parts, in the order they come.
    pub fn join(
        &self,
        parts: impl Iterator<Item = anyhow::Result<Bytes>>,
        mut out: impl Write + Send,
    ) -> anyhow::Result<()> {
        match self.format {
            Format::Parquet => return parquet::join(&self.schema, parts, out),
            Format::Arrow if self.is_stream => {
                let mut writer = StreamWriter::try_new(&mut out, &self.schema)?;
                for part in parts {
                    for batch in StreamReader::try_new(part?.as_ref(), None)? {
                        writer.write(&batch?)?;
                    }
                    writer.flush()?;
                }
                writer.finish()?;
            }
            Format::Arrow => {
                let mut writer = FileWriter::try_new(&mut out, &self.schema)?;
                for part in parts {
                    for batch in StreamReader::try_new(part?.as_ref(), None)? {
                        writer.write(&batch?)?;
                    }
                }
                writer.finish()?;
            }
            _ => {
                if self.format == Format::Csv {
                    out.write_all(&csv::header(&self.schema)?)?;
                }
                for part in parts {
                    out.write_all(&part?)?;
                    out.flush()?;
                }
            }
        }
        Ok(out.flush()?)
    }
}
