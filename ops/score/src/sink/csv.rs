//! CSV has no lists: those of fixed size become columns of their own, others text.

use std::sync::Arc;

use anyhow::bail;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take;
use arrow::csv::WriterBuilder;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// Most columns that one list becomes.
const MAX_COLUMNS: i32 = 1024;

pub(super) fn check(schema: &Schema) -> anyhow::Result<()> {
    for field in schema.fields() {
        let (name, kind) = (field.name(), field.data_type());
        if let DataType::FixedSizeList(_, width) = kind
            && *width > MAX_COLUMNS
        {
            bail!(
                "column {name:?} has {width} values a row, CSV gets {MAX_COLUMNS} columns of one at most: write parquet"
            );
        }
        if kind.is_binary() || matches!(kind, DataType::FixedSizeBinary(_) | DataType::Struct(_) | DataType::Map(..)) {
            bail!("column {name:?} is {kind}, which CSV cannot hold: leave it out with --keep, or write parquet");
        }
    }
    Ok(())
}

/// The first line.
pub(super) fn header(schema: &Schema) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    let empty = flat(&RecordBatch::new_empty(Arc::new(schema.clone())))?;
    WriterBuilder::new().with_header(true).build(&mut out).write(&empty)?;
    Ok(out)
}

pub(super) fn encode(batch: &RecordBatch, out: &mut Vec<u8>) -> anyhow::Result<()> {
    Ok(WriterBuilder::new().with_header(false).build(out).write(&flat(batch)?)?)
}

fn flat(batch: &RecordBatch) -> anyhow::Result<RecordBatch> {
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        for (name, column) in spread(field.name().clone(), column)? {
            fields.push(Field::new(name, column.data_type().clone(), true));
            columns.push(column);
        }
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// One column, or `name_0`, `name_1` and so on.
fn spread(name: String, column: &ArrayRef) -> anyhow::Result<Vec<(String, ArrayRef)>> {
    match column.data_type() {
        DataType::FixedSizeList(_, width) => {
            let list = column.as_fixed_size_list();
            let mut all = Vec::new();
            for at in 0..*width {
                let place = |row: usize| list.is_valid(row).then(|| list.value_offset_at(row) as u32 + at as u32);
                let places: UInt32Array = (0..list.len()).map(place).collect();
                all.extend(spread(format!("{name}_{at}"), &take(list.values(), &places, None)?)?);
            }
            Ok(all)
        }
        DataType::List(_) | DataType::LargeList(_) => {
            let options = FormatOptions::default();
            let text = ArrayFormatter::try_new(column, &options)?;
            let texts = (0..column.len()).map(|row| column.is_valid(row).then(|| text.value(row).to_string()));
            Ok(vec![(name, Arc::new(texts.collect::<StringArray>()))])
        }
        _ => Ok(vec![(name, column.clone())]),
    }
}
