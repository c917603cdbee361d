//! Tensors of answers become columns.

use std::borrow::Cow;
use std::sync::Arc;

use anyhow::Context as _;
use arrow::array::{ArrayData, ArrayRef, BooleanArray, FixedSizeListArray, ListArray, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, FieldRef};
use bytes::Bytes;
use gristmill_schemas::Datatype;
use gristmill_schemas::manifest::Output;
use half::{bf16, f16};

use crate::datatype::same;

/// What one job gave for one output.
#[derive(Debug)]
pub(crate) struct Held {
    /// Dimensions behind the rows.
    pub(crate) tail: Vec<usize>,
    pub(crate) data: Bytes,
}

/// One job's answer: its rows in the window, and its outputs in the order of the columns.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) rows: Vec<u32>,
    /// The length of each row, and that of the job; none where nothing was filled up.
    pub(crate) lengths: Option<(Vec<usize>, usize)>,
    pub(crate) outputs: Vec<Held>,
}

/// The column's type: lists of fixed size where all dimensions are, else lists. Half precision, which few tools know, is widened.
pub(crate) fn field(name: String, output: &Output) -> Field {
    let item = |kind| Arc::new(Field::new_list_field(kind, false));
    let is_fixed = output.shape.iter().skip(1).all(|dim| *dim != -1);
    let kind = output.shape.iter().skip(1).rev().fold(scalar(output.datatype), |kind, dim| match i32::try_from(*dim) {
        Ok(width) if is_fixed => DataType::FixedSizeList(item(kind), width),
        _ => DataType::List(item(kind)),
    });
    Field::new(name, kind, true)
}

fn scalar(datatype: Datatype) -> DataType {
    same(datatype).filter(|kind| *kind != DataType::Float16).unwrap_or(DataType::Float32)
}

/// One output's column for `rows` rows; null where no answer has the row.
pub(crate) fn column(
    field: &Field,
    (spec, index): (&Output, usize),
    answers: &[Answer],
    rows: usize,
) -> anyhow::Result<ArrayRef> {
    let is_fixed = spec.shape.iter().skip(1).all(|dim| *dim != -1);
    if is_fixed { fixed(field, (spec, index), answers, rows) } else { free(field, (spec, index), answers, rows) }
}

fn fixed(field: &Field, (spec, index): (&Output, usize), answers: &[Answer], rows: usize) -> anyhow::Result<ArrayRef> {
    let dims: Vec<usize> = spec.shape[1..].iter().map(|dim| *dim as usize).collect();
    let row_bytes = dims.iter().product::<usize>() * size(spec)?;
    let (mut values, mut valid) = (vec![0u8; rows * row_bytes], vec![false; rows]);
    for answer in answers {
        let data = &answer.outputs[index].data;
        let first = answer.rows[0] as usize;
        if answer.rows.iter().enumerate().all(|(at, row)| *row as usize == first + at) {
            values[first * row_bytes..][..data.len()].copy_from_slice(data);
        } else {
            for (row, bytes) in answer.rows.iter().zip(data.chunks_exact(row_bytes.max(1))) {
                values[*row as usize * row_bytes..][..row_bytes].copy_from_slice(bytes);
            }
        }
        answer.rows.iter().for_each(|row| valid[*row as usize] = true);
    }
    let nulls = valid.contains(&false).then(|| NullBuffer::from(valid));
    // The nulls are the rows'.
    let is_scalar = dims.is_empty();
    let values = numbers(values, spec.datatype, if is_scalar { nulls.clone() } else { None })?;
    nest_fixed(field.data_type(), values, nulls)
}

fn nest_fixed(kind: &DataType, values: ArrayRef, nulls: Option<NullBuffer>) -> anyhow::Result<ArrayRef> {
    let DataType::FixedSizeList(item, width) = kind else { return Ok(values) };
    let inner = nest_fixed(item.data_type(), values, None)?;
    Ok(Arc::new(FixedSizeListArray::try_new(item.clone(), *width, inner, nulls)?))
}

