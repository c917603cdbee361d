//! The one place where datatypes on the wire and in host memory meet.

use gristmill_engine::Dtype;
use gristmill_schemas::Datatype;

const PAIRS: [(Datatype, Dtype); 10] = [
    (Datatype::Bool, Dtype::Bool),
    (Datatype::Uint8, Dtype::U8),
    (Datatype::Int8, Dtype::I8),
    (Datatype::Int16, Dtype::I16),
    (Datatype::Int32, Dtype::I32),
    (Datatype::Int64, Dtype::I64),
    (Datatype::Fp16, Dtype::F16),
    (Datatype::Bf16, Dtype::Bf16),
    (Datatype::Fp32, Dtype::F32),
    (Datatype::Fp64, Dtype::F64),
];

/// The host type of a datatype on the wire; `None` for BYTES, which libtorch has no tensors of.
pub fn host(datatype: Datatype) -> Option<Dtype> {
    PAIRS.iter().find(|(wire, _)| *wire == datatype).map(|(_, host)| *host)
}

/// The datatype on the wire of a host type.
pub fn wire(dtype: Dtype) -> Datatype {
    let pair = PAIRS.iter().find(|(_, host)| *host == dtype);
    pair.map(|(wire, _)| *wire).expect("the table above has every host type")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datatype_but_bytes_has_a_host_type_of_its_size() {
        for datatype in Datatype::ALL {
            match host(datatype) {
                Some(dtype) => assert_eq!((wire(dtype), Some(dtype.size())), (datatype, datatype.size())),
                None => assert_eq!(datatype, Datatype::Bytes),
            }
        }
    }
}
