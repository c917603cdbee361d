//! Answers for people and for scripts.

use async_nats::HeaderMap;
use gristmill_schemas::{Datatype, Reply, Tensor, header};
use serde_json::{Value, json};

use crate::table;

/// Values shown of one output.
const SHOWN: usize = 20;

/// For people.
pub(super) fn text(reply: &Reply<'_>, headers: Option<&HeaderMap>) -> std::io::Result<()> {
    let Reply::Ok(result) = reply else { return Ok(()) };
    for output in &result.outputs {
        let values = values(output);
        let mut shown: Vec<String> = values.iter().take(SHOWN).map(Value::to_string).collect();
        if values.len() > SHOWN {
            shown.push(format!("... {} more", values.len() - SHOWN));
        }
        table::line(format!("{} {} {:?}: {}", output.name, output.datatype, output.shape, shown.join(" ")))?;
    }
    let p = result.parameters;
    table::line(format!("model {} version {} {}", result.model_name, result.model_version, digest(headers)))?;
    table::line(format!(
        "in stream {} us, in queue {} us, on device {} us, in a batch of {} rows",
        p.stream_us, p.queue_us, p.infer_us, p.batch_rows
    ))
}

/// For scripts.
pub(super) fn json(reply: &Reply<'_>, headers: Option<&HeaderMap>) -> Value {
    match reply {
        Reply::Ok(result) => {
            let outputs = result.outputs.iter().map(|output| {
                json!({ "name": output.name, "datatype": output.datatype, "shape": &*output.shape, "data": values(output) })
            });
            json!({
                "id": result.id,
                "model_name": result.model_name,
                "model_version": result.model_version,
                "model_digest": digest(headers),
                "outputs": outputs.collect::<Vec<_>>(),
                "parameters": result.parameters,
            })
        }
        Reply::Error(error) => json!({ "id": error.id, "model_name": error.model_name, "error": {
            "code": error.code, "message": error.message, "retryable": error.code.retryable() } }),
    }
}

fn digest(headers: Option<&HeaderMap>) -> String {
    let value = headers.and_then(|headers| headers.get(header::MODEL_DIGEST));
    value.map(ToString::to_string).unwrap_or_default()
}

fn values(tensor: &Tensor<'_>) -> Vec<Value> {
    macro_rules! each {
        ($size:literal, $value:expr) => {
            tensor.data.as_chunks::<$size>().0.iter().map(|bytes| Value::from($value(*bytes))).collect()
        };
    }
    match tensor.datatype {
        Datatype::Bool => each!(1, |b: [u8; 1]| b[0] != 0),
        Datatype::Uint8 => each!(1, u8::from_le_bytes),
        Datatype::Int8 => each!(1, i8::from_le_bytes),
        Datatype::Int16 => each!(2, i16::from_le_bytes),
        Datatype::Int32 => each!(4, i32::from_le_bytes),
        Datatype::Int64 => each!(8, i64::from_le_bytes),
        Datatype::Fp16 => each!(2, |b| shortest(half::f16::from_le_bytes(b).to_f32())),
        Datatype::Bf16 => each!(2, |b| shortest(half::bf16::from_le_bytes(b).to_f32())),
        Datatype::Fp32 => each!(4, |b| shortest(f32::from_le_bytes(b))),
        Datatype::Fp64 => each!(8, f64::from_le_bytes),
        // Models have no outputs of BYTES.
        Datatype::Bytes => Vec::new(),
    }
}

/// The shortest decimal that reads as this number again: `0.1`, where widening alone would show `0.10000000149011612`.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
