use async_nats::jetstream::stream::Stream;
use gristmill_schemas::{Namespace, dead_letter_header as dead, header, replays};
use serde_json::{Value, json};

use super::choice::Filter;
use super::letter::Letter;
use super::select::Selection;
use crate::error::Failure;
use crate::table;

/// A screenful or two; `--limit` asks for more.
const LIMIT: usize = 100;

/// Lists dead letters.
#[derive(clap::Args)]
#[command(after_help = "Shows 100 unless --limit says otherwise.\n\nExamples:\n  \
    gristmill dlq ls --model digits --limit 20\n  \
    gristmill dlq ls --code model_error --newer-than 2h --json")]
pub struct Args {
    #[command(flatten)]
    filter: Filter,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(namespace: &Namespace, stream: &Stream, args: Args) -> Result<(), Failure> {
    let limit = args.filter.limit.map_or(LIMIT, usize::from);
    let mut selection = Selection::open(namespace, stream, &[], &args.filter).await?;
    let mut letters = Vec::new();
    while letters.len() < limit
        && let Some(letter) = selection.next().await?
    {
        letters.push(letter);
    }
    if args.json {
        return Ok(table::json(&letters.iter().map(json).collect::<Vec<_>>())?);
    }
    let rows: Vec<_> = letters.iter().map(row).collect();
    Ok(table::print(["NUMBER", "AT (UTC)", "MODEL", "CODE", "ERROR"], &rows)?)
}

fn json(letter: &Letter) -> Value {
    json!({
        "sequence": letter.sequence,
        "at": letter.header(dead::AT),
        "model": letter.header(dead::MODEL),
        "code": letter.header(dead::CODE),
        "error": letter.header(dead::ERROR),
        "deliveries": letter.header(dead::DELIVERIES),
        "replays": replays(|name| letter.find(name)),
        "job_id": letter.header(header::JOB_ID),
        "bytes": letter.bytes,
    })
}

fn row(letter: &Letter) -> [String; 5] {
    let cut = |name, length| letter.header(name).chars().take(length).collect();
    let [model, code] = [dead::MODEL, dead::CODE].map(|name| letter.header(name).to_owned());
    [letter.sequence.to_string(), cut(dead::AT, 19), model, code, cut(dead::ERROR, 80)]
}
