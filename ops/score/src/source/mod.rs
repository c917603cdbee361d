//! Rows out of files.

mod csv;
mod json;
pub mod npy;

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use crate::format::Format;

/// Rows read at once of a stream: what has come is not kept waiting for much more.
const STREAM_ROWS: usize = 256;

/// Most columns of a file. A table that is wider has its columns and rows mixed up, or wants to be one list column.
const MAX_COLUMNS: usize = 16_384;

/// Where rows come from.
pub struct Source {
    origin: Origin,
    format: Format,
    schema: SchemaRef,
}

enum Origin {
    /// All of one schema.
    Files(Vec<PathBuf>),
    /// Standard input, which can be read once.
    Stream(Batches),
}

/// Record batches in the order of the input.
pub type Batches = Box<dyn Iterator<Item = anyhow::Result<RecordBatch>> + Send>;

impl Source {
    /// Opens files that exist, all of one format and schema, and reads what they say of themselves.
    pub fn open(files: Vec<PathBuf>, format: Format) -> anyhow::Result<Self> {
        let first = files.first().context("no input file")?;
        let schema = schema_of(first, format)?;
        for file in &files[1..] {
            let is_same = schema.fields() == schema_of(file, format)?.fields();
            ensure!(is_same, "{} and {} have different columns", first.display(), file.display());
        }
        Self::try_new(Origin::Files(files), format, schema)
    }

    /// Reads standard input. Its first rows are waited for: they say what columns there are.
    pub fn stdin(format: Format) -> anyhow::Result<Self> {
        ensure!(format.can_stream(), "standard input is read as jsonl or arrow, not as {format}");
        let mut stdin = BufReader::with_capacity(1 << 20, std::io::stdin());
        let (schema, batches): (SchemaRef, Batches) = match format {
            Format::Jsonl => {
                let start = json::start(&mut stdin).context("standard input")?;
                let schema = json::schema_of_start(&start).context("standard input")?;
                let whole = std::io::Cursor::new(start).chain(stdin);
                (schema.clone(), named("standard input".into(), json::batches(whole, schema, STREAM_ROWS)?))
            }
            _ => {
                let reader = StreamReader::try_new(stdin, None).context("standard input is no Arrow IPC stream")?;
                (reader.schema(), named("standard input".into(), reader))
            }
        };
        Self::try_new(Origin::Stream(batches), format, schema)
    }

    fn try_new(origin: Origin, format: Format, schema: SchemaRef) -> anyhow::Result<Self> {
        let columns = schema.fields().len();
        ensure!(columns > 0, "the input has no columns");
        ensure!(columns <= MAX_COLUMNS, "the input has {columns} columns, the limit is {MAX_COLUMNS}");
        Ok(Self { origin, format, schema })
    }

    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The files; none where rows come from standard input.
    pub fn files(&self) -> &[PathBuf] {
        match &self.origin {
            Origin::Files(files) => files,
            Origin::Stream(_) => &[],
        }
    }

    /// Rows of the input, where the files say so without being read.
    pub fn rows(&self) -> anyhow::Result<Option<u64>> {
        let mut rows = 0;
        for path in self.files() {
            rows += match self.format {
                Format::Parquet => parquet_rows(path)?,
                Format::Npy => npy::Header::read(&mut open(path)?)?.rows() as u64,
                _ => return Ok(None),
            };
        }
        Ok((!self.files().is_empty()).then_some(rows))
    }

    /// Reads these columns, in this order, from row `skip` on, some `rows` at a time.
    pub fn batches(self, columns: &[usize], skip: u64, rows: usize) -> Batches {
        let columns = columns.to_vec();
        let format = self.format;
        match self.origin {
            Origin::Stream(batches) => Box::new(skipped(project(batches, columns), skip)),
            Origin::Files(files) if format == Format::Parquet => parquet(files, columns, skip, rows),
            Origin::Files(files) => {
                let schema = self.schema;
                let each = files.into_iter().flat_map(move |path| match batches_of(&path, format, &schema, rows) {
                    Ok(batches) => batches,
                    Err(error) => Box::new(std::iter::once(Err(error))),
                });
                Box::new(skipped(project(Box::new(each), columns), skip))
            }
        }
    }
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| path.display().to_string())
}

