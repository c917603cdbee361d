use std::fmt;

/// Element type of a tensor in host memory, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Dtype {
    Bool,
    U8,
    I8,
    I16,
    I32,
    I64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }

    /// Calls `each` with the index and value of every element of `data`, up to the first `Some`.
    ///
    /// Values come as `f64`, which is exact for all types but INT64 beyond 2^53; half precision is widened.
    pub(crate) fn find<T>(self, data: &[u8], mut each: impl FnMut(usize, f64) -> Option<T>) -> Option<T> {
        macro_rules! scan {
            ($size:literal, $value:expr) => {
                data.as_chunks::<$size>().0.iter().enumerate().find_map(|(i, bytes)| each(i, $value(*bytes)))
            };
        }
        match self {
            Self::Bool | Self::U8 => scan!(1, |b: [u8; 1]| f64::from(b[0])),
            Self::I8 => scan!(1, |b| f64::from(i8::from_le_bytes(b))),
            Self::I16 => scan!(2, |b| f64::from(i16::from_le_bytes(b))),
            Self::I32 => scan!(4, |b| f64::from(i32::from_le_bytes(b))),
            Self::I64 => scan!(8, |b| i64::from_le_bytes(b) as f64),
            Self::F16 => scan!(2, |b| half::f16::from_le_bytes(b).to_f64()),
            Self::Bf16 => scan!(2, |b| half::bf16::from_le_bytes(b).to_f64()),
            Self::F32 => scan!(4, |b| f64::from(f32::from_le_bytes(b))),
            Self::F64 => scan!(8, f64::from_le_bytes),
        }
    }

    /// Appends one element of about this value; out-of-range values saturate.
    pub(crate) fn write(self, value: f64, out: &mut Vec<u8>) {
        match self {
            Self::Bool => out.push(u8::from(value != 0.0)),
            Self::U8 => out.push(value as u8),
            Self::I8 => out.extend((value as i8).to_le_bytes()),
            Self::I16 => out.extend((value as i16).to_le_bytes()),
            Self::I32 => out.extend((value as i32).to_le_bytes()),
            Self::I64 => out.extend((value as i64).to_le_bytes()),
            Self::F16 => out.extend(half::f16::from_f64(value).to_le_bytes()),
            Self::Bf16 => out.extend(half::bf16::from_f64(value).to_le_bytes()),
            Self::F32 => out.extend((value as f32).to_le_bytes()),
            Self::F64 => out.extend(value.to_le_bytes()),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "BOOL",
            Self::U8 => "UINT8",
            Self::I8 => "INT8",
            Self::I16 => "INT16",
            Self::I32 => "INT32",
            Self::I64 => "INT64",
            Self::F16 => "FP16",
            Self::Bf16 => "BF16",
            Self::F32 => "FP32",
            Self::F64 => "FP64",
        })
    }
}
