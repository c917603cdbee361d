use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Stream;
use gristmill_schemas::Namespace;

use super::choice::Choice;
use super::letter;
use super::select::Selection;
use super::summary::Summary;
use crate::error::Failure;

/// Deletes dead letters.
#[derive(clap::Args)]
#[command(
    after_help = "Needs numbers, a filter other than --limit, or --all. Exit code 5: some were skipped, because there \
    is none of that number.\n\nExamples:\n  \
    gristmill dlq purge 17 18\n  \
    gristmill dlq purge --model digits --older-than 7d --dry-run"
)]
pub struct Args {
    #[command(flatten)]
    choice: Choice,

    /// Say how many would be deleted, change nothing
    #[arg(long)]
    dry_run: bool,

    /// Print a summary as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: &Context, namespace: &Namespace, stream: &Stream, args: Args) -> Result<(), Failure> {
    let mut selection = Selection::open(namespace, stream, &args.choice.numbers, &args.choice.filter).await?;
    let mut summary = Summary::new("purged", args.dry_run);
    let ended = purge(context, stream, &mut selection, &mut summary).await;
    summary.close(selection, ended, args.json)
}

async fn purge(
    context: &Context,
    stream: &Stream,
    selection: &mut Selection<'_>,
    summary: &mut Summary,
) -> anyhow::Result<()> {
    while let Some(letter) = selection.next().await? {
        if !summary.dry_run {
            letter::delete(context, stream, letter.sequence).await?;
        }
        summary.done += 1;
    }
    Ok(())
}
