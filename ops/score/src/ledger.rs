//! What is done, a line for each part: append-only, so that a run of any length costs the same for every part.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// One window that is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The window's number.
    pub window: u32,
    /// How often its failed rows had been sent once more.
    #[serde(default)]
    pub retries: u32,
    /// Its first row in the input.
    pub first_row: u64,
    /// Its rows.
    pub rows: u64,
    /// Those that failed; the others have outputs.
    pub errors: u64,
    /// Failed rows by code.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub codes: BTreeMap<String, u64>,
    /// The file of its rows.
    pub file: Stored,
    /// The file of its failed rows, where those are written apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Stored>,
    /// The outputs of all its rows, as an Arrow stream, where some failed: what is there need not be sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Stored>,
}

/// A file in the run's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Of its bytes.
    pub sha256: String,
}

/// Sums over parts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    /// Rows of the input.
    pub rows: u64,
    /// Those that failed.
    pub errors: u64,
    /// Failed rows by code.
    pub codes: BTreeMap<String, u64>,
}

impl Total {
    /// With one more part.
    pub fn add(&mut self, part: &Part) {
        self.rows += part.rows;
        self.errors += part.errors;
        part.codes.iter().for_each(|(code, rows)| *self.codes.entry(code.clone()).or_default() += rows);
    }

    /// Rows that have outputs.
    pub fn ok(&self) -> u64 {
        self.rows - self.errors
    }
}

/// The parts of a run. Owned by whoever writes parts.
pub struct Ledger {
    dir: PathBuf,
    file: File,
    parts: BTreeMap<u32, Part>,
    /// Windows in the order their parts were written.
    order: Vec<u32>,
    /// Of all parts, kept: adding one costs the same however many there are.
    total: Total,
}

impl Ledger {
    const FILE: &str = "parts.jsonl";

    /// Reads what is there. A last line that is cut off was not written: it is taken away.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(Self::FILE);
        let named = || path.display().to_string();
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).open(&path).with_context(named)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).with_context(named)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64).with_context(named)?;
        file.seek(SeekFrom::End(0)).with_context(named)?;
        let mut ledger =
            Self { dir: dir.into(), file, parts: BTreeMap::new(), order: Vec::new(), total: Total::default() };
        for (number, line) in
            text[..whole].split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty())
        {
            let part: Part =
                serde_json::from_slice(line).with_context(|| format!("{}, line {}", named(), number + 1))?;
            ledger.keep(part);
        }
        Ok(ledger)
    }

    fn keep(&mut self, part: Part) {
        let window = part.window;
        self.total.add(&part);
        if self.parts.insert(window, part).is_some() {
            self.order.retain(|known| *known != window);
            self.total = Total::default();
            self.parts.values().for_each(|part| self.total.add(part));
        }
        self.order.push(window);
    }

    /// Writes a file of the run so that it is there as a whole or not at all, whatever happens.
    pub fn store(&self, name: String, bytes: &[u8]) -> anyhow::Result<Stored> {
        let sha256 = hex(&Sha256::digest(bytes));
        replace(&self.dir.join(&name), |file| Ok(file.write_all(bytes)?))?;
        Ok(Stored { name, bytes: bytes.len() as u64, sha256 })
    }

    /// Adds a part whose files are stored. Those of the part that it replaces are removed.
    pub fn add(&mut self, part: Part) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(&part)?;
        line.push(b'\n');
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        written.with_context(|| self.dir.join(Self::FILE).display().to_string())?;
        let old = self.parts.get(&part.window).cloned();
        self.keep(part);
        let files = old.into_iter().flat_map(|old| [Some(old.file), old.failed, old.outputs]).flatten();
        // One that stays does no harm.
        files.for_each(|stored| drop(std::fs::remove_file(self.dir.join(stored.name))));
        Ok(())
    }

    /// A window's part, if it is done.
    pub fn part(&self, window: u32) -> Option<&Part> {
        self.parts.get(&window)
    }

    /// Every part, in the input's order.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.values()
    }

    /// Every part, in the order they were written.
    pub fn as_written(&self) -> impl Iterator<Item = &Part> {
        self.order.iter().filter_map(|window| self.parts.get(window))
    }

    /// Number and first row of the first window that is not done and has only done ones before it.
    pub fn next(&self) -> (u32, u64) {
        let follow = self.parts.values().enumerate().take_while(|(index, part)| part.window as usize == *index);
        follow.last().map_or((0, 0), |(_, part)| (part.window + 1, part.first_row + part.rows))
    }

    /// The sums.
    pub fn total(&self) -> Total {
        self.total.clone()
    }

    /// Proves that the parts are the input, each row once: windows follow each other without a gap.
    pub fn prove(&self) -> anyhow::Result<Total> {
        let mut row = 0;
        for (index, part) in self.parts.values().enumerate() {
            ensure!(part.window as usize == index, "window {index} has no part");
            ensure!(part.first_row == row, "window {index} begins with row {}, not {row}", part.first_row);
            let of_codes: u64 = part.codes.values().sum();
            ensure!(of_codes == part.errors, "window {index} has {} errors and {of_codes} codes", part.errors);
            row += part.rows;
        }
        Ok(self.total())
    }

    /// Removes the files of all parts, also of those that were replaced; the list of them stays.
    pub fn remove_files(&self) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("part-")) {
                std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
            }
        }
        Ok(())
    }

    /// A file of the run, as it was stored.
    pub fn read(&self, stored: &Stored) -> anyhow::Result<Bytes> {
        Self::read_from(&self.dir, stored)
    }

    /// The same, of a run in this directory.
    pub fn read_from(dir: &Path, stored: &Stored) -> anyhow::Result<Bytes> {
        let path = dir.join(&stored.name);
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        if bytes.len() as u64 != stored.bytes || hex(&Sha256::digest(&bytes)) != stored.sha256 {
            bail!("{} is not what was written: begin anew with --restart", path.display());
        }
        Ok(bytes.into())
    }
}

