use std::io::{Write, stdout};

use serde::Serialize;

/// Prints rows below a header, columns aligned; nothing but the header where there are none.
pub fn print<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> std::io::Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = stdout().lock();
    let mut line = |cells: [&str; N]| {
        let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    line(header)?;
    rows.iter().try_for_each(|row| line(row.each_ref().map(String::as_str)))
}

/// Prints a value as JSON.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    writeln!(stdout().lock(), "{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}

/// Prints a line.
pub fn line(text: impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(stdout().lock(), "{text}")
}
