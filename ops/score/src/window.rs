//! Rows that are read, sorted, sent, accounted for and written together.

use arrow::array::{Array, AsArray, OffsetSizeTrait, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use serde::Serialize;

use crate::source::Batches;

/// Where windows end: they grow by steps until they have enough. Steps are counted from a window's first row, so that where it
/// ends depends on the rows alone, not on how a file hands them out: a run that goes on cuts as the first one did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cut {
    /// Most rows, a multiple of the step.
    pub rows: usize,
    /// Enough bytes of columns.
    pub bytes: usize,
    /// Rows.
    pub step: usize,
}

/// Consecutive rows of the input.
pub struct Window {
    /// Its number in the input's order, counted from 0.
    pub index: u32,
    /// Its first row in the input, counted from 0.
    pub first_row: u64,
    /// The columns that were asked for.
    pub batch: RecordBatch,
}

/// Cuts what a source yields into windows.
pub struct Windows {
    batches: Batches,
    schema: SchemaRef,
    cut: Cut,
    /// Read and in no window yet.
    rest: Option<RecordBatch>,
    next: (u32, u64),
}

impl Windows {
    /// The first gets number and row of `next`.
    pub fn new(batches: Batches, schema: SchemaRef, cut: Cut, next: (u32, u64)) -> Self {
        Self { batches, schema, cut, rest: None, next }
    }

    /// Up to a step of rows as slices.
    fn step(&mut self) -> anyhow::Result<Vec<RecordBatch>> {
        let (mut slices, mut missing) = (Vec::new(), self.cut.step);
        while missing > 0 {
            let batch = match self.rest.take() {
                Some(batch) => batch,
                None => match self.batches.next() {
                    Some(batch) => batch?,
                    None => break,
                },
            };
            let taken = batch.num_rows().min(missing);
            missing -= taken;
            if taken < batch.num_rows() {
                self.rest = Some(batch.slice(taken, batch.num_rows() - taken));
            }
            slices.push(batch.slice(0, taken));
        }
        Ok(slices)
    }

    fn take(&mut self) -> anyhow::Result<Option<Window>> {
        let (mut slices, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while rows < self.cut.rows && bytes < self.cut.bytes {
            let step = self.step()?;
            let count: usize = step.iter().map(RecordBatch::num_rows).sum();
            if count == 0 {
                break;
            }
            rows += count;
            bytes += step.iter().flat_map(RecordBatch::columns).map(|column| size(column)).sum::<usize>();
            slices.extend(step);
        }
        if rows == 0 {
            return Ok(None);
        }
        let (index, first_row) = self.next;
        self.next = (index + 1, first_row + rows as u64);
        Ok(Some(Window { index, first_row, batch: concat_batches(&self.schema, &slices)? }))
    }
}

impl Iterator for Windows {
    type Item = anyhow::Result<Window>;

    fn next(&mut self) -> Option<Self::Item> {
        self.take().transpose()
    }
}

/// Bytes of these rows' values. Not those that arrays take in memory: that depends on how they were read.
fn size(array: &dyn Array) -> usize {
    let rows = array.len();
    let child = |values: &dyn Array, from: usize, to: usize| size(&values.slice(from, to - from));
    match array.data_type() {
        DataType::Utf8 => span(array.as_string::<i32>().offsets()),
        DataType::LargeUtf8 => span(array.as_string::<i64>().offsets()),
        DataType::Binary => span(array.as_binary::<i32>().offsets()),
        DataType::LargeBinary => span(array.as_binary::<i64>().offsets()),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            child(list.values(), list.offsets()[0] as usize, list.offsets()[rows] as usize)
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            child(list.values(), list.offsets()[0] as usize, list.offsets()[rows] as usize)
        }
        DataType::FixedSizeList(..) => size(array.as_fixed_size_list().values()),
        DataType::Struct(_) => array.as_struct().columns().iter().map(|column| size(column)).sum(),
        DataType::FixedSizeBinary(width) => rows * *width as usize,
        // What has no width of its own (views, dictionaries, unions) is counted as text of some length.
        kind => rows * kind.primitive_width().unwrap_or(16),
    }
}

/// Bytes of texts, each with its offset.
fn span<O: OffsetSizeTrait>(offsets: &[O]) -> usize {
    let (first, last) = (offsets[0].as_usize(), offsets[offsets.len() - 1].as_usize());
    last - first + (offsets.len() - 1) * size_of::<O>()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray, UInt32Array};
    use proptest::prelude::*;

    use super::*;

    fn batches(rows: &[usize]) -> Vec<RecordBatch> {
        let mut at = 0;
        let mut batch = |rows: &usize| {
            let numbers = at..at + *rows as u32;
            at = numbers.end;
            let texts = numbers.clone().map(|n| "x".repeat(n as usize % 50));
            let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
            RecordBatch::try_from_iter([
                ("n", Arc::new(UInt32Array::from_iter_values(numbers)) as ArrayRef),
                ("t", texts),
            ])
            .unwrap()
        };
        rows.iter().map(&mut batch).collect()
    }

    fn cut(batches: Vec<RecordBatch>, skip: usize, next: (u32, u64)) -> Vec<(u32, u64, RecordBatch)> {
        let schema = batches[0].schema();
        let all = concat_batches(&schema, &batches).unwrap();
        let batches: Batches = if skip == 0 {
            Box::new(batches.into_iter().map(Ok))
        } else {
            Box::new(std::iter::once(Ok(all.slice(skip, all.num_rows() - skip))))
        };
        let windows = Windows::new(batches, schema, Cut { rows: 1024, bytes: 20_000, step: 256 }, next);
        windows.map(|window| window.map(|w| (w.index, w.first_row, w.batch)).unwrap()).collect()
    }

    proptest! {
        #[test]
        fn windows_depend_on_the_rows_alone(
            one in prop::collection::vec(1usize..700, 1..12),
            resumed in 0usize..3,
        ) {
            let rows: usize = one.iter().sum();
            let whole = cut(batches(&[rows]), 0, (0, 0));
            prop_assert_eq!(&cut(batches(&one), 0, (0, 0)), &whole);
            // Going on at any window's first row gives the same ones.
            if let Some((index, first, _)) = whole.get(resumed) {
                prop_assert_eq!(&cut(batches(&one), *first as usize, (*index, *first))[..], &whole[resumed..]);
            }
            prop_assert_eq!(whole.iter().map(|(_, _, batch)| batch.num_rows()).sum::<usize>(), rows);
        }
    }
}