/// Where a row's values are.
struct Row<'a> {
    dims: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

fn free(field: &Field, (spec, index): (&Output, usize), answers: &[Answer], rows: usize) -> anyhow::Result<ArrayRef> {
    let size = size(spec)?;
    let mut found: Vec<Option<Row<'_>>> = (0..rows).map(|_| None).collect();
    for answer in answers {
        let Held { tail, data } = &answer.outputs[index];
        let row_bytes = tail.iter().product::<usize>() * size;
        for (at, row) in answer.rows.iter().enumerate() {
            let bytes = &data[at * row_bytes..(at + 1) * row_bytes];
            let mut cut = Row { dims: tail.clone(), bytes: Cow::Borrowed(bytes) };
            if let Some((lengths, longest)) = &answer.lengths {
                cut = cropped(cut, spec, size, (lengths[at], *longest));
            }
            found[*row as usize] = Some(cut);
        }
    }
    let values = found.iter().flatten().flat_map(|row| row.bytes.iter().copied()).collect();
    let nulls: Vec<bool> = found.iter().map(Option::is_some).collect();
    let nulls = nulls.contains(&false).then(|| NullBuffer::from(nulls));
    let depth = spec.shape.len() - 1;
    let mut array = numbers(values, spec.datatype, None)?;
    let mut kinds: Vec<&FieldRef> = Vec::new();
    let mut kind = field.data_type();
    while let DataType::List(item) = kind {
        kinds.push(item);
        kind = item.data_type();
    }
    for level in (0..depth).rev() {
        let lengths = found.iter().flat_map(|row| match row {
            None if level == 0 => vec![0],
            None => vec![],
            Some(row) => vec![row.dims[level]; row.dims[..level].iter().product()],
        });
        let offsets = OffsetBuffer::<i32>::from_lengths(lengths);
        array = Arc::new(ListArray::try_new(
            kinds[level].clone(),
            offsets,
            array,
            if level == 0 { nulls.clone() } else { None },
        )?);
    }
    Ok(array)
}

/// A row without what came from filling up: as workers do it, dimensions that are free and as long as the job are the row's own.
fn cropped<'a>(row: Row<'a>, spec: &Output, size: usize, (length, longest): (usize, usize)) -> Row<'a> {
    let mut row = row;
    if length == longest {
        return row;
    }
    for dim in 0..row.dims.len() {
        if spec.shape[dim + 1] != -1 || row.dims[dim] != longest {
            continue;
        }
        let outer: usize = row.dims[..dim].iter().product();
        let inner = row.dims[dim + 1..].iter().product::<usize>() * size;
        let kept = (0..outer).flat_map(|at| row.bytes[at * longest * inner..][..length * inner].iter().copied());
        row.bytes = Cow::Owned(kept.collect());
        row.dims[dim] = length;
    }
    row
}

fn size(spec: &Output) -> anyhow::Result<usize> {
    spec.datatype.size().context("no output is BYTES")
}

fn numbers(values: Vec<u8>, datatype: Datatype, nulls: Option<NullBuffer>) -> anyhow::Result<ArrayRef> {
    let widened = |floats: Vec<f32>| Buffer::from_vec(floats);
    let buffer = match datatype {
        Datatype::Bool => {
            let bits = BooleanBuffer::collect_bool(values.len(), |at| values[at] != 0);
            return Ok(Arc::new(BooleanArray::new(bits, nulls)));
        }
        Datatype::Fp16 => {
            widened(values.as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect())
        }
        Datatype::Bf16 => {
            widened(values.as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect())
        }
        _ => Buffer::from_vec(values),
    };
    let kind = scalar(datatype);
    let len = buffer.len() / kind.primitive_width().context("a number has a width")?;
    let data = ArrayData::builder(kind).len(len).add_buffer(buffer).nulls(nulls).align_buffers(true);
    Ok(make_array(data.build()?))
}
