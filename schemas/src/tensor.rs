//! One named tensor: how it is written, and the way from untrusted bytes to a checked one.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use half::{bf16, f16};
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::datatype::Datatype;
use crate::error::InvalidJob;
use crate::limits::{MAX_ARRAY_ELEMENTS, MAX_NAME_BYTES, MAX_RANK};
use crate::shape::Shape;

/// A named tensor whose data is row-major and little-endian, and whose parts agree with each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor<'a> {
    /// Name in the model's signature.
    pub name: &'a str,
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions, rows first.
    pub shape: Shape,
    /// Borrowed from the body where it came as `bin`, owned where it came as an array.
    pub data: Cow<'a, [u8]>,
}

impl Serialize for Tensor<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_struct("Tensor", 4)?;
        map.serialize_field("name", self.name)?;
        map.serialize_field("datatype", &self.datatype)?;
        map.serialize_field("shape", &*self.shape)?;
        map.serialize_field("data", &Bin(&self.data))?;
        map.end()
    }
}

/// Bytes that serde writes as MessagePack `bin`, not as an array of numbers.
struct Bin<'a>(&'a [u8]);

impl Serialize for Bin<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// A tensor as it stands in the body: every key optional, nothing agreed yet.
#[derive(Default)]
pub(crate) struct RawTensor<'a> {
    name: Option<&'a str>,
    datatype: Option<&'a str>,
    shape: Option<Bounded<i64, 64>>,
    data: Option<RawData<'a>>,
}

enum RawData<'a> {
    Bin(&'a [u8]),
    Array(Bounded<Scalar<'a>, MAX_ARRAY_ELEMENTS>),
}

enum Scalar<'a> {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bytes(&'a [u8]),
}

impl<'a> RawTensor<'a> {
    /// Checks everything that can be checked without knowing the model.
    pub(crate) fn check(self, index: usize) -> Result<Tensor<'a>, InvalidJob> {
        let missing = |key| InvalidJob::MissingKey { index, key };
        let name = self.name.ok_or(missing("name"))?;
        if name.len() > MAX_NAME_BYTES {
            return Err(InvalidJob::NameTooLong { bytes: name.len() });
        }
        let datatype = self.datatype.ok_or(missing("datatype"))?;
        let datatype: Datatype = datatype.parse().map_err(|()| InvalidJob::UnknownDatatype {
            name: name.into(),
            datatype: datatype.chars().take(40).collect(),
        })?;
        let (shape, elements) = check_shape(name, self.shape.ok_or(missing("shape"))?.0)?;
        let data = self.data.ok_or(missing("data"))?.check(name, datatype, &shape, elements)?;
        Ok(Tensor { name, datatype, shape, data })
    }
}

fn check_shape(name: &str, dims: Vec<i64>) -> Result<(Shape, usize), InvalidJob> {
    let named = || name.to_owned();
    if dims.len() > MAX_RANK {
        return Err(InvalidJob::RankTooHigh { name: named(), rank: dims.len() });
    }
    let mut sizes = [0usize; MAX_RANK];
    for (index, &dim) in dims.iter().enumerate() {
        let Ok(size) = usize::try_from(dim) else {
            return Err(InvalidJob::NegativeDimension { name: named(), index, shape: dims });
        };
        sizes[index] = size;
    }
    match sizes[..dims.len()] {
        [] => return Err(InvalidJob::NoRowDimension { name: named() }),
        [0, ..] => return Err(InvalidJob::ZeroRows { name: named(), shape: dims }),
        _ => {}
    }
    let shape = Shape::try_new(&sizes[..dims.len()]).expect("the rank was checked above");
    match shape.elements() {
        Some(elements) => Ok((shape, elements)),
        None => Err(InvalidJob::ShapeOverflow { name: named(), shape: dims }),
    }
}

impl<'a> RawData<'a> {
    fn check(
        self,
        name: &str,
        datatype: Datatype,
        shape: &Shape,
        elements: usize,
    ) -> Result<Cow<'a, [u8]>, InvalidJob> {
        match (self, datatype.size()) {
            (Self::Bin(bytes), None) => check_bytes_elements(name, bytes, elements).map(Cow::Borrowed),
            (Self::Bin(bytes), Some(size)) if elements.checked_mul(size) == Some(bytes.len()) => Ok(bytes.into()),
            (Self::Bin(bytes), Some(size)) => Err(InvalidJob::ByteLength {
                name: name.into(),
                elements,
                datatype,
                need: elements.saturating_mul(size),
                got: bytes.len(),
            }),
            (Self::Array(Bounded(values)), _) if values.len() != elements => Err(InvalidJob::ElementCount {
                name: name.into(),
                shape: shape.iter().map(|&dim| dim as i64).collect(),
                need: elements,
                got: values.len(),
            }),
            (Self::Array(Bounded(values)), _) => encode_elements(name, datatype, &values).map(Cow::Owned),
        }
    }
}

/// BYTES as `bin`: each element is a 4-byte little-endian length and that many bytes, as in the protocol's binary data.
fn check_bytes_elements<'a>(name: &str, bytes: &'a [u8], need: usize) -> Result<&'a [u8], InvalidJob> {
    let mut rest = bytes;
    for index in 0..need {
        let element = rest
            .split_first_chunk()
            .and_then(|(length, after)| after.get(usize::try_from(u32::from_le_bytes(*length)).ok()?..));
        rest = element.ok_or_else(|| InvalidJob::BytesTruncated { name: name.into(), index, need })?;
    }
    if !rest.is_empty() {
        let (datatype, got) = (Datatype::Bytes, bytes.len());
        return Err(InvalidJob::ByteLength {
            name: name.into(),
            elements: need,
            datatype,
            need: got - rest.len(),
            got,
        });
    }
    Ok(bytes)
}

