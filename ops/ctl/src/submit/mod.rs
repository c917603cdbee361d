//! `gristmill submit`: one job from JSON, .npy or raw bytes, and its answer.

mod input;
mod print;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use async_nats::header::HeaderValue;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::{HeaderMap, Message};
use futures_util::StreamExt;
use gristmill_schemas::metric::attribute;
use gristmill_schemas::{JobBody, Lane, Reply, Token, header};
use gristmill_telemetry::KeyValue;

use crate::connection::Connection;
use crate::error::Failure;
use crate::table;
use crate::trace::Tracer;

/// Submits one job and waits for its answer. Its span goes to a collector where the `OTEL_*` variables name one.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    gristmill submit mlp --json '{\"x\": [[0.1, 0.2]]}' --datatype x=FP32\n  \
    gristmill submit digits --npy image=seven.npy --output digit\n  \
    gristmill submit digits --raw job.msgpack")]
pub struct Args {
    /// Model
    model: Token,

    #[command(flatten)]
    inputs: Inputs,

    /// online or bulk
    #[arg(long, default_value = "online")]
    lane: Lane,

    /// Pin a model version
    #[arg(long)]
    version: Option<Token>,

    /// Seconds to wait; the job expires then, too
    #[arg(long, default_value_t = 30.0)]
    timeout: f64,

    /// Do not wait for the answer
    #[arg(long)]
    no_wait: bool,

    /// Print the answer as JSON
    #[arg(long = "json-output")]
    json_output: bool,
}

/// A job's inputs, and which outputs it wants.
#[derive(clap::Args)]
pub struct Inputs {
    /// Inputs as a JSON object: name to nested array; numbers become FP32 or INT64 unless --datatype says otherwise
    #[arg(long, value_name = "JSON|@FILE", conflicts_with_all = ["npy", "raw"])]
    json: Option<String>,

    /// Input from a NumPy file; may be repeated
    #[arg(long, value_name = "NAME=FILE", conflicts_with = "raw")]
    npy: Vec<String>,

    /// The job's body as it is, `-` for standard input
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,

    /// Datatype of a JSON input; may be repeated
    #[arg(long, value_name = "NAME=TYPE")]
    datatype: Vec<String>,

    /// Only this output; may be repeated
    #[arg(long, value_name = "NAME")]
    output: Vec<String>,
}

impl Inputs {
    /// The job's body.
    pub fn body(&self) -> anyhow::Result<Vec<u8>> {
        input::body(self)
    }
}

/// Runs `gristmill submit`.
pub async fn run(connection: &Connection, args: Args) -> Result<(), Failure> {
    if !(0.001..=604_800.0).contains(&args.timeout) {
        return Err(Failure::with(
            2,
            anyhow::anyhow!("--timeout is {}, 0.001 to 604800 seconds are allowed", args.timeout),
        ));
    }
    let body = args.inputs.body().map_err(|error| Failure::with(2, error))?;
    let tracer = Tracer::start().await.map_err(|error| Failure::with(2, error))?;
    let done = ask(connection, args, body, &tracer).await;
    tracer.end().await;
    done
}

async fn ask(connection: &Connection, args: Args, body: Vec<u8>, tracer: &Tracer) -> Result<(), Failure> {
    let client = connection.client().await?;
    let (id, reply) = (format!("cli-{:016x}", fastrand::u64(..)), format!("cli-{:016x}", fastrand::u64(..)));
    let reply: Token = reply.parse()?;
    let subject = connection.namespace.result_subject(&args.model, &reply);
    let mut answers = client.subscribe(subject).await?;
    // The server has the subscription before the job is out.
    client.flush().await?;
    let context = async_nats::jetstream::new(client);
    let (started, size) = (SystemTime::now(), body.len());
    let stored = publish(connection, &context, &args, body, (&id, &reply, tracer)).await;
    let error = stored.as_ref().err().map(ToString::to_string);
    let about = about(connection, &args, &id, size, stored.as_ref().ok());
    tracer.published(&connection.namespace.to_string(), about, started, error);
    let sequence = stored?;
    if args.no_wait {
        let subject = connection.namespace.result_subject(&args.model, &reply);
        if args.json_output {
            table::json(&serde_json::json!({ "id": id, "sequence": sequence, "result_subject": subject }))?;
        } else {
            table::line(format!("job {id} is stored with sequence {sequence}; its result will be at {subject}"))?;
        }
        return Ok(());
    }
    match tokio::time::timeout(Duration::from_secs_f64(args.timeout), answers.next()).await {
        Ok(Some(message)) => answer(&args, &message),
        Ok(None) => Err(anyhow::anyhow!("the connection ended before the answer came").into()),
        Err(_) => Err(unanswered(connection, &context, &args, &id).await.into()),
    }
}

