//! Columns of a window become the bytes of model inputs; rows that cannot are named.

mod check;
mod values;

use std::collections::BTreeMap;

use anyhow::Context as _;
use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use gristmill_schemas::ErrorCode;
use gristmill_schemas::manifest::Input;

use self::check::Check;
use self::values::{beside_each_other, column_values, flat};
use crate::mapping::Bound;

/// Why a row has no outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Of the contract's closed set.
    pub code: ErrorCode,
    /// In words.
    pub message: String,
    /// 32 hex digits; none where the row was never sent.
    pub trace_id: Option<String>,
}

impl Fault {
    pub(crate) fn invalid(message: String) -> Self {
        Self { code: ErrorCode::InvalidInput, message, trace_id: None }
    }
}

/// Faults by row of the window.
pub(crate) type Faults = BTreeMap<u32, Fault>;

/// An input's values of every row of a window.
#[derive(Debug, Clone)]
pub(crate) struct Lowered {
    pub(crate) spec: Input,
    /// Bytes of one element.
    pub(crate) size: usize,
    /// Row-major and little-endian.
    values: Buffer,
    ends: Ends,
    /// Elements of one step along the free dimension, or of a whole row where none is free.
    inner: usize,
}

/// Where rows end, in elements.
#[derive(Debug, Clone)]
enum Ends {
    /// Each has as many.
    Even(usize),
    /// One more than there are rows; the first is where the first row begins.
    Offsets(Vec<usize>),
}

impl Ends {
    fn range(&self, row: usize) -> std::ops::Range<usize> {
        match self {
            Self::Even(width) => row * width..(row + 1) * width,
            Self::Offsets(offsets) => offsets[row]..offsets[row + 1],
        }
    }

    /// Rows of lists of lists: each of ours is so many of theirs.
    fn of(self, inner: Self, rows: usize) -> Self {
        match (self, inner) {
            (Self::Even(a), Self::Even(b)) => Self::Even(a * b),
            (Self::Even(a), Self::Offsets(offsets)) => Self::Offsets((0..=rows).map(|row| offsets[row * a]).collect()),
            (Self::Offsets(offsets), Self::Even(b)) => Self::Offsets(offsets.into_iter().map(|at| at * b).collect()),
            (Self::Offsets(ours), Self::Offsets(theirs)) => {
                Self::Offsets(ours.into_iter().map(|at| theirs[at]).collect())
            }
        }
    }
}

impl Lowered {
    /// Converts one input's columns; what is wrong with a row is added to `faults`, unless something is already.
    pub(crate) fn new(bound: &Bound, batch: &RecordBatch, faults: &mut Faults) -> anyhow::Result<Self> {
        let spec = bound.spec.clone();
        let size = spec.datatype.size().context("no input is BYTES")?;
        let mut check = Check { spec: &spec, faults, rows: batch.num_rows() };
        let (values, ends) = match bound.columns.as_slice() {
            [column] => column_values(&flat(batch.column(*column))?, &mut check)?,
            columns => beside_each_other(batch, columns, &mut check)?,
        };
        let free = spec.shape.iter().skip(1).any(|dim| *dim == -1);
        let inner = spec.shape.iter().skip(1).filter(|dim| **dim != -1).map(|dim| *dim as usize).product();
        check.lengths(&ends, inner, free);
        check.range(&values, &ends);
        Ok(Self { spec, size, values, ends, inner })
    }

    /// Steps along the free dimension that a row has; 1 where none is free.
    pub(crate) fn length(&self, row: u32) -> usize {
        self.ends.range(row as usize).len() / self.inner.max(1)
    }

    /// A row's bytes.
    pub(crate) fn bytes(&self, row: u32) -> &[u8] {
        let range = self.ends.range(row as usize);
        &self.values[range.start * self.size..range.end * self.size]
    }

    /// The bytes of rows that follow each other.
    pub(crate) fn span(&self, first: u32, last: u32) -> &[u8] {
        let (from, to) = (self.ends.range(first as usize).start, self.ends.range(last as usize).end);
        &self.values[from * self.size..to * self.size]
    }

    /// Which dimension is free, counted from 0, the row dimension.
    pub(crate) fn free_dim(&self) -> Option<usize> {
        self.spec.free_dim()
    }
}
