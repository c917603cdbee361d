//! Arrow arrays, of lists, of lists of lists, of bytes or texts, as the bytes of a datatype.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::compute::kernels::cast::cast;
use arrow::datatypes::{DataType, Float32Type};
use gristmill_schemas::Datatype;
use half::bf16;

use super::Ends;
use super::check::Check;
use crate::datatype::same;

/// Without a dictionary.
pub(super) fn flat(array: &ArrayRef) -> anyhow::Result<ArrayRef> {
    match array.data_type() {
        DataType::Dictionary(_, value) => Ok(cast(array, value)?),
        DataType::BinaryView => Ok(cast(array, &DataType::LargeBinary)?),
        _ => Ok(array.clone()),
    }
}

pub(super) fn column_values(array: &ArrayRef, check: &mut Check<'_>) -> anyhow::Result<(Buffer, Ends)> {
    check.nulls(array.logical_nulls().as_ref());
    let size = check.spec.datatype.size().unwrap_or(1);
    let raw = |offsets: Vec<usize>, bytes: &[u8], check: &mut Check<'_>| {
        for (row, pair) in offsets.windows(2).enumerate().filter(|(_, pair)| (pair[1] - pair[0]) % size != 0) {
            check.fault(row, format!("{} bytes are no whole number of {}", pair[1] - pair[0], check.spec.datatype));
        }
        packed(&offsets, bytes, size)
    };
    let offsets = |offsets: &[i32]| offsets.iter().map(|at| *at as usize).collect::<Vec<_>>();
    let large = |offsets: &[i64]| offsets.iter().map(|at| *at as usize).collect::<Vec<_>>();
    match array.data_type() {
        DataType::Binary => {
            Ok(raw(offsets(array.as_binary::<i32>().offsets()), array.as_binary::<i32>().values(), check))
        }
        DataType::LargeBinary => {
            Ok(raw(large(array.as_binary::<i64>().offsets()), array.as_binary::<i64>().values(), check))
        }
        DataType::FixedSizeBinary(width) => {
            let width = *width as usize;
            let ends = (0..=array.len()).map(|row| row * width).collect();
            Ok(raw(ends, array.as_fixed_size_binary().value_data(), check))
        }
        _ => {
            let (values, ends) = unnest(array, check)?;
            let (values, bad) = numbers(&values, check.spec.datatype)?;
            check.values(bad.as_ref(), &ends);
            Ok((values, ends))
        }
    }
}

/// Raw bytes as elements; a row that is no whole number of them, which is refused elsewhere, is left empty.
fn packed(offsets: &[usize], bytes: &[u8], size: usize) -> (Buffer, Ends) {
    let is_whole = offsets.windows(2).all(|pair| (pair[1] - pair[0]) % size == 0);
    if is_whole && offsets[0].is_multiple_of(size) {
        let ends = offsets.iter().map(|at| at / size).collect();
        return (Buffer::from(bytes), Ends::Offsets(ends));
    }
    let (mut kept, mut ends) = (Vec::with_capacity(bytes.len()), vec![0]);
    for pair in offsets.windows(2) {
        let row = &bytes[pair[0]..pair[1]];
        kept.extend_from_slice(if row.len().is_multiple_of(size) { row } else { &[] });
        ends.push(kept.len() / size);
    }
    (Buffer::from_vec(kept), Ends::Offsets(ends))
}

/// What lists of lists hold in the end, and where rows end in it.
fn unnest(array: &ArrayRef, check: &mut Check<'_>) -> anyhow::Result<(ArrayRef, Ends)> {
    let (mut ends, mut values) = (Ends::Even(1), array.clone());
    let mut level = 0;
    while let Some((inner, child)) = list(&values) {
        let dims = check.spec.shape.len() - 1;
        if level > 0 {
            let want = (level < dims).then(|| check.spec.shape[level + 1]);
            check.inner_lists(&ends, &inner, want);
            check.null_lists(values.logical_nulls().as_ref(), &ends);
        }
        if level == 0 && list(&child).is_some() && check.spec.shape.len() > 2 {
            check.outer_lists(&inner, check.spec.shape[1]);
        }
        ends = ends.of(inner, check.rows);
        (values, level) = (flat(&child)?, level + 1);
    }
    Ok((values, ends))
}

fn list(array: &ArrayRef) -> Option<(Ends, ArrayRef)> {
    match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            Some((Ends::Offsets(list.offsets().iter().map(|at| *at as usize).collect()), list.values().clone()))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            Some((Ends::Offsets(list.offsets().iter().map(|at| *at as usize).collect()), list.values().clone()))
        }
        DataType::FixedSizeList(_, width) => {
            Some((Ends::Even(*width as usize), array.as_fixed_size_list().values().clone()))
        }
        _ => None,
    }
}

/// Several columns of scalars as one list a row.
pub(super) fn beside_each_other(
    batch: &RecordBatch,
    columns: &[usize],
    check: &mut Check<'_>,
) -> anyhow::Result<(Buffer, Ends)> {
    let size = check.spec.datatype.size().unwrap_or(1);
    let mut all = vec![0; batch.num_rows() * columns.len() * size];
    for (at, column) in columns.iter().enumerate() {
        let (values, bad) = numbers(&flat(batch.column(*column))?, check.spec.datatype)?;
        if let Some(bad) = bad.filter(|bad| bad.null_count() > 0) {
            let name = batch.schema().field(*column).name().clone();
            for row in (0..check.rows).filter(|row| bad.is_null(*row)) {
                check.fault(row, format!("column {name:?} is null or no {}", check.spec.datatype));
            }
        }
        for (row, value) in values.chunks_exact(size).enumerate() {
            let to = (row * columns.len() + at) * size;
            all[to..to + size].copy_from_slice(value);
        }
    }
    Ok((Buffer::from_vec(all), Ends::Even(columns.len())))
}

/// Scalars as bytes of the datatype; null where there is no value, or none that the datatype has.
fn numbers(array: &ArrayRef, datatype: Datatype) -> anyhow::Result<(Buffer, Option<NullBuffer>)> {
    anyhow::ensure!(datatype != Datatype::Bytes, "no input is BYTES");
    // BF16 is cut out of what it is the upper half of.
    let kind = same(datatype).unwrap_or(DataType::Float32);
    // Text to half precision has no way of its own.
    let array = match (array.data_type(), &kind) {
        (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, DataType::Float16) => {
            Arc::new(cast(array, &DataType::Float32)?)
        }
        _ => array.clone(),
    };
    let array = if *array.data_type() == kind { array } else { cast(&array, &kind)? };
    let nulls = array.nulls().cloned();
    let values = match datatype {
        Datatype::Bool => array.as_boolean().values().iter().map(u8::from).collect(),
        Datatype::Bf16 => {
            let floats = array.as_primitive::<Float32Type>().values();
            floats.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect()
        }
        _ => {
            let data = array.to_data();
            let size = datatype.size().unwrap_or(1);
            data.buffers()[0].slice_with_length(data.offset() * size, data.len() * size)
        }
    };
    Ok((values, nulls))
}
