//! Host tensors into libtorch and what a model gave out of it.

use gristmill_engine::{Dtype, HostTensor, OutputSpec, RunError};
use tch::{Device, IValue, Kind, TchError, Tensor};

use crate::failure::run_error;

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

/// A host tensor as libtorch's own. Copies: a module may keep its input, or write into it, and a borrowed buffer would be
/// read after it was freed.
pub(crate) fn to_device(host: &HostTensor, device: Device) -> Result<IValue, TchError> {
    let shape: Vec<i64> = host.shape.iter().map(|&dim| dim as i64).collect();
    if host.data.len() != host.shape.iter().product::<usize>() * host.dtype.size() {
        return Err(TchError::Shape(format!("{} bytes for a tensor of shape {shape:?}", host.data.len())));
    }
    // Not by `from_data_size`, which clears first what it then overwrites.
    let mut own = Tensor::f_empty(&shape, (kind(host.dtype), device))?;
    // SAFETY: the buffer has the bytes of the shape, as checked, and outlives the view, which is only read, once.
    #[allow(unsafe_code, reason = "the one way to look at foreign memory")]
    let view =
        unsafe { Tensor::f_from_blob(host.data.as_ptr(), &shape, &strides(&shape), kind(host.dtype), Device::Cpu)? };
    own.f_copy_(&view)?;
    Ok(IValue::Tensor(own))
}

/// Of a contiguous tensor, in elements.
fn strides(shape: &[i64]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for dim in (1..shape.len()).rev() {
        strides[dim - 1] = strides[dim] * shape[dim];
    }
    strides
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

/// Copies a tensor to the host.
pub(crate) fn to_host(tensor: Tensor, device: Device) -> Result<HostTensor, RunError> {
    let kind = tensor.kind();
    let dtype = dtype(kind).ok_or_else(|| RunError::Failed(format!("the model returned a tensor of {kind:?}")))?;
    let shape: Vec<usize> = tensor.size().into_iter().map(|dim| dim as usize).collect();
    let copy = || {
        let tensor = tensor.f_to_device(Device::Cpu)?.f_contiguous()?;
        let mut data = vec![0; tensor.numel() * dtype.size()];
        tensor.f_copy_data_u8(&mut data, tensor.numel())?;
        Ok(data)
    };
    let data = copy().map_err(|error: TchError| run_error(&error, device))?;
    Ok(HostTensor { dtype, shape, data })
}