fn schema_of(path: &Path, format: Format) -> anyhow::Result<SchemaRef> {
    let mut file = open(path)?;
    let bytes = file.metadata().with_context(|| path.display().to_string())?.len();
    ensure!(bytes > 0, "{} is empty, not even a header is in it", path.display());
    let schema = match format {
        Format::Parquet => parquet_footer(&file).map(|footer| footer.schema().clone()),
        Format::Arrow if is_ipc_file(&mut file)? => {
            FileReader::try_new(file, None).map(|r| r.schema()).map_err(Into::into)
        }
        Format::Arrow => StreamReader::try_new(BufReader::new(file), None).map(|r| r.schema()).map_err(Into::into),
        Format::Csv => csv::schema(file),
        Format::Jsonl => json::schema(BufReader::with_capacity(1 << 20, file)),
        Format::Npy => npy::Header::read(&mut file).and_then(|header| header.schema()),
    };
    schema.with_context(|| format!("{} cannot be read as {format}", path.display()))
}

/// One file's batches, all columns.
fn batches_of(path: &Path, format: Format, schema: &SchemaRef, rows: usize) -> anyhow::Result<Batches> {
    let mut file = open(path)?;
    let name = path.display().to_string();
    Ok(match format {
        Format::Arrow if is_ipc_file(&mut file)? => named(name, FileReader::try_new(file, None)?),
        Format::Arrow => named(name, StreamReader::try_new(BufReader::with_capacity(1 << 20, file), None)?),
        Format::Csv => named(name, csv::batches(file, schema.clone(), rows)?),
        Format::Jsonl => {
            let reader = BufReader::with_capacity(1 << 20, file);
            named(name, json::batches(reader, schema.clone(), rows)?)
        }
        Format::Npy => npy::batches(file, rows)?,
        Format::Parquet => bail!("Parquet files are read all at once"),
    })
}

/// With the file's name in every error.
fn named(name: String, batches: impl Iterator<Item = Result<RecordBatch, ArrowError>> + Send + 'static) -> Batches {
    Box::new(batches.map(move |batch| batch.with_context(|| name.clone())))
}

fn project(batches: Batches, columns: Vec<usize>) -> Batches {
    Box::new(batches.map(move |batch| Ok(batch?.project(&columns)?)))
}

/// Without the first rows. Those are read all the same: such files have no index of rows.
fn skipped(batches: Batches, rows: u64) -> impl Iterator<Item = anyhow::Result<RecordBatch>> + Send {
    let mut left = rows;
    batches.filter_map(move |batch| {
        let Ok(batch) = batch else { return Some(batch) };
        let rows = batch.num_rows();
        let gone = usize::try_from(left).unwrap_or(usize::MAX).min(rows);
        left -= gone as u64;
        (gone < rows).then(|| Ok(batch.slice(gone, rows - gone)))
    })
}

/// An IPC file begins with a magic word, a stream with a length.
fn is_ipc_file(file: &mut File) -> anyhow::Result<bool> {
    let mut magic = [0; 6];
    let read = file.take(6).read(&mut magic)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(read == 6 && &magic == b"ARROW1")
}

fn parquet_footer(file: &File) -> anyhow::Result<ArrowReaderMetadata> {
    Ok(ArrowReaderMetadata::load(file, ArrowReaderOptions::new())?)
}

fn parquet_rows(path: &Path) -> anyhow::Result<u64> {
    let footer = parquet_footer(&open(path)?).with_context(|| path.display().to_string())?;
    Ok(u64::try_from(footer.metadata().file_metadata().num_rows())?)
}

/// Parquet knows its rows: what is skipped is not decoded, and columns that nobody wants are not read.
fn parquet(files: Vec<PathBuf>, columns: Vec<usize>, skip: u64, batch_rows: usize) -> Batches {
    let mut left = skip;
    let each = files.into_iter().flat_map(move |path| {
        let opened = (|| {
            let rows = parquet_rows(&path)?;
            let gone = left.min(rows);
            left -= gone;
            if gone == rows {
                return Ok(Box::new(std::iter::empty()) as Batches);
            }
            let builder = ParquetRecordBatchReaderBuilder::try_new(open(&path)?)?;
            let mask = ProjectionMask::roots(builder.parquet_schema(), columns.iter().copied());
            let builder = builder.with_batch_size(batch_rows).with_projection(mask);
            let reader = builder.with_offset(usize::try_from(gone)?).build()?;
            // A mask keeps the file's order.
            let mut order: Vec<usize> = columns.clone();
            order.sort_unstable();
            order.dedup();
            let at = |column: &usize| order.binary_search(column).expect("every column is in the mask");
            let wanted: Vec<usize> = columns.iter().map(at).collect();
            Ok(project(named(path.display().to_string(), reader), wanted))
        })();
        opened.unwrap_or_else(|error: anyhow::Error| {
            Box::new(std::iter::once(Err(error.context(path.display().to_string()))))
        })
    });
    Box::new(each)
}
