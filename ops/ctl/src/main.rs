//! `gristmill`: the operator's and scorer's command. Talks to JetStream and to workers' admin pages; never links libtorch.

mod admin;
mod ask;
mod bench;
mod connection;
mod dlq;
mod error;
mod score;
mod setup;
mod status;
mod submit;
mod table;
mod top;
mod trace;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::connection::Connection;
use crate::error::Failure;

/// Operate Gristmill: streams and consumers, single jobs, dead letters, status.
#[derive(Parser)]
#[command(
    name = "gristmill",
    version,
    after_help = "Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the job was answered with an error; \
    4 setup found streams or consumers that differ; 5 some dead letters were skipped; 6 scoring stopped at --max-errors; \
    7 scoring was interrupted or cancelled.\n\nExamples:\n  \
    gristmill setup --model digits --dry-run\n  \
    gristmill submit digits --npy image=seven.npy\n  \
    gristmill score --model digits --input rows.parquet --output scored.parquet\n  \
    gristmill dlq ls --model digits --json\n  \
    gristmill dlq replay --code internal --newer-than 2h\n  \
    gristmill status --admin http://127.0.0.1:9470\n  \
    gristmill top\n  \
    gristmill bench digits --npy image=seven.npy --rate 500"
)]
struct Args {
    #[command(flatten)]
    connection: Connection,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create the streams and consumers that are missing
    Setup(setup::Args),
    /// Submit one job and print its result
    Submit(submit::Args),
    /// Score the rows of files
    Score(score::Args),
    /// Measure how long answers take under load
    Bench(bench::Args),
    /// List, show, replay and purge dead letters
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// Show models, waiting jobs and workers
    Status(status::Args),
    /// Watch models, lanes and workers live
    Top(top::Args),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  gristmill completions bash > /etc/bash_completion.d/gristmill")]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stderr, reason = "errors of a command line tool go to standard error")]
async fn main() -> ExitCode {
    let Args { connection, command } = Args::parse();
    let done = match command {
        Command::Setup(args) => setup::run(&connection, args).await,
        Command::Submit(args) => submit::run(&connection, args).await,
        Command::Score(args) => score::run(&connection, args).await,
        Command::Bench(args) => bench::run(&connection, args).await,
        Command::Dlq(command) => dlq::run(&connection, command).await,
        Command::Status(args) => status::run(&connection, args).await,
        Command::Top(args) => top::run(&connection, args).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "gristmill", &mut std::io::stdout());
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, error }) => {
            eprintln!("gristmill: {}", error::chain(&error));
            ExitCode::from(code)
        }
    }
}
