//! Tensors of the host's as libtorch's, and the other way.

use gristmill_engine::{Dtype, HostTensor, Inputs, Layout, RunError};
use tch::{Kind, TchError, Tensor};

pub(crate) fn kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::Bool => Kind::Bool,
        Dtype::U8 => Kind::Uint8,
        Dtype::I8 => Kind::Int8,
        Dtype::I16 => Kind::Int16,
        Dtype::I32 => Kind::Int,
        Dtype::I64 => Kind::Int64,
        Dtype::F16 => Kind::Half,
        Dtype::Bf16 => Kind::BFloat16,
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
    }
}

fn dtype(kind: Kind) -> Option<Dtype> {
    Some(match kind {
        Kind::Bool => Dtype::Bool,
        Kind::Uint8 => Dtype::U8,
        Kind::Int8 => Dtype::I8,
        Kind::Int16 => Dtype::I16,
        Kind::Int => Dtype::I32,
        Kind::Int64 => Dtype::I64,
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::Bf16,
        Kind::Float => Dtype::F32,
        Kind::Double => Dtype::F64,
        _ => return None,
    })
}

pub(crate) fn shape_of(layout: &Layout) -> Vec<i64> {
    layout.shape.iter().map(|&dim| dim as i64).collect()
}

/// Has an input written into host memory that is nobody else's and has room for it.
pub(crate) fn write(inputs: &dyn Inputs, index: usize, memory: &Tensor) -> Result<(), TchError> {
    let bytes = inputs.layout(index).bytes();
    if let Some(start) = start(memory, bytes)? {
        // SAFETY: contiguous, nobody else's, and of at least so many bytes. They came out of a foreign allocator: whatever is in
        // them, they are bytes.
        #[allow(unsafe_code, reason = "the one way to write into a tensor without another copy")]
        let bytes = unsafe { std::slice::from_raw_parts_mut(start, bytes) };
        inputs.write(index, bytes);
    }
    Ok(())
}

/// Where the elements of a tensor in host memory begin; nothing where there are none.
fn start(tensor: &Tensor, bytes: usize) -> Result<Option<*mut u8>, TchError> {
    let start = tensor.data_ptr().cast::<u8>();
    match (bytes, start.is_null()) {
        (0, _) => Ok(None),
        (_, true) => Err(TchError::Shape(format!("a tensor of {bytes} bytes without memory"))),
        (_, false) => Ok(Some(start)),
    }
}

/// The type of a tensor's elements, if the contract knows it.
pub(crate) fn dtype_of(tensor: &Tensor) -> Result<Dtype, RunError> {
    let kind = tensor.kind();
    dtype(kind).ok_or_else(|| RunError::Failed(format!("the model returned a tensor of {kind:?}")))
}

/// Copies an output out of libtorch's memory, where its elements lie behind each other: its own (a module may have kept it, and
/// write into it again), or that of a buffer.
pub(crate) fn host_tensor(output: &Tensor, dtype: Dtype, memory: &Tensor) -> Result<HostTensor, TchError> {
    let shape: Vec<usize> = output.size().into_iter().map(|dim| dim as usize).collect();
    let bytes = output.numel() * dtype.size();
    let data = match start(memory, bytes)? {
        None => Vec::new(),
        // SAFETY: host memory that has the bytes of the shape from there on, and lives until they are copied.
        #[allow(unsafe_code, reason = "tch copies into memory that has to be cleared first")]
        Some(start) => unsafe { std::slice::from_raw_parts(start, bytes) }.to_vec(),
    };
    Ok(HostTensor { dtype, shape, data })
}
