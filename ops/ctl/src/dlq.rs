use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use clap::Subcommand;
use futures_util::StreamExt;
use gristmill_schemas::{JobBody, Token, dead_letter_header as dead, header};
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::error::Failure;
use crate::table;

/// What to do with dead letters.
#[derive(Subcommand)]
pub enum Command {
    /// List dead letters, oldest first
    #[command(after_help = "Example:\n  gristmill dlq ls --model digits --limit 20")]
    Ls {
        /// Only those of this model
        #[arg(long, value_name = "NAME")]
        model: Option<Token>,

        /// At most this many
        #[arg(long, default_value_t = 100)]
        limit: usize,

        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one dead letter: why, where from, its headers and its body
    #[command(after_help = "Examples:\n  gristmill dlq show 17\n  gristmill dlq show 17 --raw > job.msgpack")]
    Show {
        /// Its number, from `ls`
        sequence: u64,

        /// Write the job's bytes to standard output, nothing else
        #[arg(long, conflicts_with = "json")]
        raw: bool,

        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Longest wait for the next dead letter; the server says how many there are, so this only ends a broken read.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs `gristmill dlq`.
pub async fn run(connection: &Connection, command: Command) -> Result<(), Failure> {
    let context = connection.jetstream().await?;
    let name = connection.namespace.stream("DLQ");
    let stream = context
        .get_stream(&name)
        .await
        .map_err(|error| anyhow::anyhow!("stream {name}: {error} (gristmill setup creates it)"))?;
    match command {
        Command::Ls { model, limit, json } => {
            let subject = match &model {
                Some(model) => connection.namespace.dlq_subject(model),
                None => connection.namespace.all_subjects("dlq"),
            };
            let letters = list(&stream, subject, limit).await?;
            Ok(show_list(&letters, json)?)
        }
        Command::Show { sequence, raw, json } => show(&stream, sequence, raw, json).await,
    }
}

/// One dead letter, as far as the list shows it.
struct Letter {
    sequence: u64,
    headers: HeaderMap,
    bytes: usize,
}

impl Letter {
    fn get(&self, name: &'static str) -> String {
        self.headers.get(name).map(|value| value.to_string()).unwrap_or_default()
    }
}

async fn list(stream: &Stream, filter_subject: String, limit: usize) -> anyhow::Result<Vec<Letter>> {
    let config = OrderedConfig { filter_subject, ..OrderedConfig::default() };
    let mut consumer = stream.create_consumer(config).await?;
    let waiting = consumer.info().await?.num_pending as usize;
    let mut messages = consumer.messages().await?;
    let mut letters = Vec::new();
    while letters.len() < waiting.min(limit) {
        let Some(message) = tokio::time::timeout(PATIENCE, messages.next()).await? else { break };
        let message = message?;
        let sequence = message.info().map_err(|error| anyhow::anyhow!(error))?.stream_sequence;
        let headers = message.headers.clone().unwrap_or_default();
        letters.push(Letter { sequence, headers, bytes: message.payload.len() });
    }
    Ok(letters)
}

fn show_list(letters: &[Letter], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let rows = letters.iter().map(|letter| {
            json!({
                "sequence": letter.sequence,
                "at": letter.get(dead::AT),
                "model": letter.get(dead::MODEL),
                "code": letter.get(dead::CODE),
                "error": letter.get(dead::ERROR),
                "deliveries": letter.get(dead::DELIVERIES),
                "job_id": letter.get(header::JOB_ID),
                "bytes": letter.bytes,
            })
        });
        return table::json(&rows.collect::<Vec<_>>());
    }
    let rows: Vec<_> = letters
        .iter()
        .map(|letter| {
            let at = letter.get(dead::AT).chars().take(19).collect();
            let error = letter.get(dead::ERROR).chars().take(80).collect();
            [letter.sequence.to_string(), at, letter.get(dead::MODEL), letter.get(dead::CODE), error]
        })
        .collect();
    Ok(table::print(["NUMBER", "AT (UTC)", "MODEL", "CODE", "ERROR"], &rows)?)
}

async fn show(stream: &Stream, sequence: u64, raw: bool, as_json: bool) -> Result<(), Failure> {
    let found = stream.get_raw_message(sequence).await.map_err(|error| match error.kind() {
        LastRawMessageErrorKind::NoMessageFound => anyhow::anyhow!("there is no dead letter {sequence}"),
        _ => anyhow::anyhow!("dead letter {sequence}: {error}"),
    })?;
    if raw {
        std::io::Write::write_all(&mut std::io::stdout().lock(), &found.payload)?;
        return Ok(());
    }
    let mut headers: Vec<(String, String)> = found
        .headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.to_string())))
        .collect();
    headers.sort();
    let body = describe(&found.payload);
    if as_json {
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