fn encode_elements(name: &str, datatype: Datatype, values: &[Scalar<'_>]) -> Result<Vec<u8>, InvalidJob> {
    let mut out = Vec::with_capacity(values.len() * datatype.size().unwrap_or(16));
    for (index, value) in values.iter().enumerate() {
        value.write(datatype, &mut out).ok_or_else(|| InvalidJob::Element {
            name: name.into(),
            index,
            value: value.to_string(),
            datatype,
        })?;
    }
    Ok(out)
}

impl Scalar<'_> {
    /// Appends the value as one element; `None` if it is none of that datatype.
    fn write(&self, datatype: Datatype, out: &mut Vec<u8>) -> Option<()> {
        match datatype {
            Datatype::Bool => out.push(u8::from(self.boolean()?)),
            Datatype::Uint8 => out.push(u8::try_from(self.integer()?).ok()?),
            Datatype::Int8 => out.extend(i8::try_from(self.integer()?).ok()?.to_le_bytes()),
            Datatype::Int16 => out.extend(i16::try_from(self.integer()?).ok()?.to_le_bytes()),
            Datatype::Int32 => out.extend(i32::try_from(self.integer()?).ok()?.to_le_bytes()),
            Datatype::Int64 => out.extend(self.integer()?.to_le_bytes()),
            Datatype::Fp16 => out.extend(f16::from_f64(self.float()?).to_le_bytes()),
            Datatype::Bf16 => out.extend(bf16::from_f64(self.float()?).to_le_bytes()),
            Datatype::Fp32 => out.extend((self.float()? as f32).to_le_bytes()),
            Datatype::Fp64 => out.extend(self.float()?.to_le_bytes()),
            Datatype::Bytes => {
                let Self::Bytes(bytes) = self else { return None };
                out.extend(u32::try_from(bytes.len()).ok()?.to_le_bytes());
                out.extend_from_slice(bytes);
            }
        }
        Some(())
    }

    fn boolean(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            Self::Unsigned(value @ 0..=1) => Some(value == 1),
            _ => None,
        }
    }

    fn integer(&self) -> Option<i64> {
        match *self {
            Self::Unsigned(value) => i64::try_from(value).ok(),
            Self::Signed(value) => Some(value),
            _ => None,
        }
    }

    fn float(&self) -> Option<f64> {
        match *self {
            Self::Unsigned(value) => Some(value as f64),
            Self::Signed(value) => Some(value as f64),
            Self::Float(value) => Some(value),
            _ => None,
        }
    }
}

impl fmt::Display for Scalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Unsigned(value) => value.fmt(f),
            Self::Signed(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Bytes(bytes) => write!(f, "a string of {} bytes", bytes.len()),
        }
    }
}

impl<'de> Deserialize<'de> for RawTensor<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = RawTensor<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a tensor map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut tensor = RawTensor::default();
                while let Some(key) = map.next_key::<&str>()? {
                    match key {
                        "name" => tensor.name = Some(value(&mut map, "name")?),
                        "datatype" => tensor.datatype = Some(value(&mut map, "datatype")?),
                        "shape" => tensor.shape = Some(value(&mut map, "shape")?),
                        "data" => tensor.data = Some(value(&mut map, "data")?),
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(tensor)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// The value of `key`, with the key named in any error.
pub(crate) fn value<'de, T: Deserialize<'de>, A: MapAccess<'de>>(map: &mut A, key: &str) -> Result<T, A::Error> {
    map.next_value().map_err(|error| de::Error::custom(format!("\"{key}\": {error}")))
}

/// At most `N` elements. The announced length of an array is the sender's word, so the limit is checked while reading.
pub(crate) struct Bounded<T, const N: usize>(pub(crate) Vec<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Bounded<T, N> {
    fn read<A: SeqAccess<'de>>(mut seq: A) -> Result<Self, A::Error> {
        let mut values = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(N).min(4096));
        while let Some(value) = seq.next_element()? {
            if values.len() == N {
                return Err(de::Error::custom(format!("more than {N} elements")));
            }
            values.push(value);
        }
        Ok(Self(values))
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for Bounded<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T, const N: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Elements<T, N> {
            type Value = Bounded<T, N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an array of at most {N} elements")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                Bounded::read(seq)
            }
        }
        deserializer.deserialize_seq(Elements(PhantomData))
    }
}

impl<'de> Deserialize<'de> for RawData<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BinOrArray;
        impl<'de> Visitor<'de> for BinOrArray {
            type Value = RawData<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bin or a flat array")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(RawData::Bin(bytes))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                Bounded::read(seq).map(RawData::Array)
            }
        }
        deserializer.deserialize_any(BinOrArray)
    }
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Element;
        impl<'de> Visitor<'de> for Element {
            type Value = Scalar<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, a boolean or a string (arrays are flat and row-major)")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
                Ok(Scalar::Bool(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
                Ok(Scalar::Unsigned(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
                Ok(Scalar::Signed(value))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
                Ok(Scalar::Float(value))
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Scalar::Bytes(text.as_bytes()))
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Scalar::Bytes(bytes))
            }
        }
        deserializer.deserialize_any(Element)
    }
}