async fn publish(
    connection: &Connection,
    context: &Context,
    args: &Args,
    body: Vec<u8>,
    (id, reply, tracer): (&str, &Token, &Tracer),
) -> anyhow::Result<u64> {
    let mut headers = HeaderMap::new();
    let mut set = |name: &'static str, value: String| headers.insert(name, HeaderValue::from(value));
    set(header::JOB_ID, id.to_owned());
    set(header::REPLY, reply.to_string());
    set(header::TIMEOUT_MS, ((args.timeout * 1000.0).ceil() as u64).to_string());
    set(header::TRACEPARENT, tracer.context.to_string());
    if let Some(version) = &args.version {
        set(header::VERSION, version.to_string());
    }
    let subject = connection.namespace.job_subject(&args.model, args.lane);
    let stream = connection.namespace.stream("JOBS");
    let stored = match context.publish_with_headers(subject, headers, body.into()).await {
        Ok(ack) => ack.await,
        Err(error) => Err(error),
    };
    let ack = stored.map_err(|error| match error.kind() {
        PublishErrorKind::StreamNotFound => {
            anyhow::anyhow!("no stream takes the job: is there a stream {stream}? (gristmill setup creates it)")
        }
        _ => anyhow::anyhow!("the job was not stored: {error}"),
    })?;
    Ok(ack.sequence)
}

/// Attributes of the sender's span.
fn about(connection: &Connection, args: &Args, id: &str, size: usize, sequence: Option<&u64>) -> Vec<KeyValue> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let subject = connection.namespace.job_subject(&args.model, args.lane);
    let stored = sequence.map(|sequence| {
        let stream = KeyValue::new("messaging.nats.stream", connection.namespace.stream("JOBS"));
        [stream, KeyValue::new("messaging.nats.sequence", number(*sequence))]
    });
    let job = [
        KeyValue::new("messaging.destination.name", subject),
        KeyValue::new("messaging.message.conversation_id", id.to_owned()),
        KeyValue::new("messaging.message.body.size", number(size as u64)),
        KeyValue::new(attribute::MODEL, args.model.to_string()),
        KeyValue::new(attribute::LANE, args.lane.as_str()),
    ];
    job.into_iter().chain(stored.into_iter().flatten()).collect()
}

fn answer(args: &Args, message: &Message) -> Result<(), Failure> {
    let reply = Reply::decode(&message.payload).context("the answer")?;
    if args.json_output {
        table::json(&print::json(&reply, message.headers.as_ref()))?;
    } else {
        print::text(&reply, message.headers.as_ref())?;
    }
    match reply {
        Reply::Ok(_) => Ok(()),
        Reply::Error(error) => Err(Failure::with(3, anyhow::anyhow!("{}: {}", error.code, error.message))),
    }
}

/// Why there may be no answer: nobody serves the model, or it is slow.
async fn unanswered(connection: &Connection, context: &Context, args: &Args, id: &str) -> anyhow::Error {
    let consumer = gristmill_schemas::Namespace::consumer(&args.model, args.lane);
    let served = async {
        let stream = context.get_stream_no_info(connection.namespace.stream("JOBS")).await?;
        stream.consumer_info(&consumer).await?;
        anyhow::Ok(())
    };
    let why = match served.await {
        Ok(()) => "its workers are busy or gone (gristmill status tells)",
        Err(_) => "no worker ever served this model; the job stays in the stream until one does",
    };
    anyhow::anyhow!("no answer to job {id} of model {} within {} s: {why}", args.model, args.timeout)
}

/// The value of `NAME=VALUE`.
fn pair(text: &str) -> anyhow::Result<(&str, &str)> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name, value)),
        _ => bail!("{text:?} is not NAME=VALUE"),
    }
}

/// A job's body, encoded.
fn encode(inputs: Vec<gristmill_schemas::Tensor<'_>>, outputs: &[String]) -> Vec<u8> {
    let outputs = (!outputs.is_empty()).then(|| outputs.iter().map(String::as_str).collect());
    JobBody { id: None, inputs, outputs }.encode()
}
