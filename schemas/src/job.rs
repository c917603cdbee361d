use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::error::InvalidJob;
use crate::limits::{MAX_DEPTH, MAX_ID_BYTES, MAX_TENSORS};
use crate::tensor::{Bounded, RawTensor, Tensor, value};

/// The body of a job: `{"id"?, "inputs", "outputs"?, "parameters"?}`. Borrows its tensors from the payload.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobBody<'a> {
    /// The sender's label, if it is not in a header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    /// At least one, each with the same number of rows.
    pub inputs: Vec<Tensor<'a>>,
    /// Names of the outputs wanted, in the order wanted; `None` for all of them.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_named_maps")]
    pub outputs: Option<Vec<&'a str>>,
}

impl<'a> JobBody<'a> {
    /// Reads an untrusted payload of at most `max_bytes`.
    ///
    /// Checks all that can be checked without knowing the model: syntax, nesting, counts, and that name, datatype,
    /// shape and byte length of every input agree. Unknown keys are ignored. The bytes of `bin` data are not copied.
    pub fn decode(payload: &'a [u8], max_bytes: usize) -> Result<Self, InvalidJob> {
        let bytes = payload.len();
        if bytes > max_bytes {
            return Err(InvalidJob::BodyTooLarge { bytes, limit: max_bytes });
        }
        let raw: RawJob<'a> = read(payload)?;
        if let Some(id) = raw.id {
            check_id(id)?;
        }
        let inputs = raw.inputs.map_or_else(Vec::new, |inputs| inputs.0);
        let mut checked: Vec<Tensor<'a>> = Vec::with_capacity(inputs.len());
        for (index, input) in inputs.into_iter().enumerate() {
            let input = input.check(index)?;
            check_against(&checked, &input)?;
            checked.push(input);
        }
        if checked.is_empty() {
            return Err(InvalidJob::NoInputs);
        }
        let outputs = raw.outputs.map(|outputs| outputs.0.into_iter().map(|output| output.name).collect::<Vec<_>>());
        check_outputs(outputs.as_deref().unwrap_or_default())?;
        Ok(Self { id: raw.id, inputs: checked, outputs })
    }

    /// Writes the body. Keys stand in the order of the contract, numbers in their shortest form.
    pub fn encode(&self) -> Vec<u8> {
        let bytes: usize = self.inputs.iter().map(|input| input.data.len() + 96).sum();
        encode(self, 64 + bytes)
    }

    /// Rows of this job, the first dimension of every input.
    pub fn rows(&self) -> usize {
        self.inputs.first().map_or(0, |input| input.shape[0])
    }
}

/// Asked for twice, an output would be copied twice: a small job could ask for a large result.
fn check_outputs(names: &[&str]) -> Result<(), InvalidJob> {
    let twice = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name));
    twice.map_or(Ok(()), |(_, name)| Err(InvalidJob::DuplicateOutput { name: (*name).into() }))
}

fn check_id(id: &str) -> Result<(), InvalidJob> {
    if id.is_empty() {
        return Err(InvalidJob::IdEmpty);
    }
    if id.len() > MAX_ID_BYTES {
        return Err(InvalidJob::IdTooLong { bytes: id.len() });
    }
    if id.chars().any(char::is_control) {
        return Err(InvalidJob::IdControl);
    }
    Ok(())
}

fn check_against(earlier: &[Tensor<'_>], input: &Tensor<'_>) -> Result<(), InvalidJob> {
    if earlier.iter().any(|other| other.name == input.name) {
        return Err(InvalidJob::DuplicateInput { name: input.name.into() });
    }
    match earlier.first() {
        Some(first) if first.shape[0] != input.shape[0] => Err(InvalidJob::RowsDiffer {
            name: input.name.into(),
            rows: input.shape[0],
            first: first.name.into(),
            first_rows: first.shape[0],
        }),
        _ => Ok(()),
    }
}

/// Reads one value and nothing behind it.
pub(crate) fn read<'de, T: Deserialize<'de>>(payload: &'de [u8]) -> Result<T, InvalidJob> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(payload);
    deserializer.set_max_depth(MAX_DEPTH);
    let value = T::deserialize(&mut deserializer).map_err(|error| InvalidJob::Syntax(explain(error)))?;
    // A further read of any kind must find no marker; the reader does not tell its position.
    match bool::deserialize(&mut deserializer) {
        Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(value),
        _ => Err(InvalidJob::TrailingBytes),
    }
}

fn explain(error: rmp_serde::decode::Error) -> String {
    use rmp_serde::decode::Error;
    match error {
        Error::DepthLimitExceeded => format!("nested deeper than {MAX_DEPTH} levels"),
        Error::InvalidMarkerRead(_) | Error::InvalidDataRead(_) => "it is cut off".into(),
        // Text of the sender's choice may be in here.
        other => other.to_string().chars().take(300).collect(),
    }
}

/// Writes `value` as MessagePack with string keys into a buffer of about `bytes`.
pub(crate) fn encode(value: &impl Serialize, bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes);
    value
        .serialize(&mut rmp_serde::Serializer::new(&mut out).with_struct_map())
        .expect("writing to memory does not fail, and every map here has a known length");
    out
}

fn as_named_maps<S: serde::Serializer>(names: &Option<Vec<&str>>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(names.iter().flatten().map(|&name| Named { name }))
}

#[derive(Serialize, serde::Deserialize)]
struct Named<'a> {
    name: &'a str,
}

#[derive(Default)]
struct RawJob<'a> {
    id: Option<&'a str>,
    inputs: Option<Bounded<RawTensor<'a>, MAX_TENSORS>>,
    outputs: Option<Bounded<Named<'a>, MAX_TENSORS>>,
}

impl<'de> Deserialize<'de> for RawJob<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = RawJob<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map with \"inputs\"")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut job = RawJob::default();
                while let Some(key) = map.next_key::<&str>()? {
                    match key {
                        "id" => job.id = value(&mut map, "id")?,
                        "inputs" => job.inputs = Some(value(&mut map, "inputs")?),
                        "outputs" => job.outputs = value(&mut map, "outputs")?,
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(job)
            }
        }
        // `deserialize_map` would take an array of key-value pairs as well; the contract wants a map.
        deserializer.deserialize_any(Keys)
    }
}
