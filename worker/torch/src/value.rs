//! A batch's inputs into libtorch and what a model gave out of it.

use gristmill_engine::{Dtype, HostTensor, Inputs, OutputSpec, RunError};
use tch::{IValue, Kind, TchError, Tensor};

use crate::place::Place;

fn kind(dtype: Dtype) -> Kind {
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

/// An input of a batch, written into a tensor of libtorch's own in host memory, a new one for each run: a module may keep it, or
/// write into it.
pub(crate) fn written(inputs: &dyn Inputs, index: usize, place: &Place) -> Result<Tensor, TchError> {
    let layout = inputs.layout(index);
    let shape: Vec<i64> = layout.shape.iter().map(|&dim| dim as i64).collect();
    let tensor = place.host_memory(&shape, kind(layout.dtype))?;
    if let Some(start) = start(&tensor, layout.bytes())? {
        // SAFETY: the tensor is new, contiguous and nobody else's, and has the bytes of its shape. They came out of a foreign
        // allocator: whatever is in them, they are bytes.
        #[allow(unsafe_code, reason = "the one way to write into a tensor without another copy")]
        let bytes = unsafe { std::slice::from_raw_parts_mut(start, layout.bytes()) };
        inputs.write(index, bytes);
    }
    Ok(tensor)
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

/// The tensors in what `forward` returned, in the order of the manifest's outputs.
pub(crate) fn outputs(value: IValue, specs: &[OutputSpec]) -> Result<Vec<Tensor>, RunError> {
    match value {
        IValue::Tensor(tensor) => Ok(vec![tensor]),
        IValue::TensorList(tensors) => Ok(tensors),
        IValue::Tuple(values) | IValue::GenericList(values) => values.into_iter().map(tensor).collect(),
        IValue::GenericDict(mut pairs) => specs.iter().map(|spec| take(&mut pairs, &spec.name)).collect(),
        other => Err(RunError::Failed(format!(
            "the model returned {}, not a tensor, tuple or dict of tensors",
            name(&other)
        ))),
    }
}

fn take(pairs: &mut Vec<(IValue, IValue)>, name: &str) -> Result<Tensor, RunError> {
    let is_named = |(key, _): &(IValue, IValue)| matches!(key, IValue::String(key) if key == name);
    match pairs.iter().position(is_named) {
        Some(index) => tensor(pairs.swap_remove(index).1),
        None => Err(RunError::Failed(format!("the model's dict has no key {name:?}, which the manifest names"))),
    }
}

fn tensor(value: IValue) -> Result<Tensor, RunError> {
    match value {
        IValue::Tensor(tensor) => Ok(tensor),
        other => Err(RunError::Failed(format!("the model returned {} where a tensor was expected", name(&other)))),
    }
}

fn name(value: &IValue) -> &'static str {
    match value {
        IValue::None => "None",
        IValue::Double(_) | IValue::Int(_) | IValue::Bool(_) => "a number",
        IValue::String(_) => "a string",
        IValue::Tuple(_) => "a tuple",
        IValue::Object(_) => "an object",
        _ => "something else",
    }
}

/// Copies a contiguous tensor out of libtorch's host memory. A module may have kept it, and write into it again.
pub(crate) fn host_tensor(tensor: &Tensor) -> Result<HostTensor, RunError> {
    let failed = |reason: String| RunError::Failed(reason);
    let kind = tensor.kind();
    let dtype = dtype(kind).ok_or_else(|| failed(format!("the model returned a tensor of {kind:?}")))?;
    let shape: Vec<usize> = tensor.size().into_iter().map(|dim| dim as usize).collect();
    let bytes = tensor.numel() * dtype.size();
    let data = match start(tensor, bytes).map_err(|error| failed(error.to_string()))? {
        None => Vec::new(),
        // SAFETY: a contiguous tensor in host memory has the bytes of its shape from there on, and lives until they are copied.
        #[allow(unsafe_code, reason = "tch copies into memory that has to be cleared first")]
        Some(start) => unsafe { std::slice::from_raw_parts(start, bytes) }.to_vec(),
    };
    Ok(HostTensor { dtype, shape, data })
}
