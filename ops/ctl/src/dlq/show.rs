use std::io::Write;

use anyhow::Context as _;
use async_nats::jetstream::stream::Stream;
use gristmill_schemas::JobBody;
use serde_json::{Value, json};

use super::letter;
use crate::error::Failure;
use crate::table;

/// Shows one dead letter: why, where from, its headers and its body.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  gristmill dlq show 17\n  gristmill dlq show 17 --raw > job.msgpack")]
pub struct Args {
    /// Its number, from `ls`
    sequence: u64,

    /// Write the job's bytes to standard output, nothing else
    #[arg(long, conflicts_with = "json")]
    raw: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(stream: &Stream, Args { sequence, raw, json }: Args) -> Result<(), Failure> {
    let found = letter::read(stream, sequence).await?;
    let found = found.with_context(|| format!("there is no dead letter {sequence}"))?;
    if raw {
        std::io::stdout().lock().write_all(&found.payload)?;
        return Ok(());
    }
    let mut headers: Vec<(String, String)> = found
        .headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.to_string())))
        .collect();
    headers.sort();
    let body = describe(&found.payload);
    if json {
        let headers: serde_json::Map<String, Value> = headers.into_iter().map(|(k, v)| (k, v.into())).collect();
        return Ok(table::json(&json!({ "sequence": sequence, "headers": headers, "body": body }))?);
    }
    for (name, value) in headers {
        table::line(format!("{name}: {value}"))?;
    }
    table::line(format!("\n{} bytes; {body}", found.payload.len()))?;
    Ok(())
}

/// A body in words: its inputs, or what is wrong with it.
fn describe(payload: &[u8]) -> String {
    match JobBody::decode(payload, usize::MAX) {
        Ok(job) => {
            let inputs = job.inputs.iter().map(|i| format!("{} {} {:?}", i.name, i.datatype, i.shape));
            format!("inputs: {}", inputs.collect::<Vec<_>>().join(", "))
        }
        Err(error) => error.to_string(),
    }
}
