use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};

use crate::error::{ErrorCode, InvalidJob};
use crate::job::{encode, read};
use crate::limits::MAX_TENSORS;
use crate::tensor::{Bounded, RawTensor, Tensor, value};

/// The body of a result with status `ok`: one row of every output for each row of the job, in the job's order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResultBody<'a> {
    /// The job's id.
    pub id: &'a str,
    /// Model that answered.
    pub model_name: &'a str,
    /// Its version.
    pub model_version: &'a str,
    /// The outputs, those the job asked for or all.
    pub outputs: Vec<Tensor<'a>>,
    /// Where the time went.
    pub parameters: Parameters,
}

/// Timings of one job, in microseconds, and the batch it ran in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, DeriveDeserialize)]
#[serde(default)]
pub struct Parameters {
    /// Rows of the batch, all jobs together.
    pub batch_rows: u64,
    /// Jobs in the batch.
    pub batch_jobs: u64,
    /// From stored by the server to received by the worker. Spans two clocks, clamped at 0.
    pub stream_us: u64,
    /// From received to the batch being sealed.
    pub queue_us: u64,
    /// Stacking, the forward pass and splitting.
    pub infer_us: u64,
}

/// The body of a result with status `error`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorBody<'a> {
    /// The job's id.
    pub id: &'a str,
    /// Model the job was for.
    pub model_name: &'a str,
    /// Why.
    pub code: ErrorCode,
    /// Why, in words: the thing, the value and the limit.
    pub message: &'a str,
}

/// Either kind of result body, as a reader finds it.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply<'a> {
    /// Status `ok`.
    Ok(ResultBody<'a>),
    /// Status `error`.
    Error(ErrorBody<'a>),
}

/// A body that is no result of the contract.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("result body: {0}")]
pub struct InvalidResult(#[from] InvalidJob);

impl ResultBody<'_> {
    /// Writes the body.
    pub fn encode(&self) -> Vec<u8> {
        let bytes: usize = self.outputs.iter().map(|output| output.data.len() + 96).sum();
        encode(self, 256 + bytes)
    }
}

impl ErrorBody<'_> {
    /// Writes the body.
    pub fn encode(&self) -> Vec<u8> {
        encode(self, 256 + self.message.len())
    }
}

impl Serialize for ErrorBody<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            id: &'a str,
            model_name: &'a str,
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            code: ErrorCode,
            message: &'a str,
            retryable: bool,
        }
        let error = Inner { code: self.code, message: self.message, retryable: self.code.retryable() };
        Body { id: self.id, model_name: self.model_name, error }.serialize(serializer)
    }
}

impl<'a> Reply<'a> {
    /// Reads a result body of either kind.
    pub fn decode(payload: &'a [u8]) -> Result<Self, InvalidResult> {
        let raw: RawReply<'a> = read(payload)?;
        let (id, model_name) = (raw.id, raw.model_name);
        if let Some(error) = raw.error {
            return Ok(Self::Error(ErrorBody { id, model_name, code: error.code, message: error.message }));
        }
        let outputs = raw.outputs.map_or_else(Vec::new, |outputs| outputs.0);
        let outputs = outputs.into_iter().enumerate().map(|(index, raw)| raw.check(index)).collect::<Result<_, _>>()?;
        let (model_version, parameters) = (raw.model_version, raw.parameters);
        Ok(Self::Ok(ResultBody { id, model_name, model_version, outputs, parameters }))
    }
}

#[derive(DeriveDeserialize)]
struct RawError<'a> {
    code: ErrorCode,
    message: &'a str,
}

#[derive(Default)]
struct RawReply<'a> {
    id: &'a str,
    model_name: &'a str,
    model_version: &'a str,
    outputs: Option<Bounded<RawTensor<'a>, MAX_TENSORS>>,
    parameters: Parameters,
    error: Option<RawError<'a>>,
}

impl<'de> Deserialize<'de> for RawReply<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = RawReply<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a result map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut reply = RawReply::default();
                while let Some(key) = map.next_key::<&str>()? {
                    match key {
                        "id" => reply.id = value(&mut map, "id")?,
                        "model_name" => reply.model_name = value(&mut map, "model_name")?,
                        "model_version" => reply.model_version = value(&mut map, "model_version")?,
                        "outputs" => reply.outputs = Some(value(&mut map, "outputs")?),
                        "parameters" => reply.parameters = value(&mut map, "parameters")?,
                        "error" => reply.error = Some(value(&mut map, "error")?),
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(reply)
            }
        }
        deserializer.deserialize_any(Keys)
    }
}
