use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A file format of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Apache Parquet.
    Parquet,
    /// Arrow IPC; files and streams are told apart when they are read, streams are written to standard output.
    Arrow,
    /// Comma-separated values with a header line.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// One NumPy array, its first dimension the rows. Read only.
    Npy,
}

impl Format {
    const ALL: [(Self, &'static str, &'static [&'static str]); 5] = [
        (Self::Parquet, "parquet", &["parquet", "pq"]),
        (Self::Arrow, "arrow", &["arrow", "arrows", "feather", "ipc"]),
        (Self::Csv, "csv", &["csv"]),
        (Self::Jsonl, "jsonl", &["jsonl", "ndjson"]),
        (Self::Npy, "npy", &["npy"]),
    ];

    /// The format that a file's name tells.
    pub fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Self::ALL.into_iter().find(|(_, _, known)| known.contains(&extension.as_str())).map(|(format, _, _)| format)
    }

    /// Whether it can be read and written without seeking.
    pub fn can_stream(self) -> bool {
        matches!(self, Self::Arrow | Self::Jsonl)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(format, _, _)| format == self).map_or("?", |(_, name, _)| name);
        f.write_str(name)
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(_, name, _)| *name == text);
        let known = Self::ALL.map(|(_, name, _)| name).join(", ");
        found.map(|(format, _, _)| *format).ok_or_else(|| format!("format {text:?} is none of {known}"))
    }
}
