use crate::dtype::Dtype;
use crate::engine::Inputs;

/// What a tensor in host memory looks like: contiguous, row-major, little-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, rows first.
    pub shape: Vec<usize>,
}

impl Layout {
    /// Bytes of such a tensor.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

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

/// Some rows of an output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowSlice<'a> {
    /// Index of the output in the signature.
    pub output: usize,
    /// Element type.
    pub dtype: Dtype,
    /// How many rows.
    pub rows: usize,
    /// Dimensions behind the rows.
    pub tail: &'a [usize],
    /// `rows` x `tail` elements of `dtype`, little-endian.
    pub data: &'a [u8],
}

impl HostTensor {
    /// The number of rows; a tensor without dimensions has none.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }

    /// An input of a batch, copied.
    pub fn of(inputs: &dyn Inputs, index: usize) -> Self {
        let layout = inputs.layout(index);
        let mut data = vec![0; layout.bytes()];
        inputs.write(index, &mut data);
        Self { dtype: layout.dtype, shape: layout.shape, data }
    }
}

/// Whole tensors are inputs, too.
impl Inputs for Vec<HostTensor> {
    fn count(&self) -> usize {
        self.len()
    }

    fn layout(&self, index: usize) -> Layout {
        Layout { dtype: self[index].dtype, shape: self[index].shape.clone() }
    }

    fn write(&self, index: usize, into: &mut [u8]) {
        into.copy_from_slice(&self[index].data);
    }
}
