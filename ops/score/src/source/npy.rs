//! One array of a NumPy file, version 1 to 3, little-endian and in C order: each of its rows is a list.
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

use std::fs::File;
use std::io::{BufReader, Read};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use arrow::array::{ArrayRef, BooleanArray, FixedSizeListArray, RecordBatch, make_array};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use gristmill_schemas::Datatype;

use super::Batches;
use crate::datatype::same;

/// The column's name: an array has none.
const COLUMN: &str = "data";

/// Longest header. NumPy's own have some hundred bytes.
const MAX_HEADER: usize = 1 << 16;

/// What a file says of its array.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions.
    pub dims: Vec<usize>,
}

impl Header {
    /// Reads up to the first byte of the array.
    pub fn read(file: &mut impl Read) -> anyhow::Result<Self> {
        let mut magic = [0; 8];
        file.read_exact(&mut magic).context("cut off before its version")?;
        let major = magic.strip_prefix(b"\x93NUMPY").context("it does not start with \\x93NUMPY")?[0];
        let mut length = [0; 4];
        let bytes = match major {
            1 => 2,
            2 | 3 => 4,
            _ => bail!("version {major} is not 1 to 3"),
        };
        file.read_exact(&mut length[..bytes]).context("cut off in its header")?;
        let length = u32::from_le_bytes(length) as usize;
        ensure!(length <= MAX_HEADER, "its header has {length} bytes, the limit is {MAX_HEADER}");
        let mut text = vec![0; length];
        file.read_exact(&mut text).context("cut off in its header")?;
        Self::parse(std::str::from_utf8(&text).context("its header is not text")?)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let descr = field(text, "'descr':").and_then(|rest| rest.split('\'').nth(1)).context("no 'descr'")?;
        let order = field(text, "'fortran_order':").context("no 'fortran_order'")?;
        if order.trim_start().starts_with("True") {
            bail!("the array is in Fortran order; save np.ascontiguousarray(array)");
        }
        let shape = field(text, "'shape':").and_then(|rest| rest.split(['(', ')']).nth(1)).context("no 'shape'")?;
        let dims = shape.split(',').map(str::trim).filter(|dim| !dim.is_empty()).map(str::parse);
        let dims: Vec<usize> = dims.collect::<Result<_, _>>().context("'shape' is not a tuple of numbers")?;
        Ok(Self { datatype: datatype(descr)?, dims })
    }

    /// The first dimension; an array without any is one row.
    pub fn rows(&self) -> usize {
        self.dims.first().copied().unwrap_or(1)
    }

    /// Elements of one row.
    fn width(&self) -> anyhow::Result<usize> {
        let product = self.dims.iter().skip(1).try_fold(1usize, |product, dim| product.checked_mul(*dim));
        product.filter(|width| *width < 1 << 31).context("a row has more than 2^31 elements")
    }

    /// The one column.
    pub(super) fn schema(&self) -> anyhow::Result<SchemaRef> {
        let list = DataType::FixedSizeList(self.item()?, i32::try_from(self.width()?)?);
        Ok(Schema::new(vec![Field::new(COLUMN, list, false)]).into())
    }

    fn item(&self) -> anyhow::Result<Arc<Field>> {
        let kind = same(self.datatype).with_context(|| format!("NumPy has no {}", self.datatype))?;
        Ok(Arc::new(Field::new_list_field(kind, false)))
    }
}

fn datatype(descr: &str) -> anyhow::Result<Datatype> {
    Ok(match descr {
        "|b1" => Datatype::Bool,
        "|u1" => Datatype::Uint8,
        "|i1" => Datatype::Int8,
        "<i2" => Datatype::Int16,
        "<i4" => Datatype::Int32,
        "<i8" => Datatype::Int64,
        "<f2" => Datatype::Fp16,
        "<f4" => Datatype::Fp32,
        "<f8" => Datatype::Fp64,
        big if big.starts_with('>') => {
            bail!("dtype {big:?} is big-endian; save array.astype(array.dtype.newbyteorder('<'))")
        }
        other => bail!("dtype {other:?} is not in the contract"),
    })
}

fn field<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    header.split_once(key).map(|(_, rest)| rest)
}

/// The rows, so many at a time.
pub(super) fn batches(file: File, rows: usize) -> anyhow::Result<Batches> {
    let mut file = BufReader::new(file);
    let header = Header::read(&mut file)?;
    let (schema, width) = (header.schema()?, header.width()?);
    let row_bytes = width * header.datatype.size().context("NumPy has no BYTES")?;
    let mut left = header.rows();
    Ok(Box::new(std::iter::from_fn(move || {
        let count = left.min(rows);
        let at = header.rows() - left;
        left -= count;
        (count > 0).then(|| {
            let mut bytes = vec![0; count * row_bytes];
            let of = header.rows();
            file.read_exact(&mut bytes).with_context(|| format!("the array is cut off behind row {at} of {of}"))?;
            Ok(RecordBatch::try_new(schema.clone(), vec![column(&header, bytes, count)?])?)
        })
    })))
}

fn column(header: &Header, bytes: Vec<u8>, rows: usize) -> anyhow::Result<ArrayRef> {
    let (item, width) = (header.item()?, header.width()?);
    let values: ArrayRef = if header.datatype == Datatype::Bool {
        Arc::new(bytes.iter().map(|byte| Some(*byte != 0)).collect::<BooleanArray>())
    } else {
        let data = arrow::array::ArrayData::builder(item.data_type().clone()).len(rows * width);
        make_array(data.add_buffer(Buffer::from_vec(bytes)).align_buffers(true).build()?)
    };
    Ok(Arc::new(FixedSizeListArray::try_new(item, i32::try_from(width)?, values, None)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_of_a_header_is_named() {
        let file = |descr: &str, order: &str| {
            let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': (2, 1), }}\n");
            let length = (header.len() as u16).to_le_bytes();
            [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes()].concat()
        };
        let read = |bytes: Vec<u8>| Header::read(&mut bytes.as_slice());
        let header = read(file("<i2", "False")).unwrap();
        assert_eq!((header.datatype, header.dims), (Datatype::Int16, vec![2, 1]));
        for (bytes, says) in [
            (file("<i2", "True"), "Fortran order"),
            (file(">i2", "False"), "\">i2\" is big-endian"),
            (file("<U3", "False"), "dtype \"<U3\" is not in the contract"),
            (b"PK\x03\x04----".to_vec(), "does not start with"),
            (b"\x93NUMPY\x01\x00".to_vec(), "cut off in its header"),
            (b"\x93NUMPY\x09\x00".to_vec(), "version 9 is not 1 to 3"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "has 4294967295 bytes, the limit is 65536"),
        ] {
            let error = read(bytes).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
