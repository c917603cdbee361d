use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gristmill_engine::{InputSpec, ModelFile, ModelFormat, OutputSpec, Pad, Signature};
use gristmill_schemas::Manifest;
use gristmill_schemas::manifest::{Format, Input, InvalidManifest};
use sha2::{Digest, Sha256};

use super::version;
use crate::datatype;
use crate::message::Served;
use crate::telemetry::Meters;

/// Why a model package is not served.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A file is missing or cannot be read.
    #[error("{file}: {source}")]
    File {
        /// Which.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// The manifest is wrong in itself.
    #[error("model.toml: {0}")]
    Manifest(#[from] InvalidManifest),
    /// The manifest speaks of another model than the directory.
    #[error("model.toml says {key} {have:?}, its directory says {want:?}")]
    Misplaced {
        /// `name` or `version`.
        key: &'static str,
        /// In the manifest.
        have: String,
        /// In the path.
        want: String,
    },
    /// The file is not the one the manifest was made for.
    #[error("{file} has sha256 {have}, model.toml says {want}")]
    Digest {
        /// Which.
        file: String,
        /// Of the bytes on disk.
        have: String,
        /// In the manifest.
        want: String,
    },
    /// The system has no thread to spare.
    #[error("cannot start an engine thread: {0}")]
    Thread(#[from] io::Error),
    /// The runtime refuses the model.
    #[error("{0}")]
    Load(String),
}

/// A package whose bytes match its manifest.
pub(super) struct Package {
    manifest: Manifest,
    pub(super) file: ModelFile,
}

/// The version directories to load: the highest of each model, or all.
pub(super) fn scan(dir: &Path, all_versions: bool) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for model in subdirs(dir)? {
        let mut versions = subdirs(&model)?;
        versions.retain(|path| path.join(Manifest::FILE_NAME).exists());
        versions.sort_by(|a, b| version::compare(&file_name(b), &file_name(a)));
        versions.truncate(if all_versions { usize::MAX } else { 1 });
        found.extend(versions);
    }
    Ok(found)
}

fn subdirs(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for entry in dir.read_dir()? {
        let path = entry?.path();
        if path.is_dir() && !file_name(&path).starts_with('.') {
            dirs.push(path);
        }
    }
    dirs.sort();
    Ok(dirs)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Package {
    /// Reads the manifest and checks the digest of the model file.
    pub(super) fn open(dir: &Path) -> Result<Self, PackageError> {
        let named = |file: &str| {
            let file = file.to_owned();
            move |source| PackageError::File { file, source }
        };
        let text = std::fs::read_to_string(dir.join(Manifest::FILE_NAME)).map_err(named(Manifest::FILE_NAME))?;
        let manifest = Manifest::parse(&text)?;
        let parent = dir.parent().map(file_name).unwrap_or_default();
        for (key, have, want) in
            [("name", manifest.name.as_str(), parent), ("version", manifest.version.as_str(), file_name(dir))]
        {
            if have != want {
                return Err(PackageError::Misplaced { key, have: have.into(), want });
            }
        }
        let path = dir.join(&manifest.file);
        let have = sha256(&path).map_err(named(&manifest.file))?;
        if have != manifest.sha256 {
            return Err(PackageError::Digest { file: manifest.file, have, want: manifest.sha256 });
        }
        let format = match manifest.format {
            Format::Torchscript => ModelFormat::TorchScript,
            Format::Aoti => ModelFormat::Aoti,
        };
        let signature = Arc::new(signature(&manifest));
        Ok(Self { file: ModelFile { path, format, signature }, manifest })
    }

    /// What senders need to know of the model.
    pub(super) fn takes(&self) -> gristmill_schemas::manifest::Signature {
        self.manifest.signature()
    }

    pub(super) fn served(&self, device: &str, meters: &Meters) -> Served {
        let batching = &self.manifest.batching;
        let digest = format!("sha256:{}", self.manifest.sha256);
        let (name, version) = (&self.manifest.name, &self.manifest.version);
        Served {
            meters: meters.model(name, version, &digest, device, batching.max_rows),
            name: name.clone(),
            version: version.clone(),
            digest,
            device: device.into(),
            signature: Arc::clone(&self.file.signature),
            max_rows: batching.max_rows,
            max_elements: batching.max_padded_elements.unwrap_or(usize::MAX),
            max_delay: Duration::from_millis(batching.max_delay_ms),
            to_knee: batching.knee,
            target: Some(Duration::from_millis(batching.target_ms)).filter(|target| !target.is_zero()),
            buckets: batching.buckets.clone(),
        }
    }
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn signature(manifest: &Manifest) -> Signature {
    const NOT_BYTES: &str = "a manifest with BYTES is refused when it is read";
    let dims = |shape: &[i64]| shape[1..].iter().map(|&dim| usize::try_from(dim).ok()).collect();
    let input = |input: &Input| InputSpec {
        name: input.name.clone(),
        dtype: datatype::host(input.datatype).expect(NOT_BYTES),
        dims: dims(&input.shape),
        range: input.range.map(|[low, high]| (low, high)),
        example: example(input),
        pad: manifest.padded_dim(input).map(|dim| Pad {
            dim: dim - 1,
            value: if input.mask { 0.0 } else { input.pad },
            is_mask: input.mask,
        }),
    };
    let outputs = manifest.outputs.iter().map(|output| OutputSpec {
        name: output.name.clone(),
        dtype: datatype::host(output.datatype).expect(NOT_BYTES),
        dims: dims(&output.shape),
    });
    Signature { inputs: manifest.inputs.iter().map(input).collect(), outputs: outputs.collect() }
}

fn example(input: &Input) -> Vec<usize> {
    let shape = input.example_shape.as_ref().unwrap_or(&input.shape);
    shape[1..].iter().map(|&dim| usize::try_from(dim).unwrap_or(1)).collect()
}
