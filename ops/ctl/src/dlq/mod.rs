//! `gristmill dlq`: dead letters listed, shown, put back into their queues, deleted.

mod choice;
mod letter;
mod ls;
mod purge;
mod replay;
mod select;
mod show;
mod summary;

use async_nats::jetstream::stream::Stream;
use clap::Subcommand;

use crate::connection::Connection;
use crate::error::Failure;

/// What to do with dead letters.
#[derive(Subcommand)]
pub enum Command {
    /// List dead letters, oldest first
    Ls(ls::Args),
    /// Show one dead letter: why, where from, its headers and its body
    Show(show::Args),
    /// Put jobs back into their queues and delete their dead letters
    Replay(replay::Args),
    /// Delete dead letters, and with them the jobs they keep
    Purge(purge::Args),
}

/// Runs `gristmill dlq`.
pub async fn run(connection: &Connection, command: Command) -> Result<(), Failure> {
    let context = connection.jetstream().await?;
    let name = connection.namespace.stream("DLQ");
    let stream = context
        .get_stream(&name)
        .await
        .map_err(|error| anyhow::anyhow!("stream {name}: {error} (gristmill setup creates it)"))?;
    match command {
        Command::Ls(args) => ls::run(&connection.namespace, &stream, args).await,
        Command::Show(args) => show::run(&stream, args).await,
        Command::Replay(args) => {
            deletable(&stream)?;
            replay::run(&context, &connection.namespace, &stream, args).await
        }
        Command::Purge(args) => {
            deletable(&stream)?;
            purge::run(&context, &connection.namespace, &stream, args).await
        }
    }
}

/// Asked before anything is changed: a job put back whose dead letter then stays would be put back again.
fn deletable(stream: &Stream) -> anyhow::Result<()> {
    let config = &stream.cached_info().config;
    if config.deny_delete || config.sealed {
        anyhow::bail!("stream {} allows no deletion of single messages", config.name);
    }
    Ok(())
}
