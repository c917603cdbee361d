use arrow::datatypes::DataType;
use gristmill_schemas::Datatype;

/// The type of Arrow that has the same elements; Arrow has no BF16, and BYTES are no numbers.
pub(crate) fn same(datatype: Datatype) -> Option<DataType> {
    Some(match datatype {
        Datatype::Bool => DataType::Boolean,
        Datatype::Uint8 => DataType::UInt8,
        Datatype::Int8 => DataType::Int8,
        Datatype::Int16 => DataType::Int16,
        Datatype::Int32 => DataType::Int32,
        Datatype::Int64 => DataType::Int64,
        Datatype::Fp16 => DataType::Float16,
        Datatype::Fp32 => DataType::Float32,
        Datatype::Fp64 => DataType::Float64,
        Datatype::Bf16 | Datatype::Bytes => return None,
    })
}
