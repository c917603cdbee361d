use std::collections::BTreeMap;

use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::stream::Stream;
use futures_util::{StreamExt, TryStreamExt};
use serde::Serialize;
use serde_json::{Value, json};

use crate::admin;
use crate::connection::Connection;
use crate::error::Failure;
use crate::table;

/// Shows each model's queues, jobs that no consumer covers, and the workers whose admin pages are named.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gristmill status --admin http://10.0.0.7:9470 --admin http://10.0.0.8:9470 --json")]
pub struct Args {
    /// Admin page of a worker; may be repeated
    #[arg(long, value_name = "URL", env = "GRISTMILL_ADMIN", value_delimiter = ',')]
    admin: Vec<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Status {
    queues: Vec<Queue>,
    /// Jobs by subject for which there is no consumer: nobody will ever take them.
    uncovered: BTreeMap<String, usize>,
    workers: Vec<Value>,
}

#[derive(Serialize)]
struct Queue {
    consumer: String,
    waiting: u64,
    in_flight: usize,
    redelivered: usize,
    /// Requests for jobs that wait on the server: none while jobs wait means that no worker is there.
    open_pulls: usize,
}

/// Runs `gristmill status`.
pub async fn run(connection: &Connection, args: Args) -> Result<(), Failure> {
    let context = connection.jetstream().await?;
    let name = connection.namespace.stream("JOBS");
    let stream = context.get_stream(&name).await;
    let stream = stream.map_err(|error| anyhow::anyhow!("stream {name}: {error} (gristmill setup creates it)"))?;
    let consumers: Vec<Info> = stream.consumers().try_collect().await?;
    let uncovered = uncovered(&stream, &consumers).await?;
    let mut workers = Vec::new();
    for base in &args.admin {
        // One that is gone must not hide the others.
        let answer = admin::status(base).await;
        workers.push(answer.unwrap_or_else(|error| json!({ "unreachable": base, "why": format!("{error:#}") })));
    }
    let gone = workers.iter().filter(|worker| !worker["unreachable"].is_null()).count();
    let queues = consumers.iter().map(|info| Queue {
        consumer: info.name.clone(),
        waiting: info.num_pending,
        in_flight: info.num_ack_pending,
        redelivered: info.num_redelivered,
        open_pulls: info.num_waiting,
    });
    let status = Status { queues: queues.collect(), uncovered, workers };
    if args.json {
        table::json(&status)?;
    } else {
        show(&status)?;
    }
    if gone > 0 {
        return Err(anyhow::anyhow!("{gone} of {} workers did not answer", status.workers.len()).into());
    }
    Ok(())
}

/// Jobs by subject for which there is no consumer.
pub async fn uncovered(stream: &Stream, consumers: &[Info]) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut subjects = stream.info_with_subjects(">").await?;
    let mut found = BTreeMap::new();
    while let Some(subject) = subjects.next().await {
        let (subject, count) = subject?;
        if !consumers.iter().any(|consumer| consumer.config.filter_subject == subject) {
            found.insert(subject, count);
        }
    }
    Ok(found)
}

fn show(status: &Status) -> anyhow::Result<()> {
    let rows: Vec<_> = status
        .queues
        .iter()
        .map(|q| {
            let [waiting, pulls] = [q.waiting.to_string(), q.open_pulls.to_string()];
            [q.consumer.clone(), waiting, q.in_flight.to_string(), q.redelivered.to_string(), pulls]
        })
        .collect();
    table::print(["QUEUE", "WAITING", "IN FLIGHT", "REDELIVERED", "OPEN PULLS"], &rows)?;
    if !status.uncovered.is_empty() {
        let rows: Vec<_> = status.uncovered.iter().map(|(subject, n)| [subject.clone(), n.to_string()]).collect();
        table::line("")?;
        table::print(["NO CONSUMER", "JOBS"], &rows)?;
    }
    for worker in &status.workers {
        show_worker(worker)?;
    }
    Ok(())
}

fn show_worker(worker: &Value) -> anyhow::Result<()> {
    if let Some(base) = worker["unreachable"].as_str() {
        return Ok(table::line(format!("\nworker {base}: {}", worker["why"].as_str().unwrap_or_default()))?);
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let ready = if worker["ready"] == true { "ready".to_owned() } else { format!("not ready: {}", worker["missing"]) };
    let permits = &worker["permits"];
    table::line(format!(
        "\nworker {} is {ready}; {} of {} jobs in flight",
        text(&worker["worker"]),
        permits["in_flight"],
        permits["limit"]
    ))?;
    let models = worker["models"].as_array().map_or(&[][..], Vec::as_slice);
    let rows: Vec<_> = models
        .iter()
        .map(|model| {
            let digest = text(&model["digest"]).chars().take(19).collect();
            let state = model["refused"].as_str().map_or_else(|| "serving".to_owned(), |why| format!("refused: {why}"));
            [text(&model["name"]), text(&model["version"]), text(&model["device"]), digest, state]
        })
        .collect();
    Ok(table::print(["MODEL", "VERSION", "DEVICE", "DIGEST", "STATE"], &rows)?)
}
