//! A run: what it is known by, and the directory that it survives in.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::ledger::{Total, hex, replace};

/// Bytes of a file's beginning and end that count for its fingerprint.
const SAMPLE: u64 = 64 << 10;

/// What a run is made of. The same again is the same run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The input: each file with its length, time of change and a digest of its ends.
    pub input: Value,
    /// The model: name, version and digest.
    pub model: Value,
    /// Everything else that the output depends on.
    pub options: Value,
}

/// What a finished run came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// Rows and errors.
    pub total: Total,
    /// Length of the output.
    pub output_bytes: u64,
    /// Seconds that the last of its commands took.
    pub seconds: f64,
}

/// `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    run: String,
    /// How often failed rows were sent once more.
    #[serde(default)]
    retries: u32,
    facts: Facts,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    finished: Option<Finished>,
}

/// The directory of a run, locked for as long as this lives.
pub struct Run {
    dir: PathBuf,
    record: Record,
    _lock: File,
}

/// A run that can go on, or has nothing left to do.
pub enum Opened {
    /// It is new or goes on.
    Ready(Run),
    /// It was finished before.
    Finished(Run, Finished),
}

impl Facts {
    /// A token of 16 hex digits of the digest of all this.
    pub fn id(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        format!("run-{}", &hex(&Sha256::digest(&text))[..16])
    }

    /// What is not as it was, in words.
    fn differences(&self, was: &Self) -> Vec<String> {
        let mut found = Vec::new();
        compare("input", &self.input, &was.input, &mut found);
        compare("model", &self.model, &was.model, &mut found);
        compare("options", &self.options, &was.options, &mut found);
        found
    }
}

fn compare(name: &str, is: &Value, was: &Value, found: &mut Vec<String>) {
    match (is, was) {
        (Value::Object(now), Value::Object(then)) => {
            let keys: std::collections::BTreeSet<&String> = now.keys().chain(then.keys()).collect();
            for key in keys {
                compare(&format!("{name}.{key}"), &is[key.as_str()], &was[key.as_str()], found);
            }
        }
        (Value::Array(now), Value::Array(then)) if now.len() == then.len() => {
            now.iter()
                .zip(then)
                .enumerate()
                .for_each(|(at, (is, was))| compare(&format!("{name}[{at}]"), is, was, found));
        }
        _ if is != was => found.push(format!("{name} is {is}, was {was}")),
        _ => {}
    }
}

impl Run {
    const FILE: &str = "run.json";

    /// Where a run with this output keeps what it has.
    pub fn dir_of(output: &Path) -> PathBuf {
        let mut name = output.file_name().unwrap_or_default().to_owned();
        name.push(".run");
        output.with_file_name(name)
    }

    /// Makes the directory, or finds the run that is there and goes on with it. `restart`: begins anew whatever is there.
    /// `began`: a token that no other beginning has: the broker would take the jobs of one for those of another.
    pub fn open(output: &Path, facts: Facts, began: &str, restart: bool) -> anyhow::Result<Opened> {
        let dir = Self::dir_of(output);
        let named = || format!("the run's directory {}", dir.display());
        std::fs::create_dir_all(&dir).with_context(named)?;
        let lock = File::create(dir.join("lock")).with_context(named)?;
        if lock.try_lock().is_err() {
            bail!("another gristmill score works on {}", output.display());
        }
        let path = dir.join(Self::FILE);
        let was = match std::fs::read(&path) {
            _ if restart => None,
            Ok(text) => Some(text),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let Some(was) = was else {
            clear(&dir)?;
            let record = Record { run: format!("{}-{began}", facts.id()), retries: 0, facts, finished: None };
            let run = Self { dir, record, _lock: lock };
            run.save()?;
            return Ok(Opened::Ready(run));
        };
        let record: Record = serde_json::from_slice(&was).with_context(|| path.display().to_string())?;
        let differences = facts.differences(&record.facts);
        ensure!(
            differences.is_empty(),
            "{} was begun otherwise (begin anew with --restart): {}",
            output.display(),
            differences.join("; ")
        );
        let finished = record.finished.clone();
        let run = Self { dir, record, _lock: lock };
        let Some(finished) = finished else { return Ok(Opened::Ready(run)) };
        let bytes = std::fs::metadata(output).map(|meta| meta.len()).ok();
        ensure!(
            bytes == Some(finished.output_bytes),
            "{} was finished with {} bytes and is now {}: begin anew with --restart",
            output.display(),
            finished.output_bytes,
            bytes.map_or("gone".into(), |bytes| format!("{bytes} bytes long"))
        );
        Ok(Opened::Finished(run, finished))
    }

    /// The run's id, a token: that of its facts and of its beginning.
    pub fn id(&self) -> &str {
        &self.record.run
    }

    /// How often failed rows were sent once more.
    pub fn retries(&self) -> u32 {
        self.record.retries
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn save(&self) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(&self.record)?;
        replace(&self.dir.join(Self::FILE), |file| Ok(file.write_all(&text)?))
    }

    /// Notes the end.
    pub fn finish(&mut self, finished: Finished) -> anyhow::Result<()> {
        self.record.finished = Some(finished);
        self.save()
    }

    /// Opens a finished run again, to send failed rows once more.
    pub fn reopen(&mut self) -> anyhow::Result<()> {
        self.record.finished = None;
        self.record.retries += 1;
        self.save()
    }

    /// What is known of a run from its directory: its record, for people and scripts.
    pub fn peek(output: &Path) -> anyhow::Result<Value> {
        let path = Self::dir_of(output).join(Self::FILE);
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// Removes what an earlier run left, but for its lock.
fn clear(dir: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_name().is_none_or(|name| name != "lock") {
            std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// What a file is known by. Not all its bytes are read: who changes some in the middle changes the time, too.
pub fn fingerprint(path: &Path) -> anyhow::Result<Value> {
    let read = || {
        let mut file = File::open(path)?;
        let meta = file.metadata()?;
        let mut ends = Sha256::new();
        let mut sample = Vec::new();
        (&mut file).take(SAMPLE).read_to_end(&mut sample)?;
        ends.update(&sample);
        file.seek(SeekFrom::Start(meta.len().saturating_sub(SAMPLE)))?;
        sample.clear();
        file.take(SAMPLE).read_to_end(&mut sample)?;
        ends.update(&sample);
        let changed = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        std::io::Result::Ok((meta.len(), changed.as_nanos(), hex(&ends.finalize())))
    };
    let (bytes, changed, ends) = read().with_context(|| path.display().to_string())?;
    Ok(serde_json::json!({
        "file": path, "bytes": bytes, "changed_ns": changed.to_string(), "sha256_of_ends": ends,
    }))
}
