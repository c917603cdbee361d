//! `gristmill-dashboards FILE` writes the dashboard; `gristmill-dashboards --expressions` lists its queries, one to a line,
//! as Prometheus takes them.

use std::io::{Error, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.as_slice() {
        [flag] if flag == "--expressions" => list(),
        [path] if !path.starts_with('-') => write(path),
        _ => Err(Error::other("usage: gristmill-dashboards FILE | --expressions")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "gristmill-dashboards: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(path: &str) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(&gristmill_dashboards::dashboard())?;
    std::fs::write(path, text + "\n").map_err(|error| Error::other(format!("{path}: {error}")))
}

fn list() -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    for expression in gristmill_dashboards::expressions() {
        writeln!(out, "{expression}")?;
    }
    out.flush()
}
