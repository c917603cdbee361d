use std::sync::Arc;

use bytes::Bytes;

use crate::dtype::Dtype;

/// A whole tensor in host memory: contiguous, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, rows first.
    pub shape: Vec<usize>,
    /// `shape` elements of `dtype`, little-endian.
    pub data: Vec<u8>,
}

/// Some rows of an output. Shares the batch's buffer with the slices of the batch-mates.
#[derive(Debug, Clone, PartialEq)]
pub struct RowSlice {
    /// Index of the output in the signature.
    pub output: usize,
    /// Element type.
    pub dtype: Dtype,
    /// How many rows.
    pub rows: usize,
    /// Dimensions behind the rows.
    pub tail: Arc<[usize]>,
    /// `rows` x `tail` elements of `dtype`, little-endian.
    pub data: Bytes,
}

impl HostTensor {
    /// The number of rows; a tensor without dimensions has none.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }
}