/// Replaces a file by write, sync and rename, so that it is there as a whole or not at all, and stays after a power cut.
pub fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let done = || {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&partial)?);
        write(&mut file)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        std::fs::rename(&partial, path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        // Makes the rename last.
        anyhow::Ok(File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?)
    };
    let done = done();
    if done.is_err() {
        // What is left would take the room that may be missing.
        drop(std::fs::remove_file(&partial));
    }
    done.with_context(|| path.display().to_string())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(ledger: &Ledger, window: u32) -> Part {
        let file = ledger.store(format!("part-{window}"), b"rows").unwrap();
        let first_row = u64::from(window) * 10;
        Part {
            window,
            retries: 0,
            first_row,
            rows: 10,
            errors: 0,
            codes: BTreeMap::new(),
            file,
            failed: None,
            outputs: None,
        }
    }

    #[test]
    fn a_ledger_goes_on_where_it_was_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        for window in [0, 2, 1] {
            let part = part(&ledger, window);
            ledger.add(part).unwrap();
        }
        let path = dir.path().join("parts.jsonl");
        let text = std::fs::read(&path).unwrap();
        let lines: Vec<usize> = text.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).collect();
        // Wherever it is cut: what is whole counts, and the rest can be added again.
        for cut in 0..=text.len() {
            std::fs::write(&path, &text[..cut]).unwrap();
            let mut ledger = Ledger::open(dir.path()).unwrap();
            let whole = lines.iter().filter(|end| **end <= cut).count();
            assert_eq!(ledger.parts().count(), whole, "cut at {cut}");
            assert_eq!(ledger.next(), [(0, 0), (1, 10), (1, 10), (3, 30)][whole]);
            assert_eq!(ledger.prove().is_ok(), whole != 2);
            for window in [0, 2, 1].into_iter().skip(whole) {
                let part = part(&ledger, window);
                ledger.add(part).unwrap();
            }
            assert_eq!(std::fs::read(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_part_that_was_changed_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        let stored = ledger.store("part".into(), b"rows").unwrap();
        assert_eq!(&ledger.read(&stored).unwrap()[..], b"rows");
        std::fs::write(dir.path().join("part"), b"sour").unwrap();
        assert!(ledger.read(&stored).unwrap_err().to_string().contains("is not what was written"));
    }
}
